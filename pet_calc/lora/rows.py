"""Train some rows of an embedding: those of elements that the base does not know."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pet_calc.model.elements import is_embedding

if TYPE_CHECKING:
    from pet_calc.model.pet import PET

# marks a parameter of which only some rows train, and how many values these have
_MARK = "n_trained_values"


def train_element_rows(model: "PET", numbers: Sequence[int]) -> None:
    """Let the embeddings of some elements train, in place, and no other row of them.

    The gradient of the other rows is zero. So Adam leaves them bit for bit, and an
    average of weights too; weight decay must leave the parameter out.

    Args:
        model: with parameters that stay the same objects from now on.
        numbers: atomic numbers known to the model.
    """
    if not numbers:
        return
    rows = torch.tensor([model.atomic_types.index(z) for z in numbers])
    for name, parameter in model.named_parameters():
        if not is_embedding(name):
            continue
        mask = torch.zeros(len(model.atomic_types), 1, dtype=parameter.dtype)
        mask[rows] = 1.0

        def keep_rows(gradient: Tensor, mask: Tensor = mask) -> Tensor:
            return gradient * mask.to(gradient.device)

        parameter.requires_grad_(True)
        parameter.register_hook(keep_rows)
        setattr(parameter, _MARK, len(numbers) * parameter.shape[1])


def count_trained(parameter: nn.Parameter) -> int:
    """Return how many values of a parameter train."""
    if not parameter.requires_grad:
        return 0
    return int(getattr(parameter, _MARK, parameter.numel()))


def is_partly_trained(parameter: nn.Parameter) -> bool:
    """Return whether only some rows of a parameter train."""
    return parameter.requires_grad and hasattr(parameter, _MARK)

"""Muon: steps that are equally long in all directions of a matrix.

For the matrices between layers. With the mean M = U S V^T of a matrix's last gradients,
the step goes along U V^T, so that weak directions in which they agree count like strong
ones. U V^T comes from five Newton-Schulz iterations (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon). It is scaled to the size of Adam's steps, so
that one learning rate serves both (Liu et al. 2025, arXiv:2502.16982).

PyTorch has an optimizer of that name from 2.9 on. It iterates in bfloat16, which took
a processor without such products longer than the training step, and it knows no
matrices that consist of several.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.model.transformer import Attention, FeedForward

MOMENTUM = 0.95
# of a X + (b X X^T + c (X X^T)^2) X, which takes singular values in (0, 1] to near 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
# root mean square over a matrix of Adam's steps, in learning rates
ADAM_STEP = 0.2
# embeddings of four numbers, and one row per value: not of the kind
OTHER_LAYERS = ("edge_embedder", "last_layers")


class Muon(torch.optim.Optimizer):
    """Muon for matrices; ``n_parts`` of a group says how many are stacked in each."""

    def __init__(
        self, groups: list[dict[str, Any]], *, weight_decay: float = 0.0
    ) -> None:
        """Take parameter groups with ``params`` and ``n_parts``.

        Args:
            groups: of matrices [n_parts * n, m].
            weight_decay: decoupled, in learning rates.
        """
        super().__init__(groups, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            directions: dict[torch.Size, list[Tensor]] = {}
            moved: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                state["mean"].lerp_(weight.grad, 1.0 - MOMENTUM)
                # Nesterov's: the mean as the next gradient like this one would make it
                direction = weight.grad.lerp(state["mean"], MOMENTUM)
                parts = direction.unflatten(0, (group["n_parts"], -1))
                directions.setdefault(weight.shape, []).append(parts)
                moved.setdefault(weight.shape, []).append(weight)
            for shape, parts in directions.items():
                steps = orthogonalize(torch.cat(parts)).reshape(-1, *shape)
                longest = max(shape[0] // group["n_parts"], shape[1])
                for weight, step in zip(moved[shape], steps, strict=True):
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight.sub_(step, alpha=group["lr"] * ADAM_STEP * sqrt(longest))


class OptimizerPair:
    """Two optimizers of different parameters as one."""

    def __init__(
        self, first: torch.optim.Optimizer, second: torch.optim.Optimizer
    ) -> None:
        self._both = (first, second)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, to change in place."""
        return [group for part in self._both for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._both:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """Move all parameters."""
        for part in self._both:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` takes back."""
        return {"both": [part.state_dict() for part in self._both]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        for part, saved in zip(self._both, state["both"], strict=True):
            part.load_state_dict(saved)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return U V^T of each M = U S V^T, nearly: with singular values of 0.7 to 1.2.

    Args:
        matrices: [n, rows, columns]; a matrix of zeros stays zero.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(tiny)
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a
        )
    return x.mT if is_tall else x


def find_matrices(model: nn.Module) -> dict[Tensor, int]:
    """Return the trainable matrices between layers, and of how many each consists.

    Those of queries, keys and values are one above the other in the model, and so are
    those of value and gate.
    """
    n_parts: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            n_parts[module.input_linear] = 3
        elif isinstance(module, FeedForward) and module.is_gated:
            n_parts[module.w_in] = 2
    return {
        module.weight: n_parts.get(module, 1)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and not any(name in path for name in OTHER_LAYERS)
    }

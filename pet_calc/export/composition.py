"""Composition energies that survive what programs do to a TorchScript file."""

import torch
from torch import Tensor, nn

from pet_calc.model.tables import TargetTable


class CompositionTable(nn.Module):
    """Composition energies in float64 that ``Module.to(dtype)`` cannot touch.

    The buffer holds the bits of the numbers as int64: ``to(dtype)`` casts floating
    tensors only, and TorchScript does not keep ``TargetTable``'s own protection.
    """

    bits: Tensor

    def __init__(self, table: TargetTable) -> None:
        super().__init__()
        self.register_buffer("bits", keep_bits(table.composition))

    def forward(self, species: Tensor) -> Tensor:
        """Return the composition part per atom, [n_atoms, n_values] float64."""
        return restore_bits(self.bits).index_select(0, species)


def keep_bits(values: Tensor) -> Tensor:
    """Return the bits of float64 numbers as int64, which no cast of dtypes touches."""
    values = values.detach().to(torch.float64).contiguous()
    # a clone: tensors that share storage would be saved with one dtype
    return values.view(torch.int64).clone()


def restore_bits(bits: Tensor) -> Tensor:
    """Return the float64 numbers whose bits these are."""
    if bits.dtype != torch.int64:
        raise RuntimeError(
            "the tables of this model were cast to another dtype; load the file "
            "again and move it with .to(device) only"
        )
    # TorchScript does not know Tensor.view(dtype)
    return torch.view_copy(bits, dtype=torch.float64)

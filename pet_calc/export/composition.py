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
        values = table.composition.detach().to(torch.float64).contiguous()
        # a clone: tensors that share storage would be saved with one dtype
        self.register_buffer("bits", values.view(torch.int64).clone())

    def forward(self, species: Tensor) -> Tensor:
        """Return the composition part per atom, [n_atoms, n_values] float64."""
        if self.bits.dtype != torch.int64:
            raise RuntimeError(
                "the tables of this model were cast to another dtype; load the file "
                "again and move it with .to(device) only"
            )
        # TorchScript does not know Tensor.view(dtype)
        bits = self.bits.index_select(0, species)
        return torch.view_copy(bits, dtype=torch.float64)

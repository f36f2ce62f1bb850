"""Total charge and spin multiplicity as an input of the model."""

import torch
from torch import Tensor, nn


class SystemConditioning(nn.Module):
    """Turns charge and spin multiplicity into an addition to every node token.

    The last layer starts at zero, so a fresh conditioned model ignores both.
    """

    def __init__(
        self, d_node: int, max_charge: int, max_spin_multiplicity: int
    ) -> None:
        super().__init__()
        self.max_charge = max_charge
        self.max_spin_multiplicity = max_spin_multiplicity
        self.charge_embedding = nn.Embedding(2 * max_charge + 1, d_node)
        self.spin_multiplicity_embedding = nn.Embedding(max_spin_multiplicity, d_node)
        last = nn.Linear(d_node, d_node)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.project = nn.Sequential(nn.Linear(2 * d_node, d_node), nn.SiLU(), last)

    def forward(
        self, charges: Tensor, spin_multiplicities: Tensor, system_of_atom: Tensor
    ) -> Tensor:
        """Return [n_atoms, d_node].

        Args:
            charges: [n_systems] int64.
            spin_multiplicities: [n_systems] int64, 2S + 1.
            system_of_atom: [n_atoms] int64.

        Raises:
            ValueError: if a charge or a multiplicity lies outside the tables.
        """
        if bool((charges.abs() > self.max_charge).any()):
            raise ValueError(
                f"total charge outside -{self.max_charge} to {self.max_charge}, "
                "which is all that this model knows"
            )
        is_outside = (spin_multiplicities < 1) | (
            spin_multiplicities > self.max_spin_multiplicity
        )
        if bool(is_outside.any()):
            raise ValueError(
                f"spin multiplicity outside 1 to {self.max_spin_multiplicity}, "
                "which is all that this model knows"
            )
        charge = self.charge_embedding(charges + self.max_charge)
        spin = self.spin_multiplicity_embedding(spin_multiplicities - 1)
        addition = self.project(torch.cat([charge, spin], dim=1))
        return addition.index_select(0, system_of_atom)

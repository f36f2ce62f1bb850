"""Tables that surround the network: scale and composition energies of each target.

They are float64 whatever the network's dtype: composition energies of all-electron
methods reach 1e5 eV, where float32 would lose the meV.
"""

from typing import Any

import torch
from torch import Tensor, nn

TABLES = "baseline"
"""What state dicts call the tables, and files with them: a name that stays."""


def is_table(name: str) -> bool:
    """Return whether an entry of a state dict is a float64 table, not of the network.

    Those of ZBL are among them.
    """
    return name.startswith((f"{TABLES}.", "zbl."))


class TargetTable(nn.Module):
    """Scale and composition of one target, per species."""

    scale: Tensor
    composition: Tensor

    def __init__(self, n_species: int, n_properties: int, n_values: int) -> None:
        super().__init__()
        self.register_buffer(
            "scale", torch.ones((n_species, n_properties), dtype=torch.float64)
        )
        self.register_buffer(
            "composition", torch.zeros((n_species, n_values), dtype=torch.float64)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "TargetTable":
        # Module.to(dtype) would cast the tables; they follow the device only
        device = fn(torch.empty(0, device=self.scale.device)).device
        self.scale = self.scale.to(device)
        self.composition = self.composition.to(device)
        return self

    def forward(self, values: Tensor, species: Tensor) -> Tensor:
        """Return ``values`` times the scale of each atom's species.

        Args:
            values: [n_atoms, n_values] as the network gave them; the property is the
                last, fastest axis.
            species: [n_atoms] int64, species index.
        """
        scale = self.scale.index_select(0, species).to(values.dtype)
        n_components = values.shape[1] // scale.shape[1]
        return values * scale.repeat(1, n_components)


class TargetTables(nn.Module):
    """The tables of every target, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict()

    def add_target(
        self, name: str, n_species: int, n_properties: int, n_values: int
    ) -> None:
        """Add a table with scale 1 and no composition."""
        self.tables[name] = TargetTable(n_species, n_properties, n_values)

    def remove_target(self, name: str) -> None:
        """Drop the table of ``name``."""
        del self.tables[name]

    def scale(self, name: str, values: Tensor, species: Tensor) -> Tensor:
        """Return the scaled per-atom values of target ``name``."""
        for table_name, table in self.tables.items():
            if table_name == name:
                return table(values, species)
        raise RuntimeError("the model has no target " + name)

    def composition(self, name: str, species: Tensor) -> Tensor:
        """Return the composition part per atom, [n_atoms, n_values] float64."""
        for table_name, table in self.tables.items():
            if table_name == name:
                return table.composition.index_select(0, species)
        raise RuntimeError("the model has no target " + name)

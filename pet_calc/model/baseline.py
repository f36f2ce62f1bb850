"""What surrounds the network: output scale, composition energies, ZBL repulsion.

All tables are float64 whatever the network's dtype: composition energies of
all-electron methods reach 1e5 eV, where float32 would lose the meV.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.model import constants


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


class Baseline(nn.Module):
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


class ZBL(nn.Module):
    """Ziegler-Biersack-Littmark repulsion, switched off at touching covalent radii.

    The formula of LAMMPS' ``pair_style zbl`` with inner cutoff 0 and outer cutoff
    r_i + r_j: the added polynomial makes the energy and its first two derivatives
    vanish there.
    """

    covalent_radii: Tensor
    weights: Tensor
    decays: Tensor

    def __init__(self, n_species: int) -> None:
        super().__init__()
        self.register_buffer(
            "covalent_radii", torch.zeros(n_species, dtype=torch.float64)
        )
        weights = [0.02817, 0.28022, 0.50986, 0.18175]
        decays = [0.20162, 0.40290, 0.94229, 3.19980]
        self.register_buffer(
            "weights", torch.tensor(weights, dtype=torch.float64), persistent=False
        )
        self.register_buffer(
            "decays", torch.tensor(decays, dtype=torch.float64), persistent=False
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "ZBL":
        # as in TargetTable: the tables follow the device, not the dtype
        device = fn(torch.empty(0, device=self.weights.device)).device
        for name in ("covalent_radii", "weights", "decays"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def forward(
        self,
        distances: Tensor,
        atomic_numbers: Tensor,
        species: Tensor,
        centers: Tensor,
        neighbors: Tensor,
    ) -> Tensor:
        """Return the repulsion per atom, [n_atoms, 1] in eV, dtype of ``distances``.

        Args:
            distances: [n_pairs] in Å, of a full list (each pair counts half).
            atomic_numbers: [n_atoms] int64.
            species: [n_atoms] int64, species index.
            centers: [n_pairs] int64.
            neighbors: [n_pairs] int64.
        """
        dtype = distances.dtype
        radii = self.covalent_radii.to(dtype).index_select(0, species)
        reach = radii.index_select(0, centers) + radii.index_select(0, neighbors)
        # the polynomial is not meant for longer distances
        kept = torch.nonzero(distances.detach() <= reach).squeeze(1)
        centers = centers.index_select(0, kept)
        neighbors = neighbors.index_select(0, kept)
        reach = reach.index_select(0, kept)
        r = distances.index_select(0, kept)

        # models that carry ZBL were trained with these two rounded to float32
        charge = atomic_numbers.to(torch.float32)
        power = charge.pow(constants.SCREENING_POWER)
        screening = power.index_select(0, centers) + power.index_select(0, neighbors)
        lengths = (constants.SCREENING_LENGTH / screening).to(dtype)
        strength = constants.COULOMB * charge.index_select(0, centers)
        strength = (strength * charge.index_select(0, neighbors)).to(dtype)
        decays = self.decays.to(dtype).unsqueeze(1) / lengths
        weights = self.weights.to(dtype).unsqueeze(1)

        terms = weights * torch.exp(-decays * reach)
        phi = terms.sum(dim=0)
        d_phi = -(decays * terms).sum(dim=0)
        d2_phi = (decays.pow(2) * terms).sum(dim=0)
        energy_c = strength / reach * phi
        slope_c = strength / reach * (d_phi - phi / reach)
        curve_c = strength / reach * (d2_phi - 2 * d_phi / reach + 2 * phi / reach**2)
        a = (-3 * slope_c + reach * curve_c) / reach**2
        b = (2 * slope_c - reach * curve_c) / reach**3
        c = -energy_c + reach * slope_c / 2 - reach**2 * curve_c / 12

        bare = strength / r * (weights * torch.exp(-decays * r)).sum(dim=0)
        half = 0.5 * (bare + a / 3 * r**3 + b / 4 * r**4 + c)
        per_atom = torch.zeros(charge.shape[0], dtype=dtype, device=r.device)
        return per_atom.index_add(0, centers, half).unsqueeze(1)

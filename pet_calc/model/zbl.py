"""The ZBL repulsion of close atoms.

Its tables are float64 whatever the network's dtype.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.model import constants


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

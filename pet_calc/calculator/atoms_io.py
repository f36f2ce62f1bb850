"""One system in, results in ASE's names out: what the calculator's routes share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.calculator.uncertainty import ENERGIES_UNCERTAINTY, ENERGY_UNCERTAINTY
from pet_calc.data.neighbors import mask_cell
from pet_calc.data.pair_cache import PairCache
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction


def build_single_batch(
    atoms: Atoms,
    cache: PairCache,
    device: torch.device,
    charge: int = 0,
    spin_multiplicity: int = 1,
) -> Batch:
    """Return one system as a batch, positions in float64.

    Args:
        atoms: the system.
        cache: gives its neighbour list.
        device: where the batch goes.
        charge: of the whole system, in e.
        spin_multiplicity: 2S + 1 of the whole system.
    """
    pairs = cache.update(atoms.positions, np.asarray(atoms.cell), np.asarray(atoms.pbc))

    def to_float(values: Any) -> torch.Tensor:
        # float64 also for a float32 model: far from the origin, only differences
        # of positions are small enough to be rounded
        return torch.as_tensor(values, dtype=torch.float64).to(device)

    def to_int(values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64).to(device)

    return Batch(
        species=to_int(atoms.numbers),
        positions=to_float(atoms.positions),
        # not a product: what is not periodic may hold NaN
        cells=to_float(mask_cell(np.asarray(atoms.cell), atoms.pbc))[None],
        centers=to_int(pairs.centers),
        neighbors=to_int(pairs.neighbors),
        cell_shifts=to_int(pairs.cell_shifts),
        reverse=to_int(pairs.reverse),
        system_of_atom=to_int(np.zeros(len(atoms))),
        charges=to_int([charge]),
        spin_multiplicities=to_int([spin_multiplicity]),
    )


def name_results(prediction: Prediction) -> dict[str, Any]:
    """Return energy, free_energy, energies, and forces and stress where there are any.

    Args:
        prediction: of a single system.
    """
    energy = float(prediction.atomic_energies.sum())
    results = {
        "energy": energy,
        "free_energy": energy,
        "energies": to_numpy(prediction.atomic_energies),
    }
    if prediction.forces is not None:
        results["forces"] = to_numpy(prediction.forces)
    if prediction.stress is not None:
        stress = to_numpy(prediction.stress[0])
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    return results


def assemble_direct(
    values: dict[str, torch.Tensor], energy: str, forces: str, stress: str | None
) -> Prediction:
    """Return what energies and direct targets per atom say of a single system.

    Args:
        values: [n_atoms, n_values] float64 of each target, composition included.
        energy: name of the energy target.
        forces: likewise.
        stress: likewise; None where there is none.
    """
    pushes = values[forces].view(-1, 3)
    # as metatomic-ase does: a net force would make the whole system drift
    pushes = pushes - pushes.mean(dim=0, keepdim=True)
    energies = values[energy].squeeze(1)
    return Prediction(
        energies.sum().view(1),
        energies,
        pushes,
        None if stress is None else values[stress].sum(dim=0).view(1, 3, 3),
    )


def name_uncertainties(
    uncertainty: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> dict[str, Any]:
    """Return the uncertainties of the energy and of each atom's, in eV.

    Args:
        uncertainty: standard deviations [n] for features [n, n_features].
        features: [n_atoms, n_features], of a single system.
    """
    per_atom = features.to(torch.float64)
    return {
        ENERGY_UNCERTAINTY: float(uncertainty(per_atom.sum(dim=0, keepdim=True))),
        ENERGIES_UNCERTAINTY: to_numpy(uncertainty(per_atom)),
    }


def to_numpy(values: torch.Tensor) -> np.ndarray:
    """Return the values in float64."""
    return values.detach().cpu().numpy().astype(np.float64)

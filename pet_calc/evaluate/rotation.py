"""How much a model's predictions change when a frame is turned."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pet_calc.data.orientation import turn_rows, turn_tensors
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction


def turn_back(
    prediction: Prediction, matrices: Tensor, system_of_atom: Tensor
) -> Prediction:
    """Return what was predicted of turned systems, as it is for the systems unturned.

    Args:
        prediction: with forces and stress.
        matrices: [n_systems, 3, 3], by which the systems were turned.
        system_of_atom: [n_atoms].
    """
    forces, stress = (each.to(torch.float64) for each in _get_derived(prediction))
    back = matrices.transpose(1, 2)
    return prediction._replace(
        forces=turn_rows(forces, back, system_of_atom),
        stress=turn_tensors(stress, back),
    )


def average(found: Sequence[Prediction]) -> Prediction:
    """Return the mean of predictions of the same systems, turned back, in float64."""
    forces, stress = (
        torch.stack(values).to(torch.float64).mean(dim=0)
        for values in zip(*map(_get_derived, found), strict=True)
    )
    return Prediction(
        torch.stack([each.energy for each in found]).mean(dim=0),
        torch.stack([each.atomic_energies for each in found]).mean(dim=0),
        forces,
        stress,
    )


def compute_spreads(
    found: Sequence[Prediction], batch: Batch, n_atoms: Tensor
) -> dict[str, Tensor]:
    """Return the standard deviations over predictions of the same systems.

    Args:
        found: two or more, turned back.
        batch: the systems.
        n_atoms: [n_systems].

    Returns:
        ``energy`` [n_systems] in eV/atom; ``forces`` in eV/Å and ``stress`` in eV/Å^3,
        a component's, root mean square over components; stress of systems with a
        volume only.
    """
    energies = torch.stack([each.energy for each in found]) / n_atoms
    forces, stress = (
        torch.stack(values).to(torch.float64)
        for values in zip(*map(_get_derived, found), strict=True)
    )
    of_atom = forces.var(dim=0).mean(dim=1)
    n_systems = n_atoms.shape[0]
    of_system = of_atom.new_zeros(n_systems).index_add(0, batch.system_of_atom, of_atom)
    has_volume = torch.det(batch.cells).abs() > 0
    return {
        # one number a system: the mean of such deviations is too small for few
        # orientations, by a known factor
        "energy": energies.std(dim=0) / _bias_of_deviation(len(found)),
        "forces": (of_system / n_atoms).sqrt(),
        "stress": stress.var(dim=0).mean(dim=(1, 2)).sqrt()[has_volume],
    }


def _bias_of_deviation(n: int) -> float:
    """Return the mean sample standard deviation of n normal draws of deviation 1."""
    log_ratio = math.lgamma(n / 2) - math.lgamma((n - 1) / 2)
    return math.sqrt(2 / (n - 1)) * math.exp(log_ratio)


def _get_derived(prediction: Prediction) -> tuple[Tensor, Tensor]:
    assert prediction.forces is not None  # asked for
    assert prediction.stress is not None
    return prediction.forces, prediction.stress

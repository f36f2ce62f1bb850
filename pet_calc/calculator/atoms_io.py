"""One system in, results in ASE's names out: what the calculator's routes share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from pet_calc.calculator.targets import ChosenTargets
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


def join_predictions(predictions: Sequence[Prediction]) -> Prediction:
    """Return predictions of one system after the other as one, without features."""

    def join(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.cat(known) if known else None

    energy, energies, forces, stress = (
        join(parts) for parts in zip(*(each[:4] for each in predictions), strict=True)
    )
    assert energy is not None
    assert energies is not None
    return Prediction(energy, energies, forces, stress)


def read_results(results: Mapping[str, Any]) -> Prediction:
    """Return the prediction of one system that its results stand for."""
    stress = None
    if "stress" in results:
        stress = torch.from_numpy(voigt_6_to_full_3x3_stress(results["stress"]))[None]
    energy = torch.tensor([results["energy"]], dtype=torch.float64)
    energies, forces = (
        torch.as_tensor(results[name], dtype=torch.float64)
        for name in ("energies", "forces")
    )
    return Prediction(energy, energies, forces, stress)


def turn_atoms(atoms: Atoms, matrix: npt.NDArray[np.float64]) -> Atoms:
    """Return a copy turned about the origin: positions become Q r."""
    turned = atoms.copy()
    # constraints hold in one orientation
    turned.set_constraint()
    turned.set_cell(turned.cell.array @ matrix.T)
    turned.positions = turned.positions @ matrix.T
    return turned


def split_prediction(
    prediction: Prediction, batches: Sequence[Batch]
) -> list[Prediction]:
    """Return the parts of a prediction of joined batches, of one system each."""
    sizes = [len(batch.species) for batch in batches]

    def split(values: torch.Tensor | None, lengths: list[int] | int) -> Iterable[Any]:
        return [None] * len(batches) if values is None else values.split(lengths)

    parts = zip(
        split(prediction.energy, 1),
        split(prediction.atomic_energies, sizes),
        split(prediction.forces, sizes),
        split(prediction.stress, 1),
        split(prediction.features, sizes),
        strict=True,
    )
    return [Prediction(*each) for each in parts]


def put_direct(
    prediction: Prediction,
    values: Mapping[str, torch.Tensor],
    batch: Batch,
    chosen: ChosenTargets,
) -> Prediction:
    """Return the prediction with what direct targets say in place of derivatives.

    Args:
        prediction: with energies.
        values: [n_atoms, n_values] float64 of each direct target, composition included.
        batch: the systems.
        chosen: names of the targets.
    """
    n_systems = batch.cells.shape[0]
    owner = batch.system_of_atom
    if chosen.forces is not None:
        forces = values[chosen.forces].view(-1, 3)
        # as metatomic-ase does: a net force would make the whole system drift
        sizes = torch.bincount(owner, minlength=n_systems).clamp(min=1)
        sums = forces.new_zeros((n_systems, 3)).index_add(0, owner, forces)
        means = sums / sizes.unsqueeze(1)
        prediction = prediction._replace(forces=forces - means.index_select(0, owner))
    if chosen.stress is not None and chosen.stress in values:
        stress = values[chosen.stress].view(-1, 3, 3)
        sums = stress.new_zeros((n_systems, 3, 3)).index_add(0, owner, stress)
        prediction = prediction._replace(stress=sums)
    return prediction


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


def name_stresses(stresses: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the atoms' stresses [n_atoms, 3, 3] in Voigt order, [n_atoms, 6]."""
    found: npt.NDArray[np.float64] = full_3x3_to_voigt_6_stress(to_numpy(stresses))
    return found


def to_numpy(values: torch.Tensor) -> np.ndarray:
    """Return the values in float64."""
    return values.detach().cpu().numpy().astype(np.float64)

"""Do the files of pet-kokkos still say what the model says? pet-kokkos is asked."""

import copy
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from pet_calc.data.systems import build_batch
from pet_calc.errors import ExportError
from pet_calc.export.check import JITTER, SPACING, build_check_atoms
from pet_calc.model.derivatives import predict
from pet_calc.model.pet import PET

# relative to the largest value: roundings of a float32 network
TOLERANCE = 1e-4


def find_missing() -> str | None:
    """Return why pet-kokkos cannot be asked on this machine, None if it can."""
    if importlib.util.find_spec("pet_kokkos") is None:
        return "it is not installed (pip install pet-kokkos)"
    try:
        importlib.import_module("pet_kokkos")
    except ImportError as error:
        # a build for a GPU where there is no driver
        return " ".join(str(error).splitlines())
    return None


def check_pair(draft: Path, model: PET, target: str, path: Path) -> None:
    """Raise ``ExportError`` unless pet-kokkos says of the files what the model says.

    Compares energies, forces and virial of eight atoms in a periodic cube, and of a
    cluster with every element.

    Args:
        draft: path of the files, without ending.
        model: what they were made from, in float32 on the CPU.
        target: name of the energy.
        path: what to call the files in the message.
    """
    import pet_kokkos

    reference = copy.deepcopy(model).to(torch.float64)
    bulk, cluster = build_check_atoms(model), build_every_element(model)
    try:
        calculator = pet_kokkos.Calculator(str(draft.absolute()))
        for atoms in (bulk, cluster):
            found = run_kokkos(calculator, atoms)
            _compare(found, reference, atoms, target, path)
        calculator.close()
    except RuntimeError as error:
        raise ExportError(f"{path}: pet-kokkos cannot run it: {error}") from error


def build_every_element(model: PET) -> Atoms:
    """Return one atom of each of the model's elements, jittered, not periodic."""
    n_atoms = len(model.atomic_types)
    edge = int(np.ceil(np.cbrt(n_atoms)))
    grid = np.stack(np.unravel_index(np.arange(n_atoms), (edge,) * 3), axis=1)
    jitter = JITTER * np.random.default_rng(1).random((n_atoms, 3))
    return Atoms(model.atomic_types, SPACING * grid + jitter)


def run_kokkos(
    calculator: Any, atoms: Atoms, charge: int = 0, spin_multiplicity: int = 1
) -> dict[str, Any]:
    """Return what a ``pet_kokkos.Calculator`` says of a system of one atom or more.

    Energies are in eV, ``energies`` are per atom, ``virial`` is the volume times the
    stress, in the order xx, yy, zz, xy, xz, yz.
    """
    positions, cell = atoms.positions, None
    if atoms.pbc.any():
        # a cell without volume would be taken for none: open directions get a vector
        masked = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
        cell = Atoms(cell=masked).cell.complete().array
        # of small systems pet-kokkos 0.1.1 finds the neighbours only where all atoms
        # are in the cell; of others it loses pairs without a word
        turns = np.floor(positions @ np.linalg.inv(cell)) * atoms.pbc
        positions = positions - turns @ cell
    result: dict[str, Any] = calculator.compute(
        atoms.numbers,
        positions,
        cell,
        tuple(map(bool, atoms.pbc)),
        charge=charge,
        spin_multiplicity=spin_multiplicity,
    )
    return result


def _compare(
    found: dict[str, Any], model: PET, atoms: Atoms, target: str, path: Path
) -> None:
    batch = build_batch(atoms, model.pair_cutoff, dtype=torch.float64)
    is_bulk = bool(atoms.pbc.all())
    own = predict(model, batch, target, with_stress=is_bulk)
    assert own.forces is not None
    pairs = {
        "energies": (found["energies"], own.atomic_energies.numpy()),
        "forces": (found["forces"], own.forces.numpy()),
    }
    if is_bulk:
        assert own.stress is not None
        virial = own.stress[0].numpy() * atoms.get_volume()
        order = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
        pairs["virial"] = (found["virial"], virial[order])
    for what, (theirs, ours) in pairs.items():
        difference = float(np.abs(theirs - ours).max())
        allowed = TOLERANCE * max(float(np.abs(ours).max()), 1.0)
        # `not <=` catches NaN as well
        if not difference <= allowed:
            raise ExportError(
                f"{path}: {what} by pet-kokkos differ from the model's by "
                f"{difference:.2e} where {allowed:.2e} is allowed; nothing was written"
            )

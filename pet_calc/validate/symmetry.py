"""What must not change the energy, and what must double it."""

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from pet_calc.validate.potential import Answer, Potential
from pet_calc.validate.report import Row

_TO_MEV = 1000.0


def check_symmetry(
    potential: Potential, atoms: Atoms, n_orientations: int
) -> list[Row]:
    """Return the rows on translation, permutation, rotation, inversion and size.

    Args:
        potential: what is validated.
        atoms: with forces that are not zero.
        n_orientations: random ones, besides the given one.
    """
    generator = np.random.default_rng(2)
    order = generator.permutation(len(atoms))
    turns = Rotation.random(n_orientations, random_state=3).as_matrix()
    doubled, n_times = double(atoms, potential.reach)
    here, moved, permuted, inverted, twice, *turned = potential.evaluate(
        [
            atoms,
            _translate(atoms, generator.uniform(-20.0, 20.0, 3)),
            atoms[order],
            _turn(atoms, -np.eye(3)),
            doubled,
            *[_turn(atoms, turn) for turn in turns],
        ]
    )
    n_atoms, is_float32 = len(atoms), potential.is_float32
    per_atom = _TO_MEV / n_atoms
    energies = np.array([here.energy, *[answer.energy for answer in turned]])
    forces = np.stack(
        [here.forces]
        + [answer.forces @ turn for answer, turn in zip(turned, turns, strict=True)]
    )
    of_component = np.sqrt(forces.var(axis=0, ddof=1).mean())
    mirrored = _TO_MEV * np.abs(inverted.forces + here.forces).max()
    size = abs(twice.energy - n_times * here.energy) * per_atom / n_times
    n_shown = n_orientations + 1
    return [
        Row("translation", _compare(here, moved), is_float32=is_float32),
        Row(
            "permutation",
            _compare(here._replace(forces=here.forces[order]), permuted),
            is_float32=is_float32,
        ),
        Row(
            "extensivity",
            size,
            f"{n_times} times the cell"
            if atoms.pbc.any()
            else f"two copies beyond the reach of {potential.reach:g} Å",
            is_float32,
        ),
        Row(
            "rotation",
            float(energies.std(ddof=1)) * per_atom,
            f"{n_shown} orientations, {np.ptp(energies) * per_atom:.2g} meV/atom from "
            "lowest to highest",
            is_float32,
        ),
        Row(
            "rotation, forces",
            _TO_MEV * float(of_component),
            f"{n_shown} orientations; a force is {_rms(here):.2g} eV/Å (root mean "
            "square of components)",
            is_float32,
        ),
        Row(
            "inversion",
            abs(inverted.energy - here.energy) * per_atom,
            f"forces by up to {mirrored:.2g} meV/Å",
            is_float32,
        ),
    ]


def double(atoms: Atoms, reach: float) -> tuple[Atoms, int]:
    """Return the structure twice, and how many times it is there.

    A periodic one is repeated, another has a copy beyond the reach of the model, Å.
    """
    if atoms.pbc.any():
        lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
        repeats = [1, 1, 1]
        repeats[int(lengths.argmin())] = 2
        return atoms.repeat(repeats), 2
    size = float(np.ptp(atoms.positions, axis=0).max())
    copy = _translate(atoms, np.array([size + reach + 1.0, 0.0, 0.0]))
    return atoms + copy, 2


def _translate(atoms: Atoms, shift: np.ndarray) -> Atoms:
    copy = atoms.copy()
    copy.positions += shift
    return copy


def _turn(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Return the atoms and their cell turned: rows times the transposed matrix."""
    copy = atoms.copy()
    copy.set_cell(np.asarray(atoms.cell) @ matrix.T)
    copy.positions = atoms.positions @ matrix.T
    return copy


def _compare(one: Answer, other: Answer) -> float:
    """Return the larger change, of energy in meV/atom and of forces in meV/Å."""
    energy = abs(one.energy - other.energy) / len(one.forces)
    return _TO_MEV * max(energy, float(np.abs(one.forces - other.forces).max()))


def _rms(answer: Answer) -> float:
    return float(np.sqrt((answer.forces**2).mean()))

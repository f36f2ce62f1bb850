"""Forces and stress against differences of the energy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from pet_calc.data.labels import Array
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import Row

# Å (and strain), for float64 and float32: rounding against the fifth derivative
_STEP, _STEP_FLOAT32 = 1e-3, 2e-2
# central differences of fourth order: places in steps, and weights
_PLACES = np.array([-2.0, -1.0, 1.0, 2.0])
_WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
_TO_MEV = 1000.0


def check_forces(potential: Potential, atoms: Atoms, n_components: int) -> Row:
    """Compare components of forces, drawn at random, with differences.

    Args:
        potential: what is validated.
        atoms: with forces that are not zero.
        n_components: how many.
    """
    components = np.random.default_rng(0).permutation(3 * len(atoms))[:n_components]
    step = _choose_step(potential)
    moved = []
    for component in components.tolist():
        for place in _PLACES:
            copy = atoms.copy()
            copy.positions[component // 3, component % 3] += place * step
            moved.append(copy)
    here, *around = potential.evaluate([atoms, *moved])
    slopes = _differentiate(around, step)
    errors = np.abs(here.forces.reshape(-1)[components] + slopes)
    worst = int(errors.argmax())
    atom, axis = divmod(int(components[worst]), 3)
    largest = np.abs(here.forces).max()
    return Row(
        "forces",
        _TO_MEV * float(errors[worst]),
        f"{len(components)} components; worst of atom {atom} "
        f"({chemical_symbols[atoms.numbers[atom]]}) in {'xyz'[axis]}; largest force "
        f"{largest:.2g} eV/Å",
        potential.is_float32,
    )


def check_stress(potential: Potential, atoms: Atoms, n_strains: int) -> Row:
    """Compare the stress with differences, along strains drawn at random.

    Args:
        potential: what is validated.
        atoms: periodic in all directions.
        n_strains: how many.
    """
    generator = np.random.default_rng(1)
    strains = generator.standard_normal((n_strains, 3, 3))
    strains = strains + strains.transpose(0, 2, 1)
    strains /= np.linalg.norm(strains, axis=(1, 2))[:, None, None]
    step = _choose_step(potential)
    strained = []
    for strain in strains:
        for place in _PLACES:
            copy = atoms.copy()
            deformed = np.asarray(atoms.cell) @ (np.eye(3) + place * step * strain)
            copy.set_cell(deformed, scale_atoms=True)
            strained.append(copy)
    here, *around = potential.evaluate([atoms, *strained])
    assert here.stress is not None  # periodic
    slopes = _differentiate(around, step) / atoms.get_volume()
    errors = np.abs((here.stress * strains).sum(axis=(1, 2)) - slopes)
    return Row(
        "stress",
        _TO_MEV * float(errors.max()),
        f"{n_strains} strains; largest component {np.abs(here.stress).max():.2g} "
        "eV/Å^3",
        potential.is_float32,
    )


def _choose_step(potential: Potential) -> float:
    return _STEP_FLOAT32 if potential.is_float32 else _STEP


def _differentiate(answers: Sequence[Any], step: float) -> Array:
    energies = np.array([answer.energy for answer in answers]).reshape(-1, 4)
    slopes: Array = energies @ _WEIGHTS / step
    return slopes

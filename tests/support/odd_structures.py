"""Structures at odd places, and such as cannot be computed, for all routes."""

import numpy as np
from ase import Atoms
from support.structures import build_bulk, build_molecule

from pet_calc.errors import DataError, ModelError


def shift(atoms, distance):
    moved = atoms.copy()
    moved.positions += [distance, -distance, 0.5 * distance]
    return moved


def unwrap(atoms):
    """Every atom in another cell, as after a long run."""
    moved = atoms.copy()
    turns = np.random.default_rng(0).integers(-9999, 9999, (len(atoms), 3))
    moved.positions += turns @ atoms.cell.array
    return moved


def lengthen(atoms):
    """The same atoms in a cell with 1e6 Å of nothing."""
    long = atoms.copy()
    long.cell[2] = [0, 0, 1e6]
    return long


# what is odd, and what must be said of it: the same as of the other
SAME = {
    "100 A away": (lambda: shift(build_bulk(), 1e2), build_bulk),
    "1e6 A away": (lambda: shift(build_bulk(), 1e6), build_bulk),
    "a molecule 1e6 A away": (lambda: shift(build_molecule(), 1e6), build_molecule),
    "many cells away": (lambda: unwrap(build_bulk()), build_bulk),
    "a needle": (
        lambda: lengthen(build_bulk()),
        lambda: Atoms(build_bulk(), cell=[*build_bulk().cell[:2], [0, 0, 40.0]]),
    ),
    "two molecules 1e6 A apart": (
        lambda: build_molecule() + shift(build_molecule(), 1e6),
        lambda: build_molecule() + shift(build_molecule(), 30.0),
    ),
    "NaN where the cell does not matter": (
        lambda: Atoms(build_molecule(), cell=np.full((3, 3), np.nan)),
        build_molecule,
    ),
}


REFUSED = {
    "NaN position": (Atoms("O2", [[0, 0, 0], [np.nan, 0, 0]]), DataError, "atom 1"),
    "infinite": (Atoms("O2", [[0, 0, 0], [0, np.inf, 0]]), DataError, "atom 1"),
    "beyond float64": (Atoms("O2", [[0, 0, 0], [1e12, 0, 0]]), DataError, "1e.09 A"),
    "NaN cell": (
        Atoms("O", cell=[4, 4, np.nan], pbc=True),
        DataError,
        "the cell is not finite",
    ),
    "no cell": (Atoms("O", pbc=True), DataError, "zero or linearly dependent"),
    "one zero vector": (
        Atoms("O", cell=[4, 4, 0], pbc=True),
        DataError,
        "zero or linearly dependent",
    ),
    "flat cell": (
        Atoms("O", cell=[[4, 0, 0], [0, 4, 0], [4, 4, 0]], pbc=True),
        DataError,
        "zero or linearly dependent",
    ),
    "unknown element": (Atoms("U"), ModelError, "does not know U"),
}

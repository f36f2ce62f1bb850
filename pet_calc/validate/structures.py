"""The structure that a model is validated on, and what is made of it."""

from collections.abc import Collection

import ase.build
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.symbols import string2symbols

from pet_calc.data.frames import LabeledFrame, check_geometry
from pet_calc.errors import DataError

# of ASE's molecules and crystals, the first that a model knows; name, lattice, Å
_MOLECULES = ("CH3CH2OH", "H2O", "CH4", "NH3")
_CRYSTALS = (
    ("Si", "diamond", 5.43),
    ("Al", "fcc", 4.05),
    ("Cu", "fcc", 3.61),
    ("Fe", "bcc", 2.87),
    ("MgO", "rocksalt", 4.21),
    ("NaCl", "rocksalt", 5.64),
    ("LiF", "rocksalt", 4.03),
)
# fewer atoms have forces that are zero by symmetry
_LEAST_ATOMS = 8
# Å by which atoms are moved off symmetric places
RATTLE = 0.05


def build_structure(elements: Collection[int]) -> Atoms:
    """Return a molecule or a crystal of elements that a model knows."""
    known = set(elements)

    def is_known(formula: str) -> bool:
        return {atomic_numbers[s] for s in string2symbols(formula)} <= known

    for name in _MOLECULES:
        if is_known(ase.build.molecule(name).get_chemical_formula()):
            return ase.build.molecule(name)
    for name, lattice, length in _CRYSTALS:
        if is_known(name):
            return ase.build.bulk(name, lattice, a=length)
    number = min(known)
    distance = 2 * covalent_radii[number]
    return Atoms([number, number], [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


def check_structure(atoms: Atoms) -> None:
    """Raise ``DataError`` for what nothing can be computed of."""
    if len(atoms) == 0:
        raise DataError("the structure has no atoms")
    check_geometry(LabeledFrame.from_atoms(atoms, source="the structure"))


def describe_structure(atoms: Atoms) -> str:
    """Return formula, size and kind in one line."""
    n = len(atoms)
    kind = name_kind(atoms)
    return f"{atoms.get_chemical_formula()}, {n} atom{'s' if n > 1 else ''}, {kind}"


def name_kind(atoms: Atoms) -> str:
    """Return ``crystal`` (or liquid: periodic in all directions), ``slab``..."""
    n_periodic = int(atoms.pbc.sum())
    return ("molecule", "wire", "slab", "periodic in all directions")[n_periodic]


def grow(atoms: Atoms) -> Atoms:
    """Return a periodic structure repeated until it has some atoms."""
    atoms = atoms.copy()
    while atoms.pbc.any() and len(atoms) < _LEAST_ATOMS:
        lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
        repeats = [1, 1, 1]
        repeats[int(lengths.argmin())] = 2
        atoms = atoms.repeat(repeats)
    return atoms


def rattle(atoms: Atoms, size: float = RATTLE) -> Atoms:
    """Return a copy with its atoms moved a little, always in the same way."""
    copy = atoms.copy()
    copy.set_constraint()
    moves = np.random.default_rng(0).standard_normal((len(copy), 3))
    copy.positions += size * moves
    return copy

"""Constraints of a structure as LAMMPS's groups and fixes."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from pet_calc.errors import ConfigError
from pet_calc.lammps.orient import find_rotation

# a cell that LAMMPS holds as it is turns by less
SAME_AXES = 1e-6
# atoms in one line of a group command
IDS_PER_LINE = 12


class Frozen(NamedTuple):
    """Which atoms move, and the commands that hold the others."""

    groups: list[str]
    """Commands that define groups; empty without constraints."""
    holds: list[str]
    """Commands that hold them still, after velocities are there."""
    mover: str
    """Group of the atoms that move."""
    n_components: int
    """Of positions of atoms in ``mover`` that are fixed."""


def build_frozen(atoms: Atoms) -> Frozen:
    """Return the structure's constraints in LAMMPS's words.

    Raises:
        ConfigError: for constraints that are neither ``FixAtoms`` nor, in a cell that
            LAMMPS holds as it is, ``FixCartesian``; and if nothing is left to move.
    """
    fixed = _find_fixed_components(atoms)
    if not fixed.any():
        return Frozen([], [], "all", 0)
    if fixed.all():
        raise ConfigError(
            "all atoms of the structure are fixed: nothing would move; remove its "
            "constraints (atoms.set_constraint())"
        )
    groups, holds = [], []
    patterns = np.unique(fixed, axis=0)
    is_still = fixed.all(axis=1)
    for pattern in patterns[patterns.any(axis=1)]:
        name = "fixed_" + "".join(np.array(["x", "y", "z"])[pattern])
        members = np.flatnonzero((fixed == pattern).all(axis=1)) + 1
        groups += _build_group(name, members.tolist())
        zeros = " ".join("0.0" if is_fixed else "NULL" for is_fixed in pattern)
        holds.append(f"velocity       {name} set {zeros}")
        holds.append(f"fix            {name} {name} setforce {zeros}")
    mover = "all"
    if is_still.any():
        mover = "mobile"
        groups.append("group          mobile subtract all fixed_xyz")
    return Frozen(groups, holds, mover, int(fixed[~is_still].sum()))


def list_dropped(atoms: Atoms) -> list[str]:
    """Return what the structure says and LAMMPS does not get, a line each."""
    arrays = {
        "initial_magmoms": "initial magnetic moments",
        "initial_charges": "initial charges",
        "tags": "tags",
    }
    return [
        f"{name} of the structure are not in the run: the model does not read them"
        for key, name in arrays.items()
        if atoms.has(key) and np.any(atoms.get_array(key))
    ]


def _find_fixed_components(atoms: Atoms) -> np.ndarray:
    """Return which components of the positions are fixed, [n_atoms, 3]."""
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
        elif isinstance(constraint, FixCartesian):
            mask = np.asarray(constraint.mask, dtype=bool)
            if not mask.all() and np.abs(find_rotation(atoms) - np.eye(3)).max() > (
                SAME_AXES
            ):
                raise ConfigError(
                    "FixCartesian: LAMMPS holds this cell turned, so that x, y and z "
                    "are other directions there; turn the structure first "
                    "(pet_calc.lammps.orient), or fix whole atoms (FixAtoms)"
                )
            fixed[constraint.index] |= mask
        else:
            raise ConfigError(
                f"{type(constraint).__name__}: `lammps input` writes FixAtoms and "
                "FixCartesian only; remove this constraint (atoms.set_constraint()), "
                "and add a fix of LAMMPS's that does the same to the input"
            )
    return fixed


def _build_group(name: str, ids: list[int]) -> list[str]:
    """Return the commands that define a group; several add to it."""
    ranges: list[str] = []
    start = last = ids[0]
    for number in [*ids[1:], -1]:
        if number == last + 1:
            last = number
            continue
        ranges.append(f"{start}:{last}" if last > start else str(start))
        start = last = number
    return [
        f"group          {name} id {' '.join(ranges[k : k + IDS_PER_LINE])}"
        for k in range(0, len(ranges), IDS_PER_LINE)
    ]

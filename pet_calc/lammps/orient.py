"""The orientation of a structure that LAMMPS can hold."""

import numpy as np
from ase import Atoms

from pet_calc.data.neighbors import check_cell
from pet_calc.errors import DataError

# free space around the atoms in directions that are not periodic, Å
MARGIN = 5.0


def orient_for_lammps(atoms: Atoms) -> Atoms:
    """Return the structure turned so that a is along x and b in the xy plane.

    Positions and momenta are turned alike. Directions that are not periodic get a box
    vector at right angles to the others, around the atoms; a left-handed cell gets its
    last periodic vector reversed, which is the same lattice.

    PET is not exactly invariant to rotation: compare LAMMPS with the calculator on what
    this returns.

    Raises:
        DataError: without atoms, or if the periodic vectors span no lattice.
    """
    if len(atoms) == 0:
        raise DataError("the structure has no atoms")
    check_cell(atoms.cell.array, atoms.pbc)
    turned = atoms.copy()
    turned.set_constraint()
    cell = _complete_cell(atoms)
    for k in np.flatnonzero(~atoms.pbc):
        axis = cell[k] / np.linalg.norm(cell[k])
        along = turned.positions @ axis
        turned.positions += np.outer(np.full(len(along), MARGIN - along.min()), axis)
    lower = _make_lower(cell)
    rotation = find_rotation(atoms)
    turned.set_cell(lower)
    turned.positions = turned.positions @ rotation
    if turned.has("momenta"):
        turned.set_momenta(turned.get_momenta() @ rotation)
    return turned


def find_rotation(atoms: Atoms) -> np.ndarray:
    """Return the matrix that turns row vectors as ``orient_for_lammps`` does."""
    cell = _complete_cell(atoms)
    return np.linalg.solve(cell, _make_lower(cell))


def _complete_cell(atoms: Atoms) -> np.ndarray:
    """Return a right-handed cell with a box vector for each open direction."""
    periodic = np.asarray(atoms.pbc, bool)
    cell = np.array(atoms.cell.array, dtype=float)
    # orthonormal rows at right angles to the periodic vectors
    if periodic.any():
        basis = np.linalg.svd(cell[periodic])[2][periodic.sum() :]
    else:
        basis = np.eye(3)
    for k, direction in zip(np.flatnonzero(~periodic), basis, strict=True):
        extent = np.ptp(atoms.positions @ direction)
        cell[k] = direction * (extent + 2.0 * MARGIN)
    if np.linalg.det(cell) < 0.0:
        # an open direction if there is one: its sign means nothing
        last = np.flatnonzero(~periodic if not periodic.all() else periodic)[-1]
        cell[last] *= -1.0
    return cell


def _make_lower(cell: np.ndarray) -> np.ndarray:
    """Return the rotated cell that is lower triangular with a positive diagonal."""
    upper = np.linalg.qr(cell.T)[1]
    signs = np.sign(np.diag(upper))
    return (signs[:, None] * upper).T

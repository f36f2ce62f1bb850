"""Turned, and otherwise the same."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from support.structures import build_bulk, build_molecule, heat

from pet_calc.errors import DataError
from pet_calc.lammps.orient import orient_for_lammps

RANDOM_TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


def turn(atoms):
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ RANDOM_TURN)
    atoms.positions = atoms.positions @ RANDOM_TURN
    return atoms


def build_wire(axis):
    """One periodic direction; the cell says nothing of the others."""
    atoms = build_molecule()
    atoms.cell[axis] = np.roll([3.0, 1.0, 2.0], axis)
    atoms.pbc = np.arange(3) == axis
    return atoms


SLAB = ase.build.fcc111("Al", (1, 2, 2), a=4.05, vacuum=6.0)
CASES = {
    "bulk": turn(build_bulk()),
    "molecule": build_molecule(),
    "atom": Atoms("O"),
    "slab": turn(SLAB),
    "standing slab": Atoms(SLAB, cell=SLAB.cell[[2, 0, 1]], pbc=[False, True, True]),
    "slab without height": Atoms(SLAB, cell=[*SLAB.cell[:2], [0, 0, 0]]),
    **{f"wire {axis}": build_wire(axis) for axis in range(3)},
}


@pytest.mark.parametrize("name", CASES)
def test_distances_and_handedness_are_kept(name):
    atoms = CASES[name].copy()
    atoms.rattle(0.1, seed=1)
    heat(atoms)
    turned = orient_for_lammps(atoms)
    cell = turned.cell.array
    assert np.allclose(cell, np.tril(cell))
    assert (np.diag(cell) > 0).all()
    np.testing.assert_array_equal(turned.pbc, atoms.pbc)
    assert np.allclose(
        turned.get_all_distances(mic=True), atoms.get_all_distances(mic=True)
    )
    periodic = atoms.cell.array[atoms.pbc]
    assert np.allclose(
        abs(cell[atoms.pbc] @ cell[atoms.pbc].T), abs(periodic @ periodic.T)
    )
    # one rotation, no mirror: positions and momenta span the same oriented volumes
    for before, after in (
        (np.diff(atoms.positions, axis=0), np.diff(turned.positions, axis=0)),
        (atoms.get_momenta(), turned.get_momenta()),
    ):
        if len(before) >= 3:
            assert np.linalg.det(after[:3]) == pytest.approx(
                np.linalg.det(before[:3]), abs=1e-9
            )


@pytest.mark.parametrize("name", CASES)
def test_atoms_lie_in_an_open_box_with_room(name):
    turned = orient_for_lammps(CASES[name])
    scaled = turned.get_scaled_positions(wrap=False)[:, ~turned.pbc]
    assert (scaled > 0.0).all()
    assert (scaled < 1.0).all()


def test_a_turned_structure_is_left_alone():
    once = orient_for_lammps(CASES["bulk"])
    twice = orient_for_lammps(once)
    np.testing.assert_allclose(twice.positions, once.positions, atol=1e-12)


def test_what_lammps_cannot_hold_is_an_error():
    with pytest.raises(DataError, match="no atoms"):
        orient_for_lammps(Atoms())
    with pytest.raises(DataError, match="linearly dependent"):
        orient_for_lammps(Atoms("O", cell=[1, 0, 1], pbc=True))

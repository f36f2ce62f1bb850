"""Frames that no calculation should be spent on."""

import ase.build
import pytest

from pet_calc.data.frames import LabeledFrame
from pet_calc.select.physical import EXPLODED, OVERLAP, find_fault


def look(atoms, **limits):
    return find_fault(LabeledFrame.from_atoms(atoms), **limits)


def move(atom, along_x):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.positions[atom] = atoms.positions[0] + [along_x, 0.0, 0.0]
    return atoms


def test_sound_frames_have_no_fault():
    assert look(ase.build.molecule("CH3CH2OH")) is None
    assert look(ase.build.bulk("Si")) is None
    assert look(ase.Atoms("H")) is None


def test_overlapping_atoms_are_named_with_their_distance():
    kind, values = look(move(4, 0.3))
    assert kind == OVERLAP
    assert "0.30 A apart, 0.28 of their radii" in values
    assert look(move(4, 0.3), closest=0.25) is None
    assert look(move(4, 0.3), closest=0) is None


def test_an_atom_that_has_left_the_others_is_found():
    kind, values = look(move(4, 20.0))
    assert kind == EXPLODED
    assert "farther than 6 A" in values
    assert look(move(4, 20.0), loneliest=0) is None
    assert look(move(4, 20.0), loneliest=25.0) is None


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_a_frame_that_exploded_far_costs_neither_memory_nor_an_error(scale):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.positions *= scale
    assert look(atoms)[0] == EXPLODED

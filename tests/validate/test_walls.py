"""Walls between atoms: what is a hole, what a bond, and where it is."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from support.models import build_model
from support.potentials import build_potential

from pet_calc.validate import load_potential
from pet_calc.validate.dimers import judge_curves, scan_contacts, scan_dimers
from pet_calc.validate.walls import Curve, find_wall

SHARES = np.arange(0.3, 2.0, 0.02)


def find(energies, bond=1.0):
    return find_wall(SHARES * bond, energies, bond)


def morse(minimum, depth=5.0, width=4.0):
    """Has its wall at any distance."""
    x = np.exp(-width * (SHARES - minimum))
    return depth * (x**2 - 2 * x)


def dig(energies, place, depth):
    return energies - depth * np.exp(-(((SHARES - place) / 0.05) ** 2))


def test_a_curve_that_rises_has_a_wall():
    wall = find(morse(1.0))
    assert wall.height == 10.0
    assert not wall.is_hole


@pytest.mark.parametrize("minimum", [0.58, 0.7, 0.77, 0.95, 1.2])
def test_a_short_bond_is_no_hole(minimum):
    """Such as those of V2, BaO and N2."""
    assert not find(morse(minimum, width=8.0)).is_hole


def test_a_minimum_where_no_molecule_has_one_is_a_hole():
    wall = find(morse(0.45))
    assert wall.is_hole
    assert wall.height == 0.0


def test_the_top_before_a_hole_is_what_atoms_have_to_climb():
    energies = dig(morse(1.0, depth=3.0, width=1.5), 0.6, 20.0)
    wall = find(energies, bond=1.5)
    before = (SHARES > 0.6) & (SHARES < 1.0)
    top = energies[before].argmax()
    assert wall.is_hole
    lowest = energies[SHARES > 0.9].min()
    assert wall.height == pytest.approx(energies[before][top] - lowest)
    assert wall.place == pytest.approx(1.5 * SHARES[before][top])


def test_a_top_outside_of_where_bonds_end_counts_too():
    """A hole may begin before 0.8 of the radii; it is no bond."""
    wall = find(dig(morse(1.0, depth=1.0), 0.74, 20.0))
    assert wall.is_hole
    assert wall.place > 0.8


def test_a_hole_behind_a_wall_that_is_high_enough_is_none():
    assert not find(dig(morse(1.0), 0.32, 200.0)).is_hole


def test_a_shoulder_is_no_hole():
    steep = 30.0 * (1.0 - SHARES)
    assert not find(dig(steep, 0.7, 1.2)).is_hole


def test_bumps_far_out_do_not_count():
    energies = morse(1.0)
    energies[SHARES > 1.5] += 3.0 * np.sin(20 * SHARES[SHARES > 1.5])
    assert not find(energies).is_hole


def test_a_short_bond_behind_a_barrier_far_out_is_no_hole():
    """Such as a multiple bond of a model that binds it too weakly."""
    energies = morse(0.7, depth=2.0, width=6.0) + 3.0 * (SHARES < 1.6)
    assert energies[-1] < energies[SHARES > 0.6].min() + 3.0
    assert not find(energies).is_hole
    too_short = morse(0.45, depth=2.0, width=6.0) + 3.0 * (SHARES < 1.6)
    assert find(too_short).is_hole


def test_repulsion_alone_is_a_wall():
    assert find(5.0 / SHARES**6).height == 10.0


def test_a_low_wall_is_one_as_high_as_it_gets():
    wall = find(4.0 - 4.0 * SHARES)
    assert wall.height == pytest.approx(4.0 - 4.0 * 0.3 - (4.0 - 4.0 * SHARES[-1]))
    low = find(np.where(SHARES < 0.8, 0.8 - SHARES, 0.0))
    assert not low.is_hole
    assert low.height == pytest.approx(0.5, abs=0.01)
    assert low.place == pytest.approx(0.3)


def test_what_is_no_number_is_a_hole():
    energies = morse(1.0)
    energies[3] = np.nan
    wall = find(energies)
    assert wall.is_hole
    assert wall.place == pytest.approx(SHARES[3])


def test_a_curve_says_where_atoms_fall_in():
    bond = 1.5
    curve = Curve(("N", "O"), bond, SHARES * bond, dig(morse(1.0), 0.7, 20.0))
    assert curve.describe().startswith("N-O falls in over")
    assert f"at {curve.wall.place:.2f} Å" in curve.describe()
    assert Curve(("N", "N"), 1.0, SHARES, SHARES).describe() == (
        "N-N has no wall, falls in from 0.80 Å"
    )


def test_many_dimers_at_once_are_as_one_by_one():
    potential = build_potential()
    curves = {curve.name: curve for curve in scan_dimers(potential, [1, 8])}
    assert sorted(curves) == ["H-H", "H-O", "O-O"]
    curve = curves["H-O"]
    for k in (0, 20, -1):
        dimer = Atoms("HO", [[0, 0, 0], [0, 0, curve.distances[k]]])
        dimer.calc = potential.calculator
        energy = dimer.get_potential_energy()
        assert curve.energies[k] == pytest.approx(energy, rel=1e-10, abs=1e-9)


def test_a_hole_is_found_among_sound_pairs_and_is_named():
    curves = scan_dimers(build_potential("hole"), [1, 8])
    row = judge_curves("dimers", curves, build_potential())
    assert row.verdict == "fail"
    assert "falls in over" in row.detail
    place = curves[0].wall.place / curves[0].bond
    assert 0.72 < place < 0.9
    sound = scan_dimers(build_potential(), [1, 8])
    assert judge_curves("dimers", sound, build_potential()).verdict == "ok"


def test_neighbours_of_a_structure_are_pushed_together():
    radii = covalent_radii
    square = 1.1 * (radii[8] + radii[8]) * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    atoms = Atoms("O4", np.pad(square, ((0, 0), (0, 1))))
    (sound,) = scan_contacts(build_potential(), atoms)
    assert sound.name == "O-O"
    assert sound.energies[-1] == 0.0
    assert not sound.wall.is_hole
    (broken,) = scan_contacts(build_potential("hole"), atoms)
    assert broken.wall.is_hole


def test_contacts_go_through_the_boundary_of_a_cell():
    atoms = Atoms("O2", [[0.1, 0, 0], [5.4, 0, 0]], cell=[6.6, 6, 6], pbc=True)
    (curve,) = scan_contacts(build_potential(), atoms)
    assert curve.distances[-1] == pytest.approx(1.3)


def test_zbl_is_the_wall_of_a_network_and_without_it_there_is_none():
    """The network is random: only the repulsion knows that atoms do not merge."""
    with_zbl = build_model(zbl=True)
    assert find_lowest(with_zbl) >= 2.0
    with_zbl.zbl.covalent_radii.zero_()
    assert find_lowest(with_zbl) < 1.0


def test_a_wall_that_one_element_lacks_is_found_at_that_element():
    model = build_model(zbl=True)
    index = list(model.atomic_types).index(8)
    model.zbl.covalent_radii[index] = -0.6
    curves = scan_dimers(load_potential(model, compile=False), [8, 14])
    assert curves[0].name == "O-O"
    assert curves[0].wall.height < 2.0


def find_lowest(model):
    curves = scan_dimers(load_potential(model, compile=False), [1, 6, 8])
    return curves[0].wall.height

"""Vibrations, phonons and elastic constants against what is known of them."""

import ase.build
import numpy as np
import pytest
from ase import Atoms, units
from ase.data import covalent_radii
from support.potentials import build_potential

from pet_calc.validate.minimum import (
    check_crystal,
    check_molecule,
    choose_supercell,
    compute_elastic,
    compute_phonons,
    compute_vibrations,
    relax,
)


def test_the_vibration_of_two_atoms_is_that_of_the_formula():
    potential = build_potential()
    atoms, how = relax(potential, Atoms("O2", [[0, 0, 0], [0, 0.8, 1.1]]))
    assert how.startswith("relaxed in")
    (found,), _ = compute_vibrations(potential, atoms)
    # Lennard-Jones has a curvature of 72 depth / r^2; the cutoff changes it little
    distance = 2 * covalent_radii[8]
    curvature = 72 * 0.2 / distance**2 * units._e * 1e20
    omega = np.sqrt(curvature / (0.5 * atoms.get_masses()[0] * units._amu))
    expected = units._hbar * omega / units._e / units.invcm
    assert found == pytest.approx(expected, rel=0.1)


def test_a_molecule_has_as_many_vibrations_as_it_should():
    potential = build_potential()
    bent, _ = relax(potential, ase.build.molecule("H2O"))
    assert len(compute_vibrations(potential, bent)[0]) == 3
    straight = Atoms("O3", np.outer([-1.32, 0, 1.32], [0, 0, 1]))
    assert len(compute_vibrations(potential, straight)[0]) == 4


def test_a_saddle_point_has_an_imaginary_vibration():
    potential = build_potential()
    straight = Atoms("O3", np.outer([-1.31, 0, 1.31], [0, 0, 1]))
    modes, softest = compute_vibrations(potential, straight)
    assert modes[0] < -10
    # it bends
    np.testing.assert_allclose(softest[:, 2], 0.0, atol=1e-6)
    # it is left when relaxed: three of these atoms make a triangle
    assert check_molecule(potential, straight).verdict == "ok"


def test_a_crystal_that_is_no_minimum_has_imaginary_phonons_and_flows():
    potential = build_potential()
    simple = ase.build.bulk("Al", "sc", 2.4)
    modes, repeats = compute_phonons(simple, potential)
    assert repeats == "4x4x4"
    assert modes.min() < -50
    assert np.linalg.eigvalsh(compute_elastic(simple, potential))[0] < 0


def test_elastic_constants_of_a_cubic_crystal_have_its_symmetry():
    potential = build_potential()
    atoms, _ = relax(potential, ase.build.bulk("Al", "fcc", 3.3))
    constants = compute_elastic(atoms, potential)
    c11, c12, c44 = constants[0, 0], constants[0, 1], constants[3, 3]
    np.testing.assert_allclose(np.diag(constants), [c11] * 3 + [c44] * 3, rtol=1e-3)
    # pair potentials at zero pressure (Cauchy)
    assert c12 == pytest.approx(c44, rel=1e-2)
    assert c11 > c12 > 0


def test_rows_of_a_crystal_say_how_it_was_relaxed():
    modes, elastic = check_crystal(build_potential(), ase.build.bulk("Al", "fcc", 3.4))
    assert modes.verdict == elastic.verdict == "ok"
    assert "relaxed in" in modes.detail
    assert "volume" in modes.detail
    assert "bulk modulus" in elastic.detail


def test_supercells_have_the_boundary_of_the_zone():
    cells = {
        "fcc": ase.build.bulk("Al", "fcc", 4.05),
        "perovskite": Atoms("Al5", cell=[3.905] * 3, pbc=True),
        "flat": Atoms("Al", cell=[8.0, 8.0, 2.0], pbc=True),
        "large": Atoms("Al40", cell=[6.0] * 3, pbc=True),
    }
    found = {name: choose_supercell(cell) for name, cell in cells.items()}
    assert found["fcc"] == (4, 4, 4)
    assert found["perovskite"] == (2, 2, 2)
    assert found["flat"] == (1, 1, 4)
    # more than 128 atoms would take long
    assert found["large"] == (2, 1, 1)

"""The drift of a short run: told apart from vibrations, and what ends a run."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from support.potentials import build_potential

from pet_calc.validate.dynamics import check_drift, measure_drift


def test_vibrations_are_no_drift():
    times = np.arange(1000) * 0.5
    energies = 3.0 + 1e-4 * times + 0.5 * np.sin(2 * np.pi * times / 11.0 + 0.3)
    assert measure_drift(energies, 0.5) == pytest.approx(1e-4, rel=0.05)


def test_a_sound_potential_keeps_its_energy():
    row = check_drift(build_potential(), ase.build.molecule("H2O"), 0.05)
    assert row.verdict == "ok"
    assert "0.05 ps, 0.5 fs a step, 3 atoms, from 300 K" in row.detail


def test_forces_that_are_no_gradient_change_it():
    row = check_drift(build_potential("wrong force"), ase.build.molecule("H2O"), 0.05)
    assert row.verdict == "fail"


def test_atoms_that_fall_together_end_the_run():
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 0.78 * 1.32]])
    row = check_drift(build_potential("hole"), atoms, 0.05)
    assert row.verdict == "fail"
    assert np.isnan(row.value)
    assert "ended after" in row.detail


def test_the_given_atoms_do_not_move():
    atoms = ase.build.molecule("H2O")
    before = atoms.copy()
    check_drift(build_potential(), atoms, 0.01)
    assert atoms == before


def test_a_structure_with_absurd_forces_is_relaxed_before():
    atoms = ase.build.molecule("H2O")
    atoms.positions *= 0.75
    row = check_drift(build_potential(), atoms, 0.05)
    assert row.verdict == "ok", row.to_text()
    assert "relaxed first" in row.detail

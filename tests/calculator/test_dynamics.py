"""PETCalculator over many steps: caches, copies, dynamics, relaxation."""

import copy
import pickle

import ase.build
import ase.io
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from support.models import build_model
from support.structures import (
    assert_same,
    build_bulk,
    build_molecule,
    build_structures,
    get_results,
    heat,
)

from pet_calc import PETCalculator


def run(model, skin, n_steps=30):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model, skin=skin)
    heat(atoms)
    VelocityVerlet(atoms, 0.5 * units.fs).run(n_steps)
    return atoms


def test_the_skin_changes_no_result():
    model = build_model(num_neighbors_adaptive=8.0)
    without, with_skin = run(model, 0.0), run(model, 0.5)
    np.testing.assert_allclose(
        without.positions, with_skin.positions, rtol=0, atol=1e-9
    )
    one, other = (a.calc._backend.pairs.n_builds for a in (without, with_skin))
    assert one == 31
    assert other <= one / 5


def test_a_new_cell_pbc_or_species_is_seen(model):
    calculator = PETCalculator(model, skin=2.0)
    atoms = build_bulk()
    atoms.calc = calculator
    changes = [
        lambda: atoms.set_cell(atoms.cell * 1.01, scale_atoms=True),
        lambda: atoms.set_cell(atoms.cell * 1.01),
        lambda: atoms.set_pbc([True, True, False]),
        lambda: atoms.set_atomic_numbers([13] * 4 + [14] * 4),
        lambda: atoms.append("H"),
    ]
    energy = atoms.get_potential_energy()
    for change in changes:
        change()
        found = get_results(calculator, atoms)
        assert_same(found, get_results(PETCalculator(model), atoms))
        assert found["energy"] != energy
        energy = found["energy"]


def test_equal_structures_are_not_computed_again(model, monkeypatch):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model)
    energy = atoms.get_potential_energy()
    monkeypatch.setattr(atoms.calc, "calculate", None)
    atoms.get_forces(), atoms.get_stress()
    again = atoms.copy()
    assert again.calc is None
    again.calc = atoms.calc
    assert again.get_potential_energy() == energy


def test_several_structures_share_a_calculator(model):
    calculator = PETCalculator(model)
    structures = build_structures()
    moved = structures[1].copy()
    moved.rattle(0.02, seed=8)
    structures.append(moved)
    for atoms in structures:
        atoms.calc = calculator
    for _ in range(2):
        for atoms in structures:
            expected = get_results(PETCalculator(model), atoms)
            assert atoms.get_potential_energy() == pytest.approx(expected["energy"])
            np.testing.assert_allclose(
                atoms.get_forces(), expected["forces"], atol=1e-10
            )


def test_results_of_the_caller_stay_when_the_next_are_computed(model):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model)
    forces = atoms.get_forces()
    before = forces.copy()
    atoms.rattle(0.1)
    atoms.get_forces()
    np.testing.assert_array_equal(forces, before)


@pytest.mark.parametrize("is_exported", [False, True])
def test_it_can_be_copied(model, exported, is_exported):
    atoms = build_bulk()
    atoms.calc = PETCalculator(exported if is_exported else model)
    energy = atoms.get_potential_energy()
    twin = copy.deepcopy(atoms)
    assert twin.calc is not atoms.calc
    twin.rattle(0.1)
    assert twin.get_potential_energy() != energy
    assert atoms.calc.results["energy"] == energy


def test_it_can_be_pickled(model):
    calculator = pickle.loads(pickle.dumps(PETCalculator(model)))
    expected = get_results(PETCalculator(model), build_bulk())
    assert_same(expected, get_results(calculator, build_bulk()))


def test_dynamics_conserve_the_energy():
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    # forces as small as a trained model's
    model = build_model()
    model.baseline.tables["energy"].scale *= 0.05
    atoms.calc = PETCalculator(model)
    heat(atoms)
    totals, kinetic = [], []
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()))
    dynamics.run(60)
    # against what flows between the two kinds of energy
    assert np.ptp(totals) < 0.01 * np.ptp(kinetic)


def test_bfgs_lowers_energy_and_forces():
    model = build_model(zbl=True)
    atoms = build_molecule()
    atoms.calc = PETCalculator(model)
    energy, forces = atoms.get_potential_energy(), np.abs(atoms.get_forces()).max()
    BFGS(atoms, logfile=None, maxstep=0.05).run(fmax=0.05, steps=40)
    assert atoms.get_potential_energy() < energy
    assert np.abs(atoms.get_forces()).max() < forces


def test_results_survive_a_trajectory_file(model, tmp_path):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model)
    expected = atoms.get_potential_energy()
    for name in ("a.traj", "a.xyz"):
        ase.io.write(tmp_path / name, atoms)
        found = ase.io.read(tmp_path / name)
        assert found.get_potential_energy() == pytest.approx(expected)
        np.testing.assert_allclose(found.get_forces(), atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), atol=1e-7)

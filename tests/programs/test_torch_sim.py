"""torch-sim runs an exported file, batched.

Version 0.3.0, the last for Python 3.11, has a metatomic model of its own; from 0.5 on,
which needs Python 3.12, metatomic-torchsim brings it. The tests take what is installed.
"""

import importlib.util

import ase.build
import numpy as np
import pytest
import torch
from ase.optimize import FIRE
from support.models import build_model
from support.programs import require
from support.structures import build_bulk, build_triclinic, build_water

from pet_calc import PETCalculator
from pet_calc.checkpoint.open import load_merged_checkpoint
from pet_calc.export import export_model
from pet_calc.hub import find_model

# torch-sim 0.3.0 uses what torch and vesin call old today
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`compute_requested_neighbors` is deprecated"),
]
# eV/Å
FMAX = 2e-3


HAS_OWN_PACKAGE = importlib.util.find_spec("metatomic_torchsim") is not None


@pytest.fixture(scope="module")
def torch_sim():
    if not HAS_OWN_PACKAGE:
        require("vesin_torch", "vesin-torch")
    return require("torch_sim", "torch-sim-atomistic==0.3.0")


def load(path):
    """torch-sim's model of an exported file."""
    if HAS_OWN_PACKAGE:
        from metatomic_torchsim import MetatomicModel
    else:
        from torch_sim.models.metatomic import MetatomicModel
    # 0.3.0 takes text only
    return MetatomicModel(str(path), device="cpu")


def get_fire(torch_sim):
    optimizers = getattr(torch_sim, "Optimizer", torch_sim.optimizers)
    return optimizers.fire


@pytest.fixture(scope="module")
def model():
    return build_model(num_neighbors_adaptive=6.0)


@pytest.fixture
def loaded(torch_sim, model, tmp_path):
    return load(export_model(model, tmp_path / "model.pt", check=False))


def build_systems():
    """Cells of different sizes and shapes, in one batch."""
    return [build_bulk(), build_water((2, 2, 2)), build_triclinic()]


def split(values, systems):
    return np.split(values.numpy(), np.cumsum([len(a) for a in systems])[:-1])


def test_a_batch_has_the_energies_and_forces_of_the_model(torch_sim, model, loaded):
    systems = build_systems()
    state = torch_sim.io.atoms_to_state(systems, "cpu", torch.float64)
    found = loaded(state)
    calculator = PETCalculator(model, compile=False)
    forces = split(found["forces"], systems)
    for k, atoms in enumerate(systems):
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        assert float(found["energy"][k]) == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(forces[k], atoms.get_forces(), rtol=0, atol=1e-9)


def test_its_stress_is_the_model_s_before_it_is_symmetrised(torch_sim, model, loaded):
    """PET's strain gradient has an antisymmetric part, which torch-sim leaves in."""
    atoms = build_triclinic()
    state = torch_sim.io.atoms_to_state([atoms], "cpu", torch.float64)
    found = loaded(state)["stress"][0].numpy()
    atoms.calc = PETCalculator(model, compile=False)
    expected = atoms.get_stress(voigt=False)
    symmetric = 0.5 * (found + found.T)
    np.testing.assert_allclose(symmetric, expected, rtol=0, atol=1e-9)
    if not HAS_OWN_PACKAGE:
        assert np.abs(found - found.T).max() > 1e-5


@pytest.mark.slow
def test_batched_relaxation_ends_where_ase_s_does(torch_sim, tmp_path):
    """The bundled base, whose minima are those of real crystals."""
    base = find_model("pet-sevennet-xs")
    checkpoint = load_merged_checkpoint(base, dtype=torch.float64)
    path = export_model(checkpoint.build_model(), tmp_path / "base.pt", check=False)
    systems = [
        ase.build.bulk("Si", "diamond", 5.45, cubic=True),
        ase.build.bulk("Al", "fcc", 4.05, cubic=True),
        ase.build.bulk("NaCl", "rocksalt", 5.65),
    ]
    for seed, atoms in enumerate(systems):
        atoms.rattle(0.08, seed=seed)
    relaxed = torch_sim.optimize(
        system=systems,
        model=load(path),
        optimizer=get_fire(torch_sim),
        convergence_fn=torch_sim.runners.generate_force_convergence_fn(
            force_tol=FMAX, include_cell_forces=False
        ),
        max_steps=500,
    ).to_atoms()
    calculator = PETCalculator(base, dtype="float64", compile=False)
    for start, found in zip(systems, relaxed, strict=True):
        atoms = start.copy()
        atoms.calc = calculator
        assert FIRE(atoms, logfile=None).run(fmax=FMAX, steps=500)
        energy = calculator.get_potential_energy(found)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert energy < calculator.get_potential_energy(start) - 0.01
        forces = calculator.get_forces(found)
        assert np.linalg.norm(forces, axis=1).max() < FMAX
        # a crystal may slide as a whole
        shifts = found.positions - atoms.positions
        assert np.abs(shifts - shifts.mean(axis=0)).max() < 2e-3


def test_its_runner_relaxes_cells_of_all_sizes_below_a_force(torch_sim, model, loaded):
    systems = build_systems()
    final = torch_sim.optimize(
        system=systems,
        model=loaded,
        optimizer=get_fire(torch_sim),
        convergence_fn=torch_sim.runners.generate_force_convergence_fn(
            force_tol=0.5, include_cell_forces=False
        ),
        max_steps=200,
    )
    calculator = PETCalculator(model, compile=False)
    for before, after in zip(systems, final.to_atoms(), strict=True):
        energies = [calculator.get_potential_energy(a) for a in (before, after)]
        assert energies[1] < energies[0]
        forces = calculator.get_forces(after)
        assert np.linalg.norm(forces, axis=1).max() < 0.5

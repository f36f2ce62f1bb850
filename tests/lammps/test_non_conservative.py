"""``non_conservative on``: forces and stress of the model's direct outputs."""

import numpy as np
import pytest
from support.models import DIRECT, build_model
from support.structures import build_bulk

from pet_calc import PETCalculator
from pet_calc.export import export_model
from pet_calc.lammps import run_lammps
from pet_calc.model.hypers import TargetSpec

pytestmark = pytest.mark.lammps

ROD = {"cutoff": 3.0, "num_gnn_layers": 1}


def build_rod():
    atoms = build_bulk().repeat((10, 1, 1))
    atoms.rattle(0.1, seed=3)
    return atoms


@pytest.fixture(scope="module")
def found(tmp_path_factory, new_batch, orient):
    """Models, structures, and what LAMMPS says on one rank and on two."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "bulk": build_model(DIRECT),
        "variant": build_model([TargetSpec.for_energy("energy/pbe"), *DIRECT[1:]]),
        "rod": build_model(DIRECT, **ROD),
    }
    models["real"] = models["bulk"]
    structures = {name: orient(build_bulk()) for name in models}
    structures["rod"] = orient(build_rod())
    outcomes = []
    for n_ranks in (1, 2):
        batch = new_batch()
        for name, model in models.items():
            path = export_model(model, folder / f"{name}.pt", check=False)
            batch.add(
                name,
                structures[name],
                f"{path} non_conservative on check_consistency on",
                units="real" if name == "real" else "metal",
                processors=f"processors {n_ranks} 1 1",
            )
        outcomes.append(batch.run(n_ranks))
    return models, structures, outcomes


@pytest.mark.parametrize("name", ["bulk", "variant", "rod"])
def test_forces_and_stress_are_the_direct_ones(name, found):
    models, structures, (outcomes, _) = found
    atoms, outcome = structures[name].copy(), outcomes[name]
    atoms.calc = PETCalculator(models[name], device="cpu", non_conservative=True)
    assert outcome.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    # the calculator takes the mean force off; LAMMPS has `fix momentum` for that
    mean = outcome.forces.mean(axis=0)
    assert np.abs(mean).max() > 1e-3
    np.testing.assert_allclose(outcome.forces - mean, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(outcome.stress, atoms.get_stress(), atol=1e-9)
    atoms.calc = PETCalculator(models[name], device="cpu")
    assert np.abs(outcome.forces - atoms.get_forces()).max() > 0.1


@pytest.mark.parametrize("name", ["slab", "stressless"])
def test_a_pressure_that_there_is_not_is_nan(name, tmp_path, new_batch, orient):
    model = build_model(DIRECT if name == "slab" else DIRECT[:2])
    path = export_model(model, tmp_path / "model.pt", check=False)
    atoms = build_bulk()
    atoms.pbc[2] = name != "slab"
    atoms = orient(atoms)
    batch = new_batch()
    batch.add(name, atoms, f"{path} non_conservative on")
    # LAMMPS's variables refuse NaN
    text = batch.texts[0].split("print ")[0]
    (batch.folder / "in.lmp").write_text(text)
    done = run_lammps("in.lmp", cwd=batch.folder, capture=True)
    assert done.returncode == 0
    assert "WARNING: pair_style metatomic: the pressure will be NaN" in done.stdout
    forces = np.loadtxt(batch.folder / f"{name}.dump", skiprows=9)[:, 4:7]
    atoms.calc = PETCalculator(model, device="cpu", non_conservative=True)
    np.testing.assert_allclose(
        forces - forces.mean(axis=0), atoms.get_forces(), atol=1e-9
    )


def test_units_are_converted(found):
    from ase import units

    _, _, (outcomes, _) = found
    metal, real = outcomes["bulk"], outcomes["real"]
    kcal = units.kcal / units.mol
    np.testing.assert_allclose(real.forces * kcal, metal.forces, atol=1e-6)
    # pressures in atm
    atm = 1.01325 * real.stress
    np.testing.assert_allclose(atm, metal.stress, rtol=1e-6, atol=1e-9)


def test_two_ranks_are_one_rank(found):
    _, structures, (one, two) = found
    assert two["rod"].n_evaluated < 2 * 0.9 * len(structures["rod"])
    for a, b in zip(one["rod"][:5], two["rod"][:5], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)

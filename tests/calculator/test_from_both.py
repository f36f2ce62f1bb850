"""Both routes of the calculator: choice of targets, direct heads, charge and spin."""

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from metatomic_ase import MetatomicCalculator
from support.models import DIRECT, ENERGIES, build_model
from support.structures import (
    PROPERTIES,
    assert_same,
    build_batch,
    build_bulk,
    build_molecule,
    get_results,
)

from pet_calc import PETCalculator
from pet_calc.errors import (
    DataError,
    ModelError,
)
from pet_calc.export import export_model
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec


@pytest.fixture(scope="module")
def two_energies(tmp_path_factory):
    """A model in memory and its exported file."""
    model = build_model(ENERGIES)
    path = tmp_path_factory.mktemp("targets") / "m.pt"
    return model, export_model(model, path, check=False)


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """A model in memory and its exported file."""
    model = build_model(DIRECT)
    path = tmp_path_factory.mktemp("direct") / "m.pt"
    return model, export_model(model, path, check=False)


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A model in memory and its exported file."""
    model = build_model(system_conditioning=True)
    path = tmp_path_factory.mktemp("conditioned") / "m.pt"
    return model, export_model(model, path, check=False)


@pytest.mark.parametrize("kind", [0, 1], ids=["model", "exported"])
def test_a_target_is_named_in_full_or_by_its_variant(two_energies, kind):
    model = two_energies[0]
    energies = set()
    for variant in ("pbe", "scan"):
        batch = build_batch([build_molecule()], model)
        expected = float(predict(model, batch, f"energy/{variant}").energy[0])
        for target in (variant, f"energy/{variant}"):
            calculator = PETCalculator(two_energies[kind], target=target)
            assert calculator.target == f"energy/{variant}"
            energy = get_results(calculator, build_molecule())["energy"]
            assert energy == pytest.approx(expected, abs=1e-10)
        energies.add(expected)
    assert len(energies) == 2


@pytest.mark.parametrize("kind", [0, 1], ids=["model", "exported"])
@pytest.mark.parametrize("target", [None, "r2scan", "energy"])
def test_an_unclear_target_is_an_error_that_lists_them(two_energies, kind, target):
    with pytest.raises(ModelError, match="energy/pbe, energy/scan"):
        PETCalculator(two_energies[kind], target=target)


def test_energy_is_the_default_among_several():
    several = build_model([*ENERGIES, TargetSpec.for_energy()])
    assert PETCalculator(several).target == "energy"


def test_the_direct_heads_give_forces_and_stress(direct):
    atoms = build_bulk()
    found = get_results(PETCalculator(direct[0], non_conservative=True), atoms)
    derived = get_results(PETCalculator(direct[0]), atoms)
    assert found["energy"] == pytest.approx(derived["energy"], abs=1e-10)
    assert np.abs(found["forces"] - derived["forces"]).max() > 0.1
    assert np.abs(found["stress"] - derived["stress"]).max() > 1e-3


@pytest.mark.parametrize("atoms", [build_bulk(), build_molecule()], ids=str)
def test_metatomic_ase_gives_the_same(direct, atoms):
    # metatomic-ase subtracts the mean of the direct forces ("remove any spurious
    # net force") and leaves the stress as it is; so do we
    model, path = direct
    inner = MetatomicCalculator(path, non_conservative=True)
    names = [n for n in PROPERTIES if n != "stress" or atoms.pbc.all()]
    inner.calculate(atoms, names, ["positions"])
    expected = {name: inner.results[name] for name in names}
    for source in (model, path):
        calculator = PETCalculator(source, non_conservative=True)
        found = get_results(calculator, atoms)
        assert_same(expected, found)
        np.testing.assert_allclose(found["forces"].sum(axis=0), 0.0, atol=1e-10)


def test_the_heads_of_the_variant_are_taken():
    forces = TargetSpec("non_conservative_forces/pbe", "force", "eV/A", "atom")
    specs = [*ENERGIES, forces, DIRECT[1]]
    specs[2] = TargetSpec.from_dict({**forces.to_dict(), "components": [3]})
    model = build_model(specs)
    for target, expected in (
        ("pbe", "non_conservative_forces/pbe"),
        ("scan", "non_conservative_forces"),
    ):
        calculator = PETCalculator(model, target=target, non_conservative=True)
        found = get_results(calculator, build_molecule())["forces"]
        batch = build_batch([build_molecule()], model)
        vectors = batch.positions[batch.neighbors] - batch.positions[batch.centers]
        raw = model(batch, vectors, [expected])[expected].detach().numpy()
        np.testing.assert_allclose(found, raw - raw.mean(axis=0), atol=1e-10)


@pytest.mark.parametrize("is_exported", [False, True])
def test_a_model_without_them_is_an_error(model, exported, is_exported):
    with pytest.raises(ModelError, match=r"no direct .*forces.* energy"):
        PETCalculator(exported if is_exported else model, non_conservative=True)


@pytest.mark.parametrize("is_exported", [False, True])
def test_without_a_stress_head_there_is_no_stress(tmp_path, is_exported):
    source = build_model(DIRECT[:2])
    if is_exported:
        source = export_model(source, tmp_path / "m.pt", check=False)
    atoms = build_bulk()
    atoms.calc = PETCalculator(source, non_conservative=True)
    assert atoms.get_forces().shape == (8, 3)
    with pytest.raises(PropertyNotImplementedError, match="non_conservative=False"):
        atoms.get_stress()


@pytest.mark.parametrize("kind", [0, 1], ids=["model", "exported"])
def test_charge_and_spin_change_the_result_and_the_cache(conditioned, kind):
    atoms = build_molecule()
    atoms.calc = PETCalculator(conditioned[kind])
    model = conditioned[0]
    seen = set()
    for info in ({}, {"charge": -1}, {"charge": -1, "spin": 2}, {"charge": 0}):
        atoms.info = dict(info)
        energy = atoms.get_potential_energy()
        expected = predict(model, build_batch([atoms], model))
        assert energy == pytest.approx(float(expected.energy[0]), abs=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
        seen.add(round(energy, 6))
    assert len(seen) == 3
    atoms.info["spin_multiplicity"] = 3
    assert round(atoms.get_potential_energy(), 6) not in seen


def test_values_that_the_model_does_not_know_are_errors(conditioned):
    atoms = build_molecule()
    atoms.calc = PETCalculator(conditioned[0])
    for info, message in (
        ({"charge": 11}, "total charge 11.*-10 to 10"),
        ({"spin": 11}, "spin multiplicity 11.*1 to 10"),
    ):
        atoms.info = info
        with pytest.raises(ModelError, match=message):
            atoms.get_potential_energy()
    atoms.info = {"charge": 0.5}
    with pytest.raises(DataError, match="charge"):
        atoms.get_potential_energy()
    # the calculator goes on once the value is mended
    atoms.info = {"charge": 1}
    assert np.isfinite(atoms.get_potential_energy())


def test_other_models_do_not_read_them(model):
    atoms = build_molecule()
    atoms.calc = PETCalculator(model)
    energy = atoms.get_potential_energy()
    atoms.info = {"charge": "from the database", "spin": 0.5}
    assert atoms.get_potential_energy() == energy
    atoms.rattle(0.01)
    assert atoms.get_potential_energy() != energy


@pytest.mark.parametrize("compile", [False, True])
def test_the_total_charge_is_read_by_both_and_its_change_seen(tmp_path, compile):
    model = build_model(system_conditioning=True)
    export_model(model, tmp_path / "model.pt", check=False)
    for source in (model, tmp_path / "model.pt"):
        found = []
        for name in ("charge", "total_charge"):
            atoms = build_molecule()
            atoms.calc = PETCalculator(source, compile=compile)
            atoms.info[name] = 1
            first = atoms.get_potential_energy()
            atoms.info[name] = -1
            found.append((first, atoms.get_potential_energy()))
        assert found[0] == pytest.approx(found[1], rel=1e-12)
        assert found[0][0] != pytest.approx(found[0][1], rel=1e-9)

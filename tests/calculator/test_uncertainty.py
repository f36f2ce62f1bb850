"""What the calculator knows of its own uncertainty, by every route."""

import logging

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from support.llpr import build_fitted, build_uncertainty
from support.models import DIRECT, ENERGIES, build_model
from support.structures import build_batch, build_bulk, build_molecule

from pet_calc import PETCalculator
from pet_calc.calculator.scripted_file import ScriptedFile
from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.open import load_merged_model, load_uncertainties
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.errors import ConfigError, ModelError, UncertaintyError
from pet_calc.export import export_model
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import compute_features, compute_force_uncertainty

ROUTES = ["model", "exported"]
NAMES = ["energy_uncertainty", "energies_uncertainty", "forces_uncertainty"]


def write(folder, specs=None, **hypers):
    """A checkpoint with an uncertainty of each energy, and its export."""
    record = Checkpoint.from_model(build_model(specs, **hypers))
    model = load_merged_model(record)
    for k, (name, spec) in enumerate(record.targets.items()):
        if spec.is_energy:
            set_uncertainty(record, model, name, build_fitted(model, name, k))
    path = folder / "sure.ckpt"
    save_checkpoint(path, record)
    own = load_uncertainties(path)
    exported = folder / "sure.pt"
    export_model(model, exported, uncertainties=own, check=False)
    return {"model": path, "exported": exported}


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sure"))


def compute_expected(path, atoms, target="energy"):
    record = load_checkpoint(path)
    model, own = load_merged_model(record), load_uncertainties(record)[target]
    batch = build_batch([atoms], model)
    per_atom = compute_features(model, batch, target).double()
    return {
        "energy_uncertainty": own(per_atom.sum(dim=0)[None])[0],
        "energies_uncertainty": own(per_atom),
        "forces_uncertainty": compute_force_uncertainty(model, batch, target, own),
    }


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("atoms", [build_bulk(), build_molecule()], ids=str)
def test_it_gives_the_deviations_of_energy_atoms_and_forces(
    sure, route, atoms, compile
):
    calculator = PETCalculator(sure[route], compile=compile)
    expected = compute_expected(sure["model"], atoms)
    for name in NAMES:
        found = calculator.get_property(name, atoms)
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=1e-8, atol=1e-12)
        assert np.all(np.asarray(found) >= 0)
    # what was there before is still there, and equal to another calculator's
    plain = PETCalculator(sure[route], compile=compile)
    for name in ("energy", "forces"):
        np.testing.assert_array_equal(
            calculator.results[name], plain.get_property(name, atoms)
        )


# what the factor of the covariance leaves of a sum in another order
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-6}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_the_engine_and_pytorch_have_the_same(tmp_path, route, dtype):
    model = build_model(dtype=dtype)
    own = {"energy": build_uncertainty(build_model())}
    record = Checkpoint.from_model(model)
    set_uncertainty(record, model, "energy", build_fitted(build_model()))
    sources = {
        "model": record,
        "exported": export_model(
            model, tmp_path / "m.pt", uncertainties=own, check=False
        ),
    }
    for atoms in (build_bulk(), build_molecule()):
        engine, plain = (
            PETCalculator(sources[route], compile=compile) for compile in (True, False)
        )
        for name in NAMES[:2]:
            np.testing.assert_allclose(
                engine.get_property(name, atoms),
                plain.get_property(name, atoms),
                rtol=TOLERANCES[dtype],
            )


@pytest.mark.parametrize("order", [NAMES[:2], ["forces", *NAMES[:2]]], ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_with_the_engine_it_takes_no_other_pass(sure, route, order, monkeypatch):
    atoms = build_molecule()
    calculator = PETCalculator(sure[route], compile=True)
    expected = {name: calculator.get_property(name, atoms) for name in order}

    def refuse(*arguments):
        raise AssertionError("a pass by PyTorch")

    calculator = PETCalculator(sure[route], compile=True)
    monkeypatch.setattr(PET, "evaluate_with_features", refuse)
    monkeypatch.setattr(ScriptedFile, "_run_features", refuse)
    for name in order:
        np.testing.assert_array_equal(
            calculator.get_property(name, atoms), expected[name]
        )


@pytest.mark.parametrize("route", ROUTES)
def test_moved_atoms_have_another_one(sure, route):
    atoms = build_molecule()
    calculator = PETCalculator(sure[route])
    first = calculator.get_property("energy_uncertainty", atoms)
    atoms.rattle(0.05)
    second = calculator.get_property("energy_uncertainty", atoms)
    assert first != second
    assert second == pytest.approx(
        float(compute_expected(sure["model"], atoms)["energy_uncertainty"]), rel=1e-8
    )


@pytest.mark.parametrize("route", ROUTES)
def test_of_several_energies_it_is_that_of_the_target(tmp_path, route):
    files = write(tmp_path, ENERGIES)
    atoms = build_molecule()
    found = {
        name: PETCalculator(files[route], target=name).get_property(
            "energy_uncertainty", atoms
        )
        for name in ("energy/pbe", "energy/scan")
    }
    for name, value in found.items():
        expected = compute_expected(files["model"], atoms, name)
        assert value == pytest.approx(float(expected["energy_uncertainty"]), rel=1e-8)
    assert len(set(found.values())) == 2


@pytest.mark.parametrize("route", ROUTES)
def test_charge_counts_and_direct_forces_do_not_hinder(tmp_path, route):
    files = write(tmp_path, [TargetSpec.for_energy(), *DIRECT[1:]])
    atoms = build_bulk()
    calculator = PETCalculator(files[route], non_conservative=True)
    expected = compute_expected(files["model"], atoms)["energies_uncertainty"]
    found = calculator.get_property("energies_uncertainty", atoms)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8)
    (tmp_path / "charged").mkdir()
    files = write(tmp_path / "charged", system_conditioning=True)
    calculator = PETCalculator(files[route])
    values = []
    for charge in (0, 1):
        atoms.info["charge"] = charge
        values.append(calculator.get_property("energy_uncertainty", atoms))
    assert values[0] != values[1]


@pytest.mark.parametrize("route", ROUTES)
def test_without_one_the_message_says_what_makes_it(tmp_path, route):
    source = build_model()
    if route == "exported":
        source = export_model(source, tmp_path / "m.pt", check=False)
    calculator = PETCalculator(source)
    assert "energy_uncertainty" not in calculator.implemented_properties
    with pytest.raises(PropertyNotImplementedError, match="pet-calc uncertainty MODEL"):
        calculator.get_property("energy_uncertainty", build_molecule())
    with pytest.raises(ModelError, match="pet-calc uncertainty MODEL"):
        PETCalculator(source, max_uncertainty=0.1)


def find_limit(files, atoms):
    """A limit that one atom exceeds."""
    values = np.sort(compute_expected(files["model"], atoms)["energies_uncertainty"])
    return float(values[-2:].mean())


@pytest.mark.parametrize("route", ROUTES)
def test_dynamics_warn_once_and_go_on(sure, route, caplog):
    atoms = build_molecule()
    atoms.calc = PETCalculator(
        sure[route], max_uncertainty=find_limit(sure, atoms) / 10
    )
    with caplog.at_level(logging.WARNING, "pet_calc"):
        VelocityVerlet(atoms, 0.1).run(3)
    (line,) = [r.message for r in caplog.records if "uncertain" in r.message]
    assert line.startswith(
        f"step 0: the energies of {len(atoms)} of {len(atoms)} atoms"
    )


@pytest.mark.parametrize("route", ROUTES)
def test_raise_names_step_atom_and_value_each_time(sure, route):
    atoms = build_molecule()
    limit = find_limit(sure, atoms)
    values = compute_expected(sure["model"], atoms)["energies_uncertainty"]
    worst = int(values.argmax())
    atoms.calc = PETCalculator(sure[route], max_uncertainty=limit, on_uncertain="raise")
    for step in (0, 1):
        with pytest.raises(UncertaintyError) as caught:
            atoms.get_potential_energy()
        text = str(caught.value)
        assert text.startswith(f"step {step}: the energies of 1 of {len(atoms)} atoms")
        assert f"atom {worst} ({atoms.symbols[worst]}): {values[worst]:.3g} eV" in text


def test_a_function_gets_every_such_step_and_results_are_kept(sure):
    atoms = build_molecule()
    seen = []
    atoms.calc = PETCalculator(
        sure["model"],
        max_uncertainty=find_limit(sure, atoms),
        on_uncertain=seen.append,
    )
    energy = atoms.get_potential_energy()
    assert np.isfinite(energy)
    (step,) = seen
    values = atoms.calc.results["energies_uncertainty"]
    assert step.indices.tolist() == [int(values.argmax())]
    np.testing.assert_array_equal(step.uncertainties, values)
    assert step.atoms == atoms
    assert step.atoms is not atoms
    # forces of the same step are not a step
    atoms.get_forces()
    assert len(seen) == 1


def test_below_the_limit_nothing_happens(sure):
    atoms = build_molecule()
    largest = compute_expected(sure["model"], atoms)["energies_uncertainty"].max()
    atoms.calc = PETCalculator(
        sure["model"], max_uncertainty=1.01 * float(largest), on_uncertain="raise"
    )
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_uncertainty": 0.0}, "max_uncertainty: expected more than 0"),
        ({"max_uncertainty": 0.1, "on_uncertain": "stop"}, "on_uncertain: expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(sure, options, message):
    with pytest.raises(ConfigError, match=message):
        PETCalculator(sure["model"], **options)


def test_frames_with_such_results_can_be_written(sure, tmp_path):
    atoms = build_bulk()
    atoms.calc = PETCalculator(sure["model"], max_uncertainty=1e3)
    atoms.get_potential_energy()
    ase.io.write(tmp_path / "a.xyz", atoms)
    ase.io.write(tmp_path / "a.traj", atoms)
    again = ase.io.read(tmp_path / "a.xyz")
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy())


def test_a_model_in_float32_has_it_in_float64(tmp_path):
    model = build_model(dtype=torch.float32)
    own = {"energy": build_uncertainty(model)}
    path = export_model(model, tmp_path / "m.pt", uncertainties=own, check=False)
    found = PETCalculator(path).get_property("energies_uncertainty", build_molecule())
    assert found.dtype == np.float64

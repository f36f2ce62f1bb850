"""Several adapters on one base: the numbers of the merged models."""

import copy
import pickle

import numpy as np
import pytest
from support.llpr import build_fitted
from support.models import PBE0, build_model, build_tuned
from support.structures import assert_same, build_bulk, build_molecule, get_results

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.errors import CheckpointError, ConfigError, LoRAError, ModelError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base with an uncertainty, and adapters: of its target and of a new one."""
    folder = tmp_path_factory.mktemp("adapters")
    record = Checkpoint.from_model(build_model())
    merged = load_merged_model(record)
    set_uncertainty(record, merged, "energy", build_fitted(merged, "energy", 0))
    save_checkpoint(folder / "base.ckpt", record)
    for name, seed, target in (("water", 7, None), ("ice", 9, None), ("pbe0", 5, PBE0)):
        _, adapter = build_tuned(seed=seed, new_target=target)
        save_adapter(folder / f"{name}.safetensors", adapter)
    return {path.stem: path for path in folder.iterdir()}


def list_adapters(files):
    return {name: path for name, path in files.items() if name != "base"}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(None, 0.0), ("float32", 1e-4)])
def test_each_gives_the_numbers_of_the_merged_model(files, compile, dtype, atol):
    settings = {"compile": compile, "dtype": dtype}
    expected = {
        name: PETCalculator(files["base"], adapter=files[name], **settings)
        for name in ("water", "ice")
    }
    expected[None] = PETCalculator(files["base"], **settings)
    calculator = PETCalculator(files["base"], adapters=list_adapters(files), **settings)
    assert calculator.adapter is None
    for name in (None, "water", "ice", "water", None):
        calculator.set_adapter(name)
        assert calculator.adapter == name
        for atoms in (build_bulk(), build_molecule()):
            found = get_results(calculator, atoms)
            for key, values in get_results(expected[name], atoms).items():
                # in float64 the same weights; in float32 A and B are rounded first
                # where one adapter is merged, and only their product where several are
                np.testing.assert_allclose(found[key], values, rtol=0, atol=atol)


def test_results_of_another_adapter_are_not_kept(files):
    atoms = build_molecule()
    atoms.calc = PETCalculator(files["base"], adapters=list_adapters(files))
    energies = []
    for name in (None, "water", "ice", None):
        atoms.calc.set_adapter(name)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[3]
    assert len(set(energies)) == 3


def test_targets_of_an_adapter_are_chosen_with_it(files):
    calculator = PETCalculator(files["base"], adapters=list_adapters(files))
    expected = PETCalculator(files["base"], adapter=files["pbe0"], target="pbe0")
    calculator.set_adapter("pbe0", target="pbe0")
    assert calculator.target == "energy/pbe0"
    expected, found = (
        get_results(each, build_bulk()) for each in (expected, calculator)
    )
    assert_same(expected, found)
    calculator.set_adapter("water")
    assert calculator.target == "energy"
    with pytest.raises(ModelError, match="no energy target 'pbe0'"):
        calculator.set_adapter("ice", target="pbe0")
    # nothing has changed after an error
    assert calculator.adapter == "water"
    expected = PETCalculator(files["base"], adapter=files["water"])
    expected, found = (
        get_results(each, build_bulk()) for each in (expected, calculator)
    )
    assert_same(expected, found, tolerance=0.0)
    first = PETCalculator(
        files["base"], adapters=list_adapters(files), adapter="pbe0", target="pbe0"
    )
    assert (first.adapter, first.target) == ("pbe0", "energy/pbe0")


def test_the_uncertainty_is_that_of_the_base_alone(files):
    calculator = PETCalculator(files["base"], adapters=list_adapters(files))
    alone = calculator.get_property("energy_uncertainty", build_molecule())
    calculator.set_adapter("ice")
    assert "energy_uncertainty" not in calculator.implemented_properties
    calculator.set_adapter(None)
    again = calculator.get_property("energy_uncertainty", build_molecule())
    assert again == alone
    watching = PETCalculator(
        files["base"], adapters=list_adapters(files), max_uncertainty=1e3
    )
    energy = watching.get_potential_energy(build_molecule())
    with pytest.raises(ModelError, match=r"with ice carries no uncertainty"):
        watching.set_adapter("ice")
    assert watching.adapter is None
    watching.reset()
    assert watching.get_potential_energy(build_molecule()) == energy


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_switch_by_themselves(files, duplicate):
    first = PETCalculator(files["base"], adapters=list_adapters(files), compile=False)
    before = first.get_potential_energy(build_molecule())
    second = duplicate(first)
    second.set_adapter("water")
    first.reset()
    assert first.get_potential_energy(build_molecule()) == before
    expected = PETCalculator(files["base"], adapter=files["water"], compile=False)
    assert second.get_potential_energy(build_molecule()) == pytest.approx(
        expected.get_potential_energy(build_molecule()), abs=1e-12
    )


def test_what_cannot_be_switched_is_named(files, exported):
    with pytest.raises(ConfigError, match="has no adapters; make it with"):
        PETCalculator(files["base"]).set_adapter("water")
    calculator = PETCalculator(files["base"], adapters=list_adapters(files))
    with pytest.raises(LoRAError, match=r"no adapter 'steam'; loaded: .*water"):
        calculator.set_adapter("steam")
    assert calculator.adapter is None
    with pytest.raises(ConfigError, match=r"one of the names in adapters="):
        PETCalculator(
            files["base"], adapters={"ice": files["ice"]}, adapter=files["water"]
        )
    with pytest.raises(ConfigError, match="exported file cannot take an adapter"):
        PETCalculator(exported, adapters=list_adapters(files))
    with pytest.raises(CheckpointError, match="no such adapter file"):
        PETCalculator(files["base"], adapters={"a": "missing.safetensors"})
    with pytest.raises(LoRAError, match=r"water.safetensors: made for the base"):
        PETCalculator(build_model(seed=5), adapters={"water": files["water"]})

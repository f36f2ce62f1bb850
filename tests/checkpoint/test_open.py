"""Loading for use: merged, frozen, in eV and Å, with the adapter's metadata."""

import pytest
import torch
from support.models import build_lora_model, build_model, build_tuned, evaluate

from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.checkpoint.open import (
    choose_device,
    is_exported,
    load_merged_checkpoint,
    load_merged_model,
)
from pet_calc.checkpoint.to_ev import convert_energies_to_ev, is_angstrom
from pet_calc.errors import CheckpointError, ConfigError, LoRAError, ModelError
from pet_calc.export import export_model
from pet_calc.lora.inject import has_lora
from pet_calc.model.hypers import TargetSpec


def test_lora_is_merged_and_nothing_trains(tmp_path):
    model = build_lora_model()
    save_checkpoint(tmp_path / "m.ckpt", Checkpoint.from_model(model))
    merged = load_merged_model(tmp_path / "m.ckpt")
    assert not has_lora(merged)
    assert not merged.training
    assert not any(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(evaluate(merged), evaluate(model), rtol=0, atol=1e-10)
    assert has_lora(model)


def test_dtype_is_the_files_or_the_one_asked_for(tmp_path):
    model = build_lora_model(dtype=torch.float32)
    save_checkpoint(tmp_path / "m.ckpt", Checkpoint.from_model(model))
    for wanted, found in ((None, torch.float32), (torch.float64, torch.float64)):
        merged = load_merged_model(tmp_path / "m.ckpt", dtype=wanted)
        assert {p.dtype for p in merged.parameters()} == {found}
        assert merged.baseline.tables["energy"].composition.dtype == torch.float64


def test_an_adapter_gives_the_tuned_model_in_every_dtype(tmp_path):
    tuned, adapter = build_tuned()
    save_checkpoint(tmp_path / "base.ckpt", Checkpoint.from_model(build_model()))
    save_adapter(tmp_path / "a.safetensors", adapter)
    for dtype, tolerance in ((None, 1e-10), (torch.float32, 1e-3)):
        found = load_merged_model(
            tmp_path / "base.ckpt", adapter=tmp_path / "a.safetensors", dtype=dtype
        )
        torch.testing.assert_close(
            evaluate(found), evaluate(tuned), rtol=tolerance, atol=tolerance
        )


def test_the_wrong_base_is_named(tmp_path):
    _, adapter = build_tuned()
    save_checkpoint(tmp_path / "other.ckpt", Checkpoint.from_model(build_model(seed=1)))
    save_adapter(tmp_path / "a.safetensors", adapter)
    with pytest.raises(LoRAError, match=r"made for the base tiny .* is other\.ckpt"):
        load_merged_model(tmp_path / "other.ckpt", adapter=tmp_path / "a.safetensors")


def test_a_merged_checkpoint_says_where_it_came_from(tmp_path):
    _, adapter = build_tuned()
    adapter.metadata = {"name": "tuned", "validation": {"energy_mae": 0.1}}
    save_adapter(tmp_path / "a.safetensors", adapter)
    metadata = {"name": "base", "authors": ["A"], "wrapper": "llpr"}
    record = Checkpoint.from_model(
        build_model(), metadata=metadata, extras={"llpr": {"version": 4}, "x": 1}
    )
    same = load_merged_checkpoint(record)
    assert same.metadata == metadata
    assert set(same.extras) == {"llpr", "x"}
    merged = load_merged_checkpoint(record, adapter=tmp_path / "a.safetensors")
    assert merged.lora is None
    assert merged.metadata["name"] == "tuned"
    assert merged.metadata["authors"] == ["A"]
    assert merged.metadata["validation"] == {"energy_mae": 0.1}
    # the covariances belong to the features of the base
    assert set(merged.extras) == {"x"}
    assert "wrapper" not in merged.metadata
    assert record.metadata == metadata
    save_checkpoint(tmp_path / "merged.ckpt", merged)
    again = load_merged_model(load_checkpoint(tmp_path / "merged.ckpt"))
    torch.testing.assert_close(evaluate(again), evaluate(merged.build_model()))


def test_energies_come_in_ev_and_other_outputs_stay():
    specs = [TargetSpec("energy", unit="meV"), TargetSpec("dipole", "", "D", "atom")]
    model = build_model(specs)
    scale = model.baseline.tables["energy"].scale.clone()
    other = model.baseline.tables["dipole"].scale.clone()
    convert_energies_to_ev(model)
    assert model.targets["energy"].unit == "eV"
    assert model.targets["dipole"].unit == "D"
    torch.testing.assert_close(model.baseline.tables["energy"].scale, 1e-3 * scale)
    assert torch.equal(model.baseline.tables["dipole"].scale, other)


def test_a_missing_energy_unit_is_said(caplog):
    convert_energies_to_ev(build_model([TargetSpec("energy", unit="")]))
    assert "does not say the unit of energy: taken as eV" in caplog.text


def test_unknown_units_and_zbl_in_others_are_errors():
    with pytest.raises(ConfigError, match="unknown energy unit 'parsec'"):
        convert_energies_to_ev(build_model([TargetSpec("energy", unit="parsec")]))
    with pytest.raises(ModelError, match="ZBL"):
        convert_energies_to_ev(build_model([TargetSpec("energy", unit="Ha")], zbl=True))


def test_lengths_in_other_units_are_refused_but_can_be_merged(tmp_path):
    assert is_angstrom("")
    assert is_angstrom("Angstrom")
    assert not is_angstrom("bohr")
    record = Checkpoint.from_model(build_lora_model(), length_unit="bohr")
    record.source = "a.ckpt"
    with pytest.raises(CheckpointError, match=r"a\.ckpt: its lengths are in bohr"):
        load_merged_model(record)
    assert load_merged_checkpoint(record).length_unit == "bohr"


def test_files_are_told_apart_by_content(tmp_path):
    model = build_model()
    save_checkpoint(tmp_path / "a.pt", Checkpoint.from_model(model))
    export_model(model, tmp_path / "b.ckpt", check=False)
    (tmp_path / "c.pt").write_text("text")
    found = [is_exported(tmp_path / n) for n in ("a.pt", "b.ckpt", "c.pt", "none", "")]
    assert found == [False, True, False, False, False]


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "mps", ""])
def test_devices_that_are_not_there_are_named(name):
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_devices_by_name(name):
    assert choose_device(name) == torch.device("cpu")
    assert choose_device(None) == choose_device("auto")

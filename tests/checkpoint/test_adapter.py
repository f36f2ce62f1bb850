"""Adapters on disk."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.models import PBE0, build_model, build_tuned, evaluate

from pet_calc.checkpoint.adapter import load_adapter, save_adapter
from pet_calc.errors import CheckpointError, LoRAError
from pet_calc.lora import AdapterBank, LoRAConfig, apply_adapter


@pytest.fixture
def saved(tmp_path):
    """A saved adapter and the tuned model it came from."""
    tuned, adapter = build_tuned(
        LoRAConfig(rank=1, targets=("mlp", "heads")), new_target=PBE0
    )
    adapter.metadata.update(level_of_theory="PBE0-D3/def2", data=["a.xyz", 12, None])
    path = tmp_path / "water.safetensors"
    save_adapter(path, adapter)
    return path, adapter, tuned


def read_raw(path):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        return json.loads(file.metadata()["pet_calc_adapter"]), tensors


def write_raw(path, header, tensors):
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors, path, metadata={"pet_calc_adapter": text})


def test_a_saved_adapter_comes_back_whole(saved):
    path, adapter, tuned = saved
    loaded = load_adapter(path)
    assert set(loaded.tensors) == set(adapter.tensors)
    for name, value in adapter.tensors.items():
        assert torch.equal(loaded.tensors[name], value)
        assert loaded.tensors[name].dtype == value.dtype
    assert loaded.config == adapter.config
    assert loaded.targets == adapter.targets == {PBE0.name: PBE0}
    assert loaded.base_fingerprint == adapter.base_fingerprint
    assert loaded.base_name == "tiny"
    assert loaded.metadata["level_of_theory"] == "PBE0-D3/def2"
    assert loaded.metadata["data"] == ["a.xyz", 12, None]
    assert loaded.metadata["versions"]["torch"] == torch.__version__
    model = build_model()
    apply_adapter(model, loaded)
    assert torch.equal(evaluate(model, PBE0.name), evaluate(tuned, PBE0.name))


def test_saved_adapters_can_be_switched(saved, tmp_path):
    path, _, tuned = saved
    other_tuned, other = build_tuned(seed=2)
    save_adapter(tmp_path / "other.safetensors", other)
    model = build_model()
    base = evaluate(model)
    bank = AdapterBank(model)
    bank.add("water", load_adapter(path))
    bank.add("other", load_adapter(tmp_path / "other.safetensors"))
    # forces are sums of large terms: the order of the sums shows at 1e-12
    exact = {"rtol": 1e-11, "atol": 1e-11}
    bank.activate("water")
    expected = evaluate(tuned, PBE0.name)
    torch.testing.assert_close(evaluate(model, PBE0.name), expected, **exact)
    bank.activate("other")
    torch.testing.assert_close(evaluate(model), evaluate(other_tuned), **exact)
    bank.disable()
    assert torch.equal(evaluate(model), base)


def test_saving_twice_gives_the_same_bytes_and_leaves_one_file(saved):
    path, _, _ = saved
    before = path.read_bytes()
    save_adapter(path, load_adapter(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_wrong_base_is_refused_naming_the_file_and_both_bases(saved):
    path, adapter, _ = saved
    bank = AdapterBank(build_model(seed=1), base_name="other")
    with pytest.raises(LoRAError) as caught:
        bank.add("water", load_adapter(path))
    for part in (path, "tiny", adapter.base_fingerprint[:16], bank.fingerprint[:16]):
        assert str(part) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_adapter(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no such adapter"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 4, 100, -1])
def test_a_cut_file_is_an_error(saved, n_bytes):
    path, _, _ = saved
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match="damaged or of another kind"):
        load_adapter(path)


def test_a_flipped_bit_in_the_tensors_is_an_error(saved):
    path, _, _ = saved
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load_adapter(path)


def test_a_foreign_file_is_an_error(tmp_path):
    path = tmp_path / "peft.safetensors"
    save_file({"lora_A": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="by pet-calc, found a file with nothing"):
        load_adapter(path)
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match="by pet-calc, found a file with format=pt"
    ):
        load_adapter(path)
    path.write_text("energies\n" * 50)
    with pytest.raises(CheckpointError, match="damaged or of another kind"):
        load_adapter(path)


def test_a_newer_format_is_an_error_saying_what_to_do(saved):
    path, _, _ = saved
    header, tensors = read_raw(path)
    write_raw(path, {**header, "format_version": 2}, tensors)
    with pytest.raises(CheckpointError, match=r"format 1 .*got 2; update pet-calc"):
        load_adapter(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", None),
        ("format_version", "x"),
        ("config", {"rank": 0}),
        ("config", {"rank": 2}),
        ("config", {"size": 2}),
        ("base", {}),
        ("base", []),
        ("targets", [{"nom": "energy"}]),
        ("metadata", None),
    ],
)
def test_a_damaged_header_is_an_error(saved, key, value):
    path, _, _ = saved
    header, tensors = read_raw(path)
    header.pop(key)
    if value is not None:
        header[key] = value
    write_raw(path, header, tensors)
    with pytest.raises(CheckpointError, match="header is damaged"):
        load_adapter(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
def test_a_header_that_is_no_json_object_is_an_error(saved, text):
    path, _, _ = saved
    _, tensors = read_raw(path)
    write_raw(path, text, tensors)
    with pytest.raises(CheckpointError, match="header is damaged"):
        load_adapter(path)

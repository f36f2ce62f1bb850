"""Our own format: nothing lost, nothing to execute, no half file."""

import dataclasses
import gzip
import os

import pytest
import torch
from support.models import build_model

from pet_calc.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_training_state,
    native,
    save_checkpoint,
)
from pet_calc.errors import CheckpointError
from pet_calc.lora.inject import inject_lora
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import TargetSpec

TARGETS = [
    TargetSpec.for_energy(description="PBE"),
    TargetSpec("non_conservative_force", "force", "eV/A", "atom", components=[3]),
]


def build_checkpoint():
    model = build_model(TARGETS, zbl=True)
    inject_lora(model, LoRAConfig(rank=2, alpha=5.0))
    return Checkpoint.from_model(
        model,
        metadata={"name": "water", "authors": ["A", "B"], "best": {"epoch": 3}},
        extras={"llpr": {"version": 4, "state": {"covariance": torch.eye(3)}}},
    )


def assert_same(found, expected):
    """Equal trees; tensors bit for bit."""
    assert type(found) is type(expected) or isinstance(expected, dict)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            assert_same(f, e)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_everything_comes_back(tmp_path):
    checkpoint = build_checkpoint()
    save_checkpoint(tmp_path / "model.ckpt", checkpoint)
    found = load_checkpoint(tmp_path / "model.ckpt")
    assert found.source == str(tmp_path / "model.ckpt")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "source":
            assert_same(getattr(found, field.name), getattr(checkpoint, field.name))
    found.build_model()


def test_torch_reads_it_with_weights_only(tmp_path):
    save_checkpoint(
        tmp_path / "model.ckpt", build_checkpoint(), training_state={"a": 1}
    )
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert content["format"] == "pet-calc"
    assert content["header"]["metadata"]["name"] == "water"
    assert "edge_embedder.weight" in content["tensors"]


def test_a_compressed_file_is_read(tmp_path):
    save_checkpoint(tmp_path / "model.ckpt", build_checkpoint())
    packed = gzip.compress((tmp_path / "model.ckpt").read_bytes())
    (tmp_path / "model.ckpt.gz").write_bytes(packed)
    assert load_checkpoint(tmp_path / "model.ckpt.gz").metadata["name"] == "water"


def test_a_real_optimizer_state_comes_back(tmp_path):
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sum(p.pow(2).sum() for p in model.parameters()).backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "rng": torch.random.get_rng_state(),
        "epoch": 2,
        "best": float("inf"),
        "schedule": (1, 2.5, None, "cosine", True),
    }
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, Checkpoint.from_model(model), training_state=state)
    found = load_training_state(path)
    assert_same(found, state)
    optimizer.load_state_dict(found["optimizer"])


def test_a_file_without_training_state_says_so(tmp_path):
    save_checkpoint(tmp_path / "best.ckpt", build_checkpoint())
    with pytest.raises(CheckpointError, match="no training state"):
        load_training_state(tmp_path / "best.ckpt")


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    checkpoint = build_checkpoint()
    checkpoint.extras["row"] = torch.zeros(1000, 1000)[:1]
    save_checkpoint(tmp_path / "model.ckpt", checkpoint)
    assert (tmp_path / "model.ckpt").stat().st_size < 500_000


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {"a": {1, 2}}, [print]])
def test_what_would_need_a_pickle_is_refused(value, tmp_path):
    path = tmp_path / "model.ckpt"
    with pytest.raises(CheckpointError, match="training_state"):
        save_checkpoint(path, build_checkpoint(), training_state={"x": value})
    assert not path.exists()


def test_metadata_must_be_plain(tmp_path):
    checkpoint = build_checkpoint()
    checkpoint.metadata["model"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="metadata"):
        save_checkpoint(tmp_path / "model.ckpt", checkpoint)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, build_checkpoint())
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(native.torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, build_checkpoint())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.ckpt"]


def test_a_newer_format_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    monkeypatch.setattr(native, "FORMAT_VERSION", 2)
    save_checkpoint(path, build_checkpoint())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="got 2; update pet-calc"):
        load_checkpoint(path)


def test_an_older_format_is_upgraded_step_by_step(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, build_checkpoint())
    monkeypatch.setattr(native, "FORMAT_VERSION", 3)

    def rename(name):
        def upgrade(content):
            content["header"]["metadata"]["name"] += name
            return content

        return upgrade

    monkeypatch.setattr(native, "_UPGRADES", {1: rename("-a"), 2: rename("-b")})
    assert load_checkpoint(path).metadata["name"] == "water-a-b"


@pytest.mark.parametrize("version", [None, "1", True, -1])
def test_a_strange_version_is_an_error(version, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"format": "pet-calc", "format_version": version}, path)
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["hypers", "targets", "lora", "atomic_types"])
def test_a_damaged_header_is_an_error(name, tmp_path):
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, build_checkpoint())
    content = torch.load(path, weights_only=True)
    content["header"][name] = {"x": 1}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        load_checkpoint(path)


def test_an_exported_model_is_named_as_such(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)).save(path)
    with pytest.raises(CheckpointError, match=r"model\.pt.*PETCalculator"):
        load_checkpoint(path)


def test_tensors_of_another_program_are_an_error(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(CheckpointError, match="neither a pet-calc nor a metatrain"):
        load_checkpoint(path)
    torch.save(torch.ones(1), path)
    with pytest.raises(CheckpointError, match="neither a pet-calc nor a metatrain"):
        load_checkpoint(path)

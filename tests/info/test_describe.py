"""What a model file holds, as data and as text."""

import json
from pathlib import Path

import pytest
import torch
from support.llpr import build_fitted
from support.models import PBE0, build_lora_model, build_model, build_tuned
from support.peer import build_peer

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.errors import CheckpointError
from pet_calc.export import export_model
from pet_calc.info.describe import describe_file
from pet_calc.info.text import format_description, format_elements
from pet_calc.model.hypers import TargetSpec

METADATA = {
    "name": "water",
    "authors": ["A. Author"],
    "epoch": 3,
    "validation": {"energy_mae": 0.001, "energy_rmse": 0.002},
    "rotation": {"spread": {"energy": 0.001, "forces": 0.02}, "base": {}},
    "provenance": {
        "method": "lora",
        "base": "base.ckpt",
        "base_fingerprint": "ab" * 32,
        "target": "energy",
        "level_of_theory": "PBE0-D3",
        "n_frames": {"train": 9, "validation": 1, "test": 0},
        "files": {"train.xyz": "cd" * 32},
        "pet_calc": "0.1",
    },
}


def describe(path):
    """The description, which programs can read, and its text."""
    values = describe_file(path)
    assert json.loads(json.dumps(values)) == values
    return values, format_description(values)


def test_a_checkpoint_of_pet_calc(tmp_path):
    path = tmp_path / "m.ckpt"
    model = build_lora_model(num_neighbors_adaptive=6.0)
    record = Checkpoint.from_model(model, metadata=METADATA)
    merged = load_merged_model(record)
    set_uncertainty(record, merged, "energy", build_fitted(merged))
    save_checkpoint(path, record, training_state={"step": 1})
    values, text = describe(path)
    assert values["kind"] == "pet-calc checkpoint"
    assert values["elements"] == ["H", "C", "O", "Al", "Si"]
    assert values["interaction_range"] == model.interaction_range == 16.0
    n_lora = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    n_all = sum(p.numel() for p in model.parameters())
    assert values["lora"]["n_parameters"] == n_lora
    assert values["n_parameters"] == n_all - n_lora
    for part in (
        f"{path}: pet-calc checkpoint (format 1)\n",
        "name          water\n",
        "H C O Al Si (5)",
        f"{n_all - n_lora:,} in float64",
        "d_pet 8, d_node 16",
        "cutoff        4 Å, Bump over 0.5 Å; adapted to 6 neighbours (solver)",
        "range         16 Å",
        "targets       energy [eV]: PBE0-D3",
        "rank 2, alpha 4, on all-linear",
        "not merged",
        "uncertainty   energy (LLPR)",
        "lora from base.ckpt, fingerprint abababab",
        "9 train, 1 validation\n",
        "spread over orientations energy 1.00 meV/atom, forces 20.00 meV/Å\n",
        "train.xyz, sha256 cdcdcdcd",
        "energy MAE 1.00 RMSE 2.00 meV/atom",
        "pet_calc 0.1",
        "A. Author",
        "--resume",
    ):
        assert part in text


def test_a_plain_checkpoint_has_no_lora_and_no_history(tmp_path):
    save_checkpoint(tmp_path / "m.ckpt", Checkpoint.from_model(build_model(zbl=True)))
    values, text = describe(tmp_path / "m.ckpt")
    assert values["lora"] is None
    assert not values["can_resume"]
    assert "uncertainty   no" in text
    assert "ZBL" in text
    for absent in ("LoRA", "resume", "trained", "name"):
        assert absent not in text


def test_a_checkpoint_of_metatrain(tmp_path):
    targets = ("energy", "energy/pbe", "non_conservative_forces")
    peer = build_peer(targets, dtype=torch.float32, system_conditioning=True)
    torch.save(peer.get_checkpoint(), tmp_path / "m.ckpt")
    values, text = describe(tmp_path / "m.ckpt")
    assert values["kind"] == "metatrain checkpoint"
    assert values["n_parameters"] == sum(p.numel() for p in peer.parameters())
    assert [target["name"] for target in values["targets"]] == list(targets)
    assert "metatrain checkpoint (PET version 16" in text
    assert "reads charge (to ±10) and spin multiplicity (to 10)" in text
    assert "non_conservative_forces [eV/A]" in text


def test_an_adapter(tmp_path):
    _, adapter = build_tuned(new_target=PBE0)
    adapter.metadata = METADATA
    save_adapter(tmp_path / "a.safetensors", adapter)
    values, text = describe(tmp_path / "a.safetensors")
    assert values["kind"] == "pet-calc adapter"
    assert values["base"] == {"name": "tiny", "fingerprint": adapter.base_fingerprint}
    assert values["lora"]["n_parameters"] > 0
    assert "targets       energy/pbe0 [eV]: PBE0-D3" in text
    assert f"base          tiny, fingerprint {adapter.base_fingerprint[:16]}" in text
    assert " kB" in text
    # found by its content too
    (tmp_path / "a.safetensors").rename(tmp_path / "a.bin")
    assert describe(tmp_path / "a.bin")[0]["kind"] == "pet-calc adapter"


def test_an_exported_model(tmp_path):
    specs = [
        TargetSpec.for_energy(description="PBE"),
        TargetSpec("non_conservative_forces", "force", "eV/A", "atom", components=[3]),
    ]
    model = build_model(specs, system_conditioning=True)
    path = export_model(model, tmp_path / "m.pt", metadata=METADATA, check=False)
    values, text = describe(path)
    assert values["kind"] == "exported model"
    assert values["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert values["interaction_range"] == model.interaction_range
    assert values["inputs"] == ["charge", "spin_multiplicity"]
    assert values["cutoff"] == {"radius": 4.0}
    assert values["provenance"]["base"] == "base.ckpt"
    for part in (
        "exported model (",
        "metatomic 0.",
        "float64",
        "non_conservative_force [eV/A]",
        "inputs        charge, spin_multiplicity",
        "energy [eV]: PBE0-D3",
        "lora from base.ckpt",
        "exported by   pet-calc",
        "energy MAE 1.00",
    ):
        assert part in text


def test_other_files_are_one_error(tmp_path):
    text = tmp_path / "a.xyz"
    text.write_text("1\n\nH 0 0 0\n")
    empty = tmp_path / "empty"
    empty.touch()
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pt")
    (tmp_path / "a.safetensors").write_bytes(b"\x08")
    for path, message in (
        (text, "expected a model checkpoint"),
        (empty, "expected a model checkpoint"),
        (tmp_path / "w.pt", "neither a pet-calc nor a metatrain checkpoint"),
        (tmp_path / "a.safetensors", "damaged or of another kind"),
        (tmp_path / "none", "there is no such file"),
        (tmp_path, "there is a folder"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            describe_file(path)
        assert str(path) in str(error.value)


def test_metadata_of_another_shape_do_no_harm(tmp_path):
    metadata = {"provenance": "text", "validation": [1], "epoch": "x", "authors": None}
    save_checkpoint(
        tmp_path / "m.ckpt", Checkpoint.from_model(build_model(), metadata=metadata)
    )
    values, _ = describe(tmp_path / "m.ckpt")
    assert "provenance" not in values


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        (["H"], "H (1)"),
        (["H", "He", "Li", "Si"], "H He Li Si (4)"),
        (["H", "C", "N", "O", "F", "Ne", "Si"], "H C-Ne Si (7)"),
    ],
)
def test_elements_are_short(symbols, expected):
    assert format_elements(symbols) == expected


@pytest.mark.parametrize("kind", ["pet", "llpr"])
def test_real_checkpoints_are_described(kind):
    folder = Path(__file__).resolve().parents[3] / "shared" / "checkpoints" / kind
    paths = sorted(folder.glob("*.gz"))
    if not paths:
        pytest.skip("the shared checkpoints are not here")
    for path in paths:
        values, text = describe(path)
        assert values["has_uncertainty"] == (kind == "llpr")
        assert values["uncertainties"] == (["energy"] if kind == "llpr" else [])
        assert "H C N O (4)" in text

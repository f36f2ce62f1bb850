"""metatrain reads what we write, and computes the same with it."""

import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import torch
import yaml
from support.models import build_model
from support.peer import build_peer, build_structures, evaluate_peer, load_peer
from support.structures import build_batch

from pet_calc.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_metatrain_checkpoint,
)
from pet_calc.errors import CheckpointError
from pet_calc.lora.inject import inject_lora, lora_layers, merge_lora
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
FILES = sorted(SHARED.glob("*/*.ckpt.gz"))
STRUCTURES = list(build_structures().values())
SEVERAL = [
    "energy",
    "energy/pbe",
    "non_conservative_forces",
    "non_conservative_stress",
    "mtt::charges",
]
CONTEXTS = ["export", "finetune", "restart"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.mark.skipif(not FILES, reason="the shared checkpoints are not here")
@pytest.mark.parametrize("source", FILES, ids=lambda p: p.name[:-8])
def test_a_shared_checkpoint_gives_the_same_numbers_after_rewriting(source, path):
    save_metatrain_checkpoint(path, load_checkpoint(source))
    before = evaluate_peer(load_peer(source, torch.float64), STRUCTURES, ["energy"])
    after = evaluate_peer(load_peer(path, torch.float64), STRUCTURES, ["energy"])
    for name, value in before.items():
        # the same weights and tables, so the same bits
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("conditioned", [False, True])
def test_every_kind_of_target_survives(context, conditioned, path):
    peer = build_peer(SEVERAL, zbl=True, system_conditioning=conditioned)
    torch.save(peer.get_checkpoint(), path)
    save_metatrain_checkpoint(path, load_checkpoint(path))
    back = load_peer(path, torch.float64, context)
    assert back.dataset_info == peer.dataset_info
    assert list(back.state_dict().keys() ^ peer.state_dict().keys()) == []
    before = evaluate_peer(peer, STRUCTURES, SEVERAL)
    after = evaluate_peer(back, STRUCTURES, SEVERAL)
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_a_model_of_our_own_can_be_read_by_metatrain(path):
    targets = [
        TargetSpec.for_energy(),
        TargetSpec.for_energy("energy/pbe"),
        TargetSpec("non_conservative_force", "force", "eV/A", "atom", components=[3]),
        TargetSpec("non_conservative_stress", "pressure", "eV/A^3", components=[3, 3]),
    ]
    model = build_model(targets, zbl=True)
    save_metatrain_checkpoint(path, Checkpoint.from_model(model))
    structures = [a for a in STRUCTURES if set(a.numbers) <= set(model.atomic_types)]
    assert len(structures) >= 3
    peer = load_peer(path, torch.float64)
    found = evaluate_peer(peer, structures, [spec.name for spec in targets])
    batch = build_batch(structures, model)
    for name in ("energy", "energy/pbe"):
        expected = predict(model, batch, name, with_stress=True)
        # both in float64: 1e-10 is rounding
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(found[name][:, 0], expected.energy, **close)
        torch.testing.assert_close(found[f"{name} forces"], expected.forces, **close)
        torch.testing.assert_close(found[f"{name} stress"], expected.stress, **close)


def test_lora_is_merged(path):
    model = build_model()
    inject_lora(model, LoRAConfig(rank=2, alpha=3.0, targets=("mlp", "compress")))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.weight.normal_(generator=torch.Generator().manual_seed(0))
    checkpoint = Checkpoint.from_model(model)
    save_metatrain_checkpoint(path, checkpoint)
    merge_lora(model)
    expected = {k: v for k, v in model.state_dict().items() if "baseline" not in k}
    peer = load_peer(path, torch.float64)
    found = peer.backend.state_dict()
    for name, value in expected.items():
        if "last_layers" not in name:
            assert torch.equal(found[name], value), name
    # the record is still unmerged
    assert checkpoint.lora is not None
    assert any(name.endswith("lora_A.weight") for name in checkpoint.state)


def test_metadata_is_kept(path):
    metadata = {
        "name": "water",
        "description": "PBE0, 300 K",
        "authors": ["A", "B"],
        "references": {"model": ["doi:1"], "architecture": ["doi:2"]},
        "extra": {"note": "x", "numbers": [1, 2]},
        "train_hypers": {"batch_size": 1},
    }
    checkpoint = Checkpoint.from_model(build_model(), metadata=metadata)
    save_metatrain_checkpoint(path, checkpoint)
    found = load_peer(path, torch.float64).metadata
    assert (found.name, found.description) == ("water", "PBE0, 300 K")
    assert found.authors == ["A", "B"]
    assert "doi:1" in found.references["model"]
    assert found.extra == {"note": "x", "numbers": "[1, 2]"}
    again = load_checkpoint(path).metadata
    assert again["name"] == "water"


def test_a_scale_per_element_for_an_energy_is_an_error(path):
    model = build_model()
    with torch.no_grad():
        model.baseline.tables["energy"].scale[0] += 1.0
    with pytest.raises(CheckpointError, match="cannot express"):
        save_metatrain_checkpoint(path, Checkpoint.from_model(model))
    assert not path.exists()


def test_metatrain_need_not_be_installed(path):
    """The classes are written by name, with metatrain hidden from imports."""
    model = build_model()
    from pet_calc.checkpoint import save_checkpoint

    save_checkpoint(path, Checkpoint.from_model(model))
    target = path.with_name("written.ckpt")
    code = (
        "import sys; sys.modules['metatrain'] = None\n"
        "from pet_calc.checkpoint import *\n"
        f"save_metatrain_checkpoint({str(target)!r}, load_checkpoint({str(path)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    load_peer(target, torch.float64)


def run_mtt(folder, *arguments):
    command = [sys.executable, "-m", "metatrain", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def write_data(folder):
    """A few frames with made-up labels: only that training runs is of interest."""
    model = build_model()
    frames = []
    for seed in range(8):
        atoms = STRUCTURES[0].copy()
        atoms.rattle(0.05, seed=seed)
        known = [1 if z == 7 else z for z in atoms.numbers]
        atoms.numbers = known
        found = predict(model, build_batch([atoms], model))
        atoms.info["e"] = float(found.energy)
        atoms.arrays["f"] = found.forces.numpy()
        frames.append(atoms)
    ase.io.write(folder / "data.xyz", frames)


def build_options(checkpoint, target="energy", **finetune):
    hypers = {k: v for k, v in checkpoint.hypers.to_dict().items() if v is not None}
    training = {"num_epochs": 1, "batch_size": 2}
    if finetune:
        training["finetune"] = finetune
    labels = {"key": "e", "unit": "eV", "forces": {"key": "f"}}
    return {
        "device": "cpu",
        "base_precision": 64,
        "architecture": {"name": "pet", "model": hypers, "training": training},
        "training_set": {
            "systems": {"read_from": "data.xyz", "length_unit": "angstrom"},
            "targets": {target: labels},
        },
        "validation_set": 0.25,
        "test_set": 0.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "heads"])
def test_mtt_fine_tunes_and_exports_our_file_and_we_read_its_result(method, tmp_path):
    model = build_model(zbl=True)
    checkpoint = Checkpoint.from_model(model)
    save_metatrain_checkpoint(tmp_path / "base.ckpt", checkpoint)
    run_mtt(tmp_path, "export", "base.ckpt", "-o", "base.pt")
    assert (tmp_path / "base.pt").exists()

    write_data(tmp_path)
    config = {
        "full": {},
        "lora": {"rank": 2, "alpha": 4.0},
        "heads": {
            "head_modules": ["node_heads", "edge_heads"],
            "last_layer_modules": ["node_last_layers", "edge_last_layers"],
        },
    }[method]
    finetune = {"method": method, "read_from": "base.ckpt", "config": config}
    if method != "full":
        finetune["inherit_heads"] = {"energy/new": "energy"}
    target = "energy" if method == "full" else "energy/new"
    options = build_options(checkpoint, target, **finetune)
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options))
    run_mtt(tmp_path, "train", "options.yaml", "-o", "tuned.pt")

    tuned = load_checkpoint(tmp_path / "tuned.ckpt")
    assert tuned.metadata["finetune_config"]["method"] == method
    assert (tuned.lora is not None) == (method == "lora")
    structures = [a for a in STRUCTURES if set(a.numbers) <= set(model.atomic_types)]
    ours = tuned.build_model()
    expected = evaluate_peer(
        load_peer(tmp_path / "tuned.ckpt", torch.float64), structures, [target]
    )
    found = predict(ours, build_batch(structures, ours), target)
    # both in float64: 1e-10 is rounding
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(found.energy, expected[target][:, 0], **close)
    torch.testing.assert_close(found.forces, expected[f"{target} forces"], **close)

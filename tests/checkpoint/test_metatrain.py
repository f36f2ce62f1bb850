"""metatrain's checkpoints of every version, read without metatrain."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from metatrain.pet.modules.finetuning import apply_finetuning_strategy
from metatrain.utils.io import model_from_checkpoint
from support.peer import (
    ATOMIC_TYPES,
    build_dataset_info,
    build_peer,
    load_peer,
    save_peer,
)

from pet_calc.checkpoint import (
    compute_fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from pet_calc.checkpoint.unpickle import read_archive
from pet_calc.errors import CheckpointError
from pet_calc.lora.layer import LoRAConfig

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
FILES = sorted(SHARED.glob("*/*.ckpt.gz"))
WRAPPED = sorted(SHARED.glob("llpr/*.ckpt.gz"))
needs_shared = pytest.mark.skipif(not FILES, reason="the shared files are not here")


def name_file(path):
    return f"{path.parent.name}-{path.name[:-8]}"


@needs_shared
@pytest.mark.parametrize("path", FILES, ids=name_file)
def test_weights_equal_those_that_metatrain_loads(path):
    checkpoint = load_checkpoint(path)
    peer = load_peer(path, torch.float32)
    expected = {
        name.removeprefix("backend."): value
        for name, value in peer.state_dict().items()
        if name.startswith("backend.")
    }
    ours = {
        name: value
        for name, value in checkpoint.state.items()
        if not name.startswith("baseline.")
    }
    assert set(ours) == set(expected)
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
    hypers = {**peer.hypers}
    assert not hypers.pop("long_range")["enable"]
    assert checkpoint.hypers.to_dict() == hypers
    assert checkpoint.atomic_types == ATOMIC_TYPES
    assert checkpoint.length_unit == "angstrom"
    spec = checkpoint.targets["energy"]
    assert (spec.unit, spec.quantity, spec.block_name) == ("eV", "energy", "energy___0")
    table = peer.additive_models[0].model.weights["energy"].block(0).values
    found = checkpoint.state["baseline.tables.energy.composition"]
    assert torch.equal(found, table)
    scale = peer.scaler.model.scales["energy"].block(0).values
    found = checkpoint.state["baseline.tables.energy.scale"]
    assert torch.equal(found, scale.to(torch.float64).expand(len(ATOMIC_TYPES), 1))


@needs_shared
@pytest.mark.parametrize("path", FILES, ids=name_file)
def test_provenance_is_kept(path):
    metadata = load_checkpoint(path).metadata
    assert metadata["architecture"] == "pet"
    assert 1 <= metadata["architecture_version"] <= 16
    assert (
        "https://arxiv.org/abs/2305.19302v3" in metadata["references"]["architecture"]
    )
    if path.parent.name == "pet":
        assert f"model-v{metadata['architecture_version']}" in path.name
        assert metadata["train_hypers"]["batch_size"] == 16


@needs_shared
@pytest.mark.parametrize("path", FILES, ids=name_file)
def test_a_native_copy_is_the_same(path, tmp_path):
    checkpoint = load_checkpoint(path)
    save_checkpoint(tmp_path / "copy.ckpt", checkpoint)
    copy = load_checkpoint(tmp_path / "copy.ckpt")
    assert (copy.hypers, copy.targets) == (checkpoint.hypers, checkpoint.targets)
    assert copy.metadata == checkpoint.metadata
    assert list(copy.state) == list(checkpoint.state)
    for name, value in checkpoint.state.items():
        assert torch.equal(copy.state[name], value)
    assert set(copy.extras) == set(checkpoint.extras)
    wrapper = checkpoint.extras.get("llpr", {"state": {}})
    for name, value in wrapper["state"].items():
        assert torch.equal(copy.extras["llpr"]["state"][name], value)


@needs_shared
@pytest.mark.parametrize("path", WRAPPED, ids=name_file)
def test_the_wrapper_is_kept_as_metatrain_upgrades_it(path):
    content = read_archive(path)
    wrapper = load_checkpoint(path).extras["llpr"]
    peer = model_from_checkpoint(_load_peer_content(path), "export")
    assert wrapper["num_ensemble_members"] == {"energy": 8}
    for name, value in wrapper["state"].items():
        expected = peer.state_dict()[name]
        if name.startswith("cholesky_") and content["model_ckpt_version"] < 4:
            # their sum of the matrix and its ridge is in another order
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, expected), name


@needs_shared
def test_the_first_version_of_the_wrapper_is_read(tmp_path):
    content = _load_peer_content(WRAPPED[0])
    newer = load_checkpoint(WRAPPED[0])
    assert content["model_ckpt_version"] == 2
    for version in (1, None):
        # version 1 had no model_data, and before that none had a version
        content["model_ckpt_version"] = version
        content.pop("model_data", None)
        torch.save(content, tmp_path / "old.ckpt")
        older = load_checkpoint(tmp_path / "old.ckpt")
        assert older.extras["llpr"]["num_ensemble_members"] == {"energy": 8}
        for name, value in newer.extras["llpr"]["state"].items():
            assert torch.equal(older.extras["llpr"]["state"][name], value)


def _load_peer_content(path):
    with gzip.open(path) as file:
        return torch.load(file, weights_only=False)


def pad(table):
    return torch.cat([table, torch.full((1, table.shape[1]), 7.0)])


def age_weights(state, large_scale):
    """Names and tables of before version 8, when there was a row for padding."""
    old = {}
    for name, value in state.items():
        if name == "edge_embedder.weight":
            old["embedding.weight"] = pad(value)
        elif name.startswith("node_embedders."):
            layer = name.split(".")[1]
            new_name = f"gnn_layers.{layer}.node_embedder.weight"
            old["node_embedding.weight" if large_scale else new_name] = pad(value)
        elif ".neighbor_embedder." in name:
            old[name] = pad(value)
        elif large_scale:
            old[name.replace("combination_norms.", "combination_rmsnorms.")] = value
        else:
            name = name.replace(".mlp.w_in.", ".mlp.0.")
            old[name.replace(".mlp.w_out.", ".mlp.3.")] = value
    return old


def build_old_content(peer, version, large_scale):
    """A file of an early version, with today's weights."""
    state = age_weights(peer.backend.state_dict(), large_scale)
    for name, value in peer.additive_models[0].state_dict().items():
        if version == 1:
            name = name.replace("model.type_to_index", "type_to_index")
        state[f"additive_models.0.{name}"] = value
    state["scaler.scales"] = torch.tensor([1.25])
    names = "cutoff cutoff_width d_pet d_head d_feedforward num_heads zbl long_range"
    names = [*names.split(), "num_attention_layers", "num_gnn_layers"]
    hypers = {name: peer.hypers[name] for name in names}
    if large_scale:
        hypers["d_feedforward"] = 999  # was not used
    info = build_dataset_info(["energy"])
    info._atomic_types = set(info.atomic_types)
    better = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    return {
        "architecture_name": "pet",
        "model_ckpt_version": version,
        "metadata": peer.metadata,
        "model_data": {"model_hypers": hypers, "dataset_info": info},
        "epoch": 1,
        "best_epoch": 1,
        "model_state_dict": state,
        # the large-scale models were always used with their last weights
        "best_model_state_dict": better if large_scale else state,
    }


@pytest.mark.parametrize("version", [1, 2, 4, 6])
@pytest.mark.parametrize("large_scale", [False, True])
def test_early_models_of_several_layers_are_upgraded_as_metatrain_does(
    large_scale, version, path
):
    """The shared files have one layer only, and none is of the large-scale family."""
    small = {
        "normalization": "LayerNorm",
        "activation": "SiLU",
        "transformer_type": "PostLN",
        "featurizer_type": "residual",
        "d_node": 8,
    }
    shape = {"d_node": 32} if large_scale else small
    peer = build_peer(
        num_gnn_layers=3, cutoff_function="Cosine", dtype=torch.float32, **shape
    )
    torch.save(build_old_content(peer, version, large_scale), path)
    checkpoint = load_checkpoint(path)
    upgraded = load_peer(path, torch.float32)
    hypers = dict(upgraded.hypers)
    del hypers["long_range"]
    assert checkpoint.hypers.to_dict() == hypers
    for name, value in peer.backend.state_dict().items():
        assert torch.equal(checkpoint.state[name], value), name
        assert torch.equal(upgraded.backend.state_dict()[name], value), name
    scale = checkpoint.state["baseline.tables.energy.scale"]
    assert torch.equal(scale, torch.full((4, 1), 1.25, dtype=torch.float64))
    checkpoint.build_model()


def test_best_and_last_weights_are_told_apart(path):
    best, last = build_peer(seed=1), build_peer(seed=2)
    save_peer(best, path, model_state_dict=last.state_dict(), best_epoch=3)
    name = "edge_embedder.weight"
    for which, peer in (("best", best), ("last", last)):
        found = load_checkpoint(path, which=which)
        assert torch.equal(found.state[name], peer.backend.edge_embedder.weight)
    assert found.metadata["best_epoch"] == 3


def test_before_the_first_best_epoch_the_last_weights_count(path):
    peer = build_peer()
    save_peer(peer, path, best_model_state_dict=None)
    found = load_checkpoint(path).state["edge_embedder.weight"]
    assert torch.equal(found, peer.backend.edge_embedder.weight)


def test_alias_copies_of_the_conditioning_are_dropped(path):
    save_peer(build_peer(system_conditioning=True), path)
    checkpoint = load_checkpoint(path)
    assert "system_conditioning.charge_embedding.weight" in checkpoint.state
    checkpoint.build_model()


def test_targets_of_all_kinds_are_described(path):
    names = [
        "energy/pbe",
        "non_conservative_force",
        "non_conservative_stress",
        "mtt::q",
    ]
    save_peer(build_peer(names), path)
    targets = load_checkpoint(path).targets
    assert list(targets) == names
    assert targets["energy/pbe"].gradients == ["positions", "strain"]
    assert [t.sample_kind for t in targets.values()] == [
        "system",
        "atom",
        "system",
        "atom",
    ]
    assert [t.components for t in targets.values()] == [[], [3], [3, 3], []]
    assert [t.n_properties for t in targets.values()] == [1, 1, 1, 3]
    assert targets["non_conservative_stress"].layout["components"] == ["xyz_1", "xyz_2"]


def apply_lora(peer, **config):
    config = {"rank": 3, "alpha": 6.0, **config}
    strategy = {
        "method": "lora",
        "read_from": "x",
        "config": config,
        "inherit_heads": {},
    }
    apply_finetuning_strategy(peer, strategy)
    with torch.no_grad():
        for name, value in peer.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)


def test_lora_stays_unmerged_and_keeps_the_name_of_its_base(path):
    peer = build_peer()
    save_peer(peer, path)
    base = load_checkpoint(path)
    apply_lora(peer)
    save_peer(peer, path)
    tuned = load_checkpoint(path)
    assert base.lora is None
    targets = ("input_linear", "output_linear")
    assert tuned.lora == LoRAConfig(rank=3, alpha=6.0, targets=targets)
    assert compute_fingerprint(tuned.state) == compute_fingerprint(base.state)
    assert tuned.metadata["finetune_config"]["method"] == "lora"
    tuned.build_model()


def test_other_lora_layers_are_found(path):
    peer = build_peer()
    apply_lora(peer, rank=2, target_modules=["input_linear", "w_in"])
    save_peer(peer, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.lora.targets == ("input_linear", "w_in")
    checkpoint.build_model()


def test_sets_of_atomic_types_are_read(path):
    content = build_peer().get_checkpoint()
    info = build_dataset_info(["energy"])
    info._atomic_types = set(ATOMIC_TYPES)  # as version 4 and older have it
    content["model_data"]["dataset_info"] = info
    torch.save(content, path)
    assert load_checkpoint(path).atomic_types == ATOMIC_TYPES


def test_reading_does_not_import_metatrain(path):
    save_peer(build_peer(), path)
    code = (
        "import sys; from pet_calc.checkpoint import load_checkpoint; "
        f"load_checkpoint({str(path)!r}).build_model(); "
        "assert not any(m.split('.')[0] == 'metatrain' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lora_rank_that_contradicts_the_weights_is_an_error(path):
    peer = build_peer()
    apply_lora(peer)
    peer.finetune_config["config"]["rank"] = 5
    save_peer(peer, path)
    with pytest.raises(CheckpointError, match="rank 5"):
        load_checkpoint(path)

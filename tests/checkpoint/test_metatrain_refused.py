"""metatrain's checkpoints that are not read, or not all of them."""

import metatensor.torch as mts
import pytest
import torch
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_generic_target_info
from support.peer import ATOMIC_TYPES, build_dataset_info, build_peer, save_peer

from pet_calc.checkpoint import (
    load_checkpoint,
)
from pet_calc.errors import CheckpointError


def test_the_long_range_module_is_not_supported_yet(path):
    peer = build_peer()
    content = peer.get_checkpoint()
    content["model_data"]["model_hypers"]["long_range"]["enable"] = True
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"model\.ckpt.*long_range"):
        load_checkpoint(path)


def test_another_architecture_is_named(path):
    save_peer(build_peer(), path, architecture_name="soap_bpnn")
    with pytest.raises(CheckpointError, match="'soap_bpnn'"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [0, 17, 99])
def test_an_unknown_version_is_an_error(version, path):
    save_peer(build_peer(), path, model_ckpt_version=version)
    with pytest.raises(CheckpointError, match=f"1 to 16, got {version}; update"):
        load_checkpoint(path)


def test_an_unknown_hyper_is_named_and_ignored_as_metatrain_does(path, caplog):
    content = build_peer().get_checkpoint()
    content["model_data"]["model_hypers"]["d_secret"] = 3
    torch.save(content, path)
    load_checkpoint(path)
    assert "d_secret" in caplog.text


def test_a_missing_hyper_is_an_error(path):
    content = build_peer().get_checkpoint()
    del content["model_data"]["model_hypers"]["cutoff_function"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="cutoff_function"):
        load_checkpoint(path)


def test_spherical_targets_are_refused_by_name(path):
    irreps = [{"o3_lambda": 0, "o3_sigma": 1}, {"o3_lambda": 2, "o3_sigma": 1}]
    target = get_generic_target_info(
        "mtt::polarizability",
        {
            "quantity": "",
            "unit": "",
            "sample_kind": "system",
            "num_subtargets": 1,
            "type": {"spherical": {"irreps": irreps}},
        },
    )
    content = build_peer().get_checkpoint()
    content["model_data"]["dataset_info"] = DatasetInfo(
        length_unit="angstrom",
        atomic_types=ATOMIC_TYPES,
        targets={"mtt::polarizability": target},
    )
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"mtt::polarizability.*2 blocks"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["model_data", "model_state_dict"])
def test_a_file_without_its_parts_is_an_error(name, path):
    content = build_peer().get_checkpoint()
    del content[name]
    content["best_model_state_dict"] = None
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        load_checkpoint(path)


def test_a_damaged_map_is_an_error(path):
    peer = build_peer()
    content = peer.get_checkpoint()
    for state in (content["model_state_dict"], content["best_model_state_dict"]):
        state["scaler.energy_scaler_buffer"] = torch.zeros(99, dtype=torch.uint8)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="energy_scaler_buffer"):
        load_checkpoint(path)


def test_scales_of_another_shape_are_an_error(path):
    peer = build_peer()
    other = build_peer(["mtt::q"])
    content = peer.get_checkpoint()
    wrong = other.scaler.state_dict()["mtt::q_scaler_buffer"]
    assert mts.load_buffer(wrong).block(0).values.shape == (4, 3)
    for state in (content["model_state_dict"], content["best_model_state_dict"]):
        state["scaler.energy_scaler_buffer"] = wrong
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"shape \(4, 3\)"):
        load_checkpoint(path)


def test_types_that_contradict_the_weights_are_an_error(path):
    content = build_peer().get_checkpoint()
    content["model_data"]["dataset_info"] = build_dataset_info(["energy"], [1, 2, 8])
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="do not match the species index"):
        load_checkpoint(path)

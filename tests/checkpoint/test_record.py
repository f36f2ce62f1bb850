"""A checkpoint builds the model it was made of, or says what does not fit."""

import dataclasses

import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.checkpoint import Checkpoint
from pet_calc.errors import CheckpointError
from pet_calc.lora.inject import inject_lora, lora_layers
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.derivatives import predict


def compute_energies(model):
    return predict(model, build_batch(build_structures(), model)).energy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_comes_back_bit_for_bit(dtype):
    model = build_model(dtype=dtype, zbl=True, system_conditioning=True)
    checkpoint = Checkpoint.from_model(model, metadata={"name": "test"})
    built = checkpoint.build_model()
    assert checkpoint.dtype == dtype
    assert not built.training
    assert torch.equal(compute_energies(built), compute_energies(model))


def test_lora_layers_come_back_unmerged():
    model = build_model()
    inject_lora(model, LoRAConfig(rank=2, alpha=3.0, targets=("mlp", "compress")))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.weight.normal_()
    checkpoint = Checkpoint.from_model(model)
    built = checkpoint.build_model()
    assert checkpoint.lora == model.lora_config == built.lora_config
    assert list(lora_layers(built)) == list(lora_layers(model))
    assert torch.equal(compute_energies(built), compute_energies(model))


def test_a_record_does_not_follow_later_training():
    model = build_model()
    checkpoint = Checkpoint.from_model(model)
    before = checkpoint.state["edge_embedder.weight"].clone()
    with torch.no_grad():
        model.edge_embedder.weight += 1.0
    assert torch.equal(checkpoint.state["edge_embedder.weight"], before)
    built = checkpoint.build_model()
    with torch.no_grad():
        built.edge_embedder.weight += 1.0
    assert torch.equal(checkpoint.state["edge_embedder.weight"], before)


def test_the_tables_stay_in_float64():
    checkpoint = Checkpoint.from_model(build_model())
    built = checkpoint.build_model(dtype=torch.float32)
    assert built.edge_embedder.weight.dtype == torch.float32
    table = built.baseline.tables["energy"].composition
    assert torch.equal(table, checkpoint.state["baseline.tables.energy.composition"])


def test_building_leaves_the_random_numbers_alone():
    checkpoint = Checkpoint.from_model(build_model())
    before = torch.random.get_rng_state()
    checkpoint.build_model()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_does_not_fit_is_listed():
    checkpoint = Checkpoint.from_model(build_model())
    checkpoint.source = "model.ckpt"
    del checkpoint.state["edge_embedder.weight"]
    checkpoint.state["surprise"] = torch.ones(1)
    checkpoint.state["gnn_layers.0.compress.0.bias"] = torch.ones(3)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.build_model()
    message = str(caught.value)
    assert "model.ckpt" in message
    assert "missing: edge_embedder.weight" in message
    assert "unexpected: surprise" in message
    assert "gnn_layers.0.compress.0.bias is (3,), not (8,)" in message


def test_a_long_list_is_cut_short():
    checkpoint = Checkpoint.from_model(build_model())
    wider = dataclasses.replace(checkpoint.hypers, num_gnn_layers=4)
    checkpoint = dataclasses.replace(checkpoint, hypers=wider)
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more"):
        checkpoint.build_model()

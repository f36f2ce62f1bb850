"""Activation checkpointing: the same gradients, with less kept for them."""

import json

import numpy as np
import pytest
import torch
from support.models import EVERY_LINEAR, build_model
from support.runs import build_options, write_base
from support.structures import build_batch, build_structures

from pet_calc.config import TrainOptions
from pet_calc.errors import ConfigError
from pet_calc.lora import inject_lora
from pet_calc.lora.freeze import freeze_for_heads, freeze_for_lora
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.memory import measure_memory
from pet_calc.train.direct import predict_direct
from pet_calc.train.recompute import recompute_layers
from pet_calc.train.run import run_training
from pet_calc.train.start.direct_heads import DirectHeads

SPECS = [TargetSpec.for_energy(), TargetSpec.for_forces("non_conservative_force")]
DIRECT = DirectHeads("non_conservative_force")


def compute_gradients(model, *, with_derivatives=True):
    """Loss on all that a step may have, and its gradient by weight."""
    batch = build_batch(build_structures(), model)
    found = predict(
        model,
        batch,
        with_forces=with_derivatives,
        with_stress=with_derivatives,
        is_training=True,
    )
    loss = found.energy.pow(2).mean()
    if with_derivatives:
        loss = loss + found.forces.pow(2).mean() + 100 * found.stress.pow(2).sum()
    direct = predict_direct(model, batch, DIRECT, is_training=True)
    loss = loss + direct.forces.pow(2).mean()
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return loss.item(), dict(zip(weights, gradients, strict=True))


def freeze(model, method):
    if method == "lora":
        inject_lora(model, EVERY_LINEAR)
        freeze_for_lora(model, head_mode="train")
    elif method == "heads":
        freeze_for_heads(model)


@pytest.mark.parametrize("with_derivatives", [True, False])
@pytest.mark.parametrize(
    ("method", "hypers"),
    [
        ("full", {"num_gnn_layers": 3, "num_attention_layers": 2}),
        ("full", {"featurizer_type": "residual", "transformer_type": "PostLN"}),
        ("full", {"system_conditioning": True, "zbl": True}),
        ("lora", {}),
        ("heads", {}),
    ],
)
def test_gradients_are_those_without(method, hypers, with_derivatives):
    results = []
    for recomputes in (False, True):
        model = build_model(SPECS, **hypers)
        freeze(model, method)
        if recomputes:
            recompute_layers(model)
        results.append(compute_gradients(model, with_derivatives=with_derivatives))
    (loss, expected), (other_loss, found) = results
    assert other_loss == pytest.approx(loss, rel=1e-13)
    n_used = 0
    for name, gradient in expected.items():
        if gradient is None:
            # what has no part in the result has no gradient, or zero
            assert found[name] is None or not found[name].any(), name
            continue
        n_used += 1
        error = (found[name] - gradient).abs().max()
        # float64: the order of a few sums differs
        assert error <= 1e-12 * gradient.abs().max().clamp_min(1e-6), name
    assert n_used > 3


def test_predictions_are_bit_for_bit_those_without():
    batch = build_batch(build_structures(), build_model())
    results = []
    for recomputes in (False, True):
        model = build_model()
        if recomputes:
            recompute_layers(model)
        results.append(predict(model, batch, with_stress=True, with_features=True))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_less_is_kept_for_the_gradient_of_forces():
    kept = []
    for recomputes in (False, True):
        model = build_model(num_gnn_layers=4)
        batch = build_batch(2 * build_structures(), model)
        if recomputes:
            recompute_layers(model)
        with measure_memory(torch.device("cpu")) as memory:
            found = predict(model, batch, is_training=True)
            found.forces.pow(2).mean().backward()
        kept.append(memory["bytes"])
    # what one layer keeps, and the inputs of four
    assert kept[1] < 0.6 * kept[0]


def test_a_run_goes_as_one_without(tmp_path):
    base = write_base(tmp_path, targets=SPECS)
    logs = []
    for recomputes in (False, True):
        options = build_options(
            tmp_path,
            base=base,
            output=f"run {recomputes}",
            activation_checkpointing=recomputes,
            replay_generate=4,
            epochs=2,
        )
        report = run_training(options, show_progress=False)
        assert np.isfinite(report.validation["forces_mae"])
        rows = (tmp_path / f"run {recomputes}" / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(row) for row in rows])
    for one, other in zip(*logs, strict=True):
        del one["seconds"], other["seconds"]
        # steps of Adam from gradients that agree to 1e-12
        assert other == pytest.approx(one, rel=1e-8)


def test_it_does_not_go_with_the_compiled_engine():
    with pytest.raises(ConfigError, match="expected this or compile: true"):
        TrainOptions(activation_checkpointing=True, compile=True)

"""Folded weights: gradient, LoRA, TorchScript. The engine's tests have the numbers."""

import pytest
import torch
from support.models import build_model

from pet_calc.lora import LoRAConfig, inject_lora, merge_lora
from pet_calc.model.fold import (
    describe_shape,
    fold_model,
    fold_weights,
    gather_weights,
)
from pet_calc.model.hypers import TargetSpec

ALL_LAYERS = ("input_linear", "mlp", "compress", "combination_mlps", "center", "heads")
VARIANTS = {
    "feedforward": {},
    "residual": {"featurizer_type": "residual", "d_node": 8},
    "layer norm": {"normalization": "LayerNorm", "num_attention_layers": 2},
}


def inject(model):
    inject_lora(model, LoRAConfig(rank=2, targets=ALL_LAYERS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def add_up(folded):
    # different factors: else a gradient could cancel
    values = [(k + 1.3) * v.pow(2).sum() for k, v in enumerate(folded.values())]
    return torch.stack(values).sum()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_of_the_network_has_a_gradient(name):
    model = build_model(**VARIANTS[name])
    model.requires_grad_(True)
    add_up(fold_model(model, "energy", torch.float64)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", VARIANTS)
def test_known_layers_are_taken_as_they_are(name):
    model = build_model(**VARIANTS[name])
    inject_lora(model, LoRAConfig(rank=2, targets=("input_linear", "mlp", "compress")))
    for path, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in path and "gnn_layers.0" in path)
    weights, shape = gather_weights(model), describe_shape(model.hypers)
    first = fold_weights(weights, shape, "energy", torch.float64)
    known = {n: v for n, v in first.items() if not v.requires_grad}
    assert "gnn.1.0.mixed.weight" in known
    assert "gnn.0.0.mixed.weight" not in known
    again = fold_weights(weights, shape, "energy", torch.float64, known)
    assert again.keys() == first.keys()
    for part, value in first.items():
        assert torch.equal(value, again[part])
        assert value.requires_grad == again[part].requires_grad
        if part.startswith("gnn.1.") and part.endswith(".weight"):
            assert again[part] is known[part]


@pytest.mark.parametrize("name", VARIANTS)
def test_factors_of_lora_take_the_gradient_of_their_weight(name):
    model = build_model(**VARIANTS[name])
    inject_lora(model, LoRAConfig(rank=1, targets=("input_linear", "mlp")))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in path)
            if "lora_B" in path:
                parameter.fill_(0.1)
    shape, dtype = describe_shape(model.hypers), torch.float64
    whole = fold_weights(gather_weights(model), shape, "energy", dtype)
    apart = gather_weights(model, with_factors=True)
    apart = fold_weights(apart, shape, "energy", dtype)
    layers = [part[:-7] for part in apart if part.endswith(".lora_A")]
    assert {"gnn.0.0.mixed", "gnn.1.0.mlp_in"} <= set(layers)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected, found = 0, 0
    for layer in layers:
        weight, first, second = (
            apart[layer + end] for end in (".weight", ".lora_A", ".lora_B")
        )
        assert torch.equal(weight, whole[layer + ".weight"])
        assert not weight.requires_grad
        slope = torch.linspace(-1.0, 1.3, weight.numel()).view_as(weight).to(dtype)
        expected = expected + (slope * whole[layer + ".weight"]).sum()
        found = found + (slope * (second.t() @ first)).sum()
    pairs = zip(
        torch.autograd.grad(expected, parameters, allow_unused=True),
        torch.autograd.grad(found, parameters, allow_unused=True),
        strict=True,
    )
    for value, other in pairs:
        assert (value is None) == (other is None)
        assert value is None or torch.allclose(value, other, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_that_of_finite_differences():
    model = build_model()
    inject(model)
    names = [
        "gnn_layers.0.trans.layers.0.attention.input_linear.lora_A.weight",
        "gnn_layers.0.trans.layers.0.attention.input_linear.lora_B.weight",
        "gnn_layers.0.trans.layers.0.norm_attention.weight",
        "gnn_layers.1.compress.0.linear.weight",
        "gnn_layers.1.edge_embedder.weight",
    ]
    parameters = dict(model.named_parameters())
    for name in names:
        parameter = parameters[name].requires_grad_(True)
        folded = add_up(fold_model(model, "energy", torch.float64))
        (gradient,) = torch.autograd.grad(folded, parameter)
        direction = torch.randn_like(parameter)
        step = 1e-5
        sums = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                sums.append(add_up(fold_model(model, "energy", torch.float64)))
                parameter.add_(-sign * step * direction)
        slope = float(sums[0] - sums[1]) / (2 * step)
        # a central difference of a sum of some hundreds
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_unmerged_lora_counts_as_merged():
    model = build_model()
    plain = fold_model(model, "energy", torch.float64)
    inject(model)
    found = fold_model(model, "energy", torch.float64)
    merge_lora(model)
    expected = fold_model(model, "energy", torch.float64)
    assert found.keys() == expected.keys() == plain.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(
        plain["gnn.0.0.mixed.weight"], found["gnn.0.0.mixed.weight"]
    )


def test_the_asked_for_dtype_is_computed_in():
    model = build_model(dtype=torch.float32)
    narrow = fold_model(model, "energy", torch.float32)
    wide = fold_model(model, "energy", torch.float64)
    assert {value.dtype for value in narrow.values()} == {torch.float32}
    assert {value.dtype for value in wide.values()} == {torch.float64}
    rounded = [
        not torch.equal(wide[name].to(torch.float32).double(), wide[name])
        for name in ("gnn.0.basis", "gnn.0.table", "gnn.0.0.mixed.weight")
    ]
    assert all(rounded)


class Folder(torch.nn.Module):
    """As an exported file does it: its caller lists the parameters."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.shape = describe_shape(model.hypers)

    def forward(
        self, weights: dict[str, torch.Tensor], target: str
    ) -> dict[str, torch.Tensor]:
        return fold_weights(weights, self.shape, target, torch.float64)


@pytest.mark.parametrize("name", VARIANTS)
def test_scripted_is_eager(name):
    targets = [TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")]
    model = build_model(targets, **VARIANTS[name])
    scripted = torch.jit.script(Folder(model))
    weights = dict(scripted.model.named_parameters())
    assert weights.keys() == gather_weights(model).keys()
    for target in ("energy", "energy/pbe"):
        found = scripted(weights, target)
        expected = fold_model(model, target, torch.float64)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value)

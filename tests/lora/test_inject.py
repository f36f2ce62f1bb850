"""Corrections go into the layers that were named, and come out again."""

import copy

import pytest
import torch
from support.models import build_lora_model, build_model, evaluate, randomise_lora
from support.structures import build_batch, build_structures
from torch import nn

from pet_calc.errors import LoRAError
from pet_calc.lora import (
    LoRAConfig,
    LoRALinear,
    has_lora,
    inject_lora,
    lora_config_of,
    merge_lora,
    remove_lora,
)
from pet_calc.lora.inject import find_target_layers
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors

EVERYWHERE = LoRAConfig(rank=1, alpha=2.0, targets=("*",))
LAYER = "gnn_layers.{}.trans.layers.0"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("config", [LoRAConfig(rank=2), EVERYWHERE])
@pytest.mark.parametrize(
    "hypers", [{}, {"featurizer_type": "residual", "d_node": 8, "activation": "SiLU"}]
)
def test_injection_leaves_energy_forces_and_stress_unchanged(dtype, config, hypers):
    model = build_model(dtype=dtype, **hypers)
    before = evaluate(model)
    inject_lora(model, config)
    assert torch.equal(evaluate(model), before)


def test_trained_corrections_change_the_output():
    before = evaluate(build_model())
    assert (evaluate(build_lora_model()) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("input_linear", [f"{LAYER.format(g)}.attention.input_linear" for g in (0, 1)]),
        (
            "mlp",
            [f"{LAYER.format(g)}.mlp.{w}" for g in (0, 1) for w in ("w_in", "w_out")],
        ),
        ("center_mlp.w_in", [f"{LAYER.format(g)}.center_mlp.w_in" for g in (0, 1)]),
        (
            "gnn_layers.1.*.layers.0.center_contraction",
            [f"{LAYER.format(1)}.center_contraction"],
        ),
        ("edge_embedder", ["gnn_layers.0.edge_embedder", "gnn_layers.1.edge_embedder"]),
        ("gnn_layers.0.compress", [f"gnn_layers.0.compress.{i}" for i in (0, 2)]),
        (
            "combination_mlps",
            [f"combination_mlps.{g}.{i}" for g in (0, 1) for i in (0, 2)],
        ),
        (
            "heads",
            [f"{k}_heads.energy.0.{i}" for k in ("node", "edge") for i in (0, 2)],
        ),
        (
            "last_layers",
            [f"{k}_last_layers.energy.0.energy___0" for k in ("node", "edge")],
        ),
        (
            "node_heads.*",
            ["node_heads.energy.0.0", "node_heads.energy.0.2"],
        ),
        ("node_heads.energy.0.2", ["node_heads.energy.0.2"]),
    ],
)
def test_a_target_means_these_layers(target, expected):
    assert find_target_layers(build_model(), [target]) == expected


def test_center_stands_for_all_that_belongs_to_wide_nodes():
    model = build_model()
    found = find_target_layers(model, ["center"])
    assert found == find_target_layers(model, ["center_*"])
    kinds = {name.split("layers.0.")[-1] for name in found}
    assert kinds == {
        "center_contraction",
        "center_expansion",
        "center_mlp.w_in",
        "center_mlp.w_out",
    }


def test_a_number_means_layers_of_that_name_only():
    found = find_target_layers(build_model(), ["0"])
    assert found
    assert all(name.endswith(".0") for name in found)


def test_every_linear_layer_can_be_a_target():
    model = build_model(system_conditioning=True)
    n_linear = sum(isinstance(m, nn.Linear) for m in model.modules())
    assert len(inject_lora(model, EVERYWHERE)) == n_linear
    assert any("system_conditioning" in name for name in remove_lora(model))


def test_a_target_that_matches_nothing_is_an_error_listing_what_there_is():
    model = build_model()
    config = LoRAConfig(rank=2, targets=("input_linear", "q_proj"))
    with pytest.raises(LoRAError, match=r"'q_proj' matches no.*input_linear.*w_in"):
        inject_lora(model, config)
    assert not has_lora(model)


def test_a_second_injection_is_an_error():
    model = build_lora_model()
    with pytest.raises(LoRAError, match="already"):
        inject_lora(model, LoRAConfig(rank=2))


def test_a_rank_above_the_full_rank_is_an_error_unless_asked_for():
    model = build_model()
    with pytest.raises(LoRAError, match=r"rank 9 .*input_linear \(8 -> 24\).*most 8"):
        inject_lora(model, LoRAConfig(rank=9))
    assert not has_lora(model)
    before = evaluate(model)
    inject_lora(model, LoRAConfig(rank=9), strict_rank=False)
    assert torch.equal(evaluate(model), before)


def test_the_same_seed_gives_the_same_corrections():
    first, again, other = (build_model() for _ in range(3))
    before = torch.get_rng_state()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        inject_lora(model, LoRAConfig(rank=2), seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    name = f"{LAYER.format(0)}.attention.input_linear.lora_A.weight"
    states = [model.state_dict()[name] for model in (first, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_state_names_are_those_of_published_lora_checkpoints():
    names = build_lora_model().state_dict()
    path = f"{LAYER.format(1)}.attention.output_linear"
    for leaf in ("linear.weight", "linear.bias", "lora_A.weight", "lora_B.weight"):
        assert f"{path}.{leaf}" in names
    assert f"{path}.weight" not in names


@pytest.mark.parametrize("config", [LoRAConfig(rank=8), EVERYWHERE])
def test_merged_equals_unmerged(config):
    model = build_lora_model(config)
    before = evaluate(model)
    names = [name for name, _ in build_model().named_parameters()]
    assert merge_lora(model)
    # sums in another order: relative, as forces of this random model reach 1e2
    torch.testing.assert_close(evaluate(model), before, rtol=1e-12, atol=1e-12)
    assert not has_lora(model)
    assert lora_config_of(model) is None
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("hypers", [{}, {"featurizer_type": "residual", "d_node": 8}])
def test_all_linear_is_all_that_lies_between_embedding_and_heads(hypers):
    model = build_model(**hypers)
    found = find_target_layers(model, ["all-linear"])
    layers = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    inside = [n for n in layers if n.startswith(("gnn_layers.", "combination_mlps."))]
    assert found == [name for name in inside if not name.endswith("edge_embedder")]
    # a base without combinations has edges too
    edges = [name for name in found if ".center_" not in name]
    assert find_target_layers(model, LoRAConfig().targets) == edges
    assert any("combination_mlps" in name for name in edges) == (not hypers)


def test_a_failed_merge_leaves_the_model_unmerged():
    model = build_lora_model()
    layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
    with torch.no_grad():
        layers[-1].lora_B.weight.fill_(float("nan"))
    with pytest.raises(LoRAError, match=r"combination_mlps\.1\.2"):
        merge_lora(model)
    assert [m for m in model.modules() if isinstance(m, LoRALinear)] == layers


def test_a_merged_weight_trains_if_its_correction_did():
    model = build_lora_model()
    model.requires_grad_(False)
    layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
    layers[0].lora_B.requires_grad_(True)
    merged = merge_lora(model)
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable == [f"{merged[0]}.weight"]


def test_removal_brings_the_base_back_bit_for_bit():
    base = build_model()
    model = build_lora_model()
    remove_lora(model)
    assert lora_config_of(model) is None
    state = model.state_dict()
    assert list(state) == list(base.state_dict())
    assert all(torch.equal(state[n], v) for n, v in base.state_dict().items())
    assert torch.equal(evaluate(model), evaluate(base))


def test_merging_or_removing_nothing_is_allowed():
    model = build_model()
    assert merge_lora(model) == []
    assert remove_lora(model) == []
    assert lora_config_of(model) is None


def test_the_config_is_remembered_also_by_copies_and_wrappers():
    config = LoRAConfig(rank=2, alpha=4.0)
    model = build_lora_model(config)
    assert lora_config_of(model) == config
    assert lora_config_of(copy.deepcopy(model)) == config
    wrapped = lora_config_of(nn.Sequential(model))
    assert (wrapped.rank, wrapped.alpha) == (2, 4.0)
    assert wrapped.targets[0] == f"0.{LAYER.format(0)}.attention.input_linear"


def test_scripted_equals_eager():
    model = build_lora_model(EVERYWHERE)
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    scripted = torch.jit.script(model)
    expected = model(batch, vectors, ["energy"], False)["energy"]
    found = scripted(batch, vectors, ["energy"], False)["energy"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_gradient_of_a_force_loss_reaches_b_first_and_then_a():
    model = build_model()
    inject_lora(model, LoRAConfig(rank=2))
    batch = build_batch(build_structures(), model)

    def step():
        model.zero_grad()
        result = predict(model, batch, "energy", is_training=True)
        result.forces.pow(2).sum().backward()
        layers = [m for m in model.modules() if isinstance(m, LoRALinear)]
        return [
            [getattr(m, part).weight.grad.abs().max() for m in layers]
            for part in ("lora_A", "lora_B")
        ]

    grad_a, grad_b = step()
    assert max(grad_a) == 0.0
    assert min(grad_b) > 0.0
    randomise_lora(model)
    grad_a, grad_b = step()
    assert min(grad_a) > 0.0
    assert min(grad_b) > 0.0

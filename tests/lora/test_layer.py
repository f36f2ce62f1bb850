"""One linear layer with a correction."""

import pytest
import torch
from torch import nn

from pet_calc.errors import LoRAError
from pet_calc.lora.layer import LoRAConfig, LoRALinear


def build_layer(rank=3, *, dtype=torch.float64, is_random=True, n_in=5, n_out=4):
    generator = torch.Generator().manual_seed(3)
    linear = nn.Linear(n_in, n_out, dtype=dtype)
    layer = LoRALinear(linear, rank, alpha=6.0)
    if is_random:
        with torch.no_grad():
            layer.lora_B.weight.normal_(generator=generator)
    return layer


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (5,), (0, 5)])
def test_a_new_layer_gives_what_the_base_gives_bit_for_bit(dtype, shape):
    layer = build_layer(dtype=dtype, is_random=False)
    x = draw(*shape, dtype=dtype)
    assert torch.equal(layer(x), layer.linear(x))


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (5,)])
def test_the_correction_is_alpha_over_rank_times_b_a(shape):
    layer = build_layer()
    x = draw(*shape)
    weight = layer.linear.weight + 2.0 * layer.lora_B.weight @ layer.lora_A.weight
    expected = x @ weight.T + layer.linear.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


def test_the_merged_weight_does_what_forward_does():
    layer = build_layer()
    x = draw(7, 5)
    merged = nn.functional.linear(x, layer.merged_weight(), layer.linear.bias)
    torch.testing.assert_close(layer(x), merged, rtol=0, atol=1e-14)


def test_a_disabled_layer_is_the_base():
    layer = build_layer()
    x = draw(7, 5)
    layer.is_enabled = False
    assert torch.equal(layer(x), layer.linear(x))
    assert torch.equal(layer.merged_weight(), layer.linear.weight)


def test_full_rank_can_represent_any_weight_change():
    layer = build_layer(rank=4)
    change = draw(4, 5)
    # W0 + s U (S Vt / s): the singular value decomposition, cut at full rank
    u, s, vt = torch.linalg.svd(change, full_matrices=False)
    with torch.no_grad():
        layer.lora_B.weight.copy_(u)
        layer.lora_A.weight.copy_(s[:, None] * vt / layer.scaling)
    wanted = layer.linear.weight + change
    torch.testing.assert_close(layer.merged_weight(), wanted, rtol=0, atol=1e-14)


def test_rank_one_changes_the_weight_by_a_matrix_of_rank_one():
    layer = build_layer(rank=1)
    change = layer.merged_weight() - layer.linear.weight
    assert torch.linalg.matrix_rank(change) == 1


def test_the_merge_is_done_in_float64():
    layer = build_layer(dtype=torch.float32)
    a, b = layer.lora_A.weight.double(), layer.lora_B.weight.double()
    exact = layer.linear.weight.double() + layer.scaling * b @ a
    assert torch.equal(layer.merged_weight(), exact.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_merge_that_is_not_finite_is_an_error_naming_the_layer(value):
    layer = build_layer()
    with torch.no_grad():
        layer.lora_A.weight.fill_(1e300)
        layer.lora_B.weight.fill_(value)
    with pytest.raises(LoRAError, match=r"attention\.input_linear.*not finite"):
        layer.merged_weight("attention.input_linear")


def test_the_first_gradient_reaches_b_only_and_then_a_too():
    layer = build_layer(is_random=False)
    x = draw(7, 5)
    layer(x).pow(2).sum().backward()
    assert layer.lora_A.weight.grad.abs().max() == 0.0
    assert layer.lora_B.weight.grad.abs().min() > 0.0
    with torch.no_grad():
        layer.lora_B.weight -= 0.1 * layer.lora_B.weight.grad
    layer(x).pow(2).sum().backward()
    assert layer.lora_A.weight.grad.abs().min() > 0.0


def test_second_derivatives_are_right():
    layer = build_layer()
    x = draw(3, 5).requires_grad_(True)
    weights = [layer.lora_A.weight, layer.lora_B.weight]

    def function(x, a, b):
        values = {"lora_A.weight": a, "lora_B.weight": b}
        return torch.tanh(torch.func.functional_call(layer, values, (x,)))

    torch.autograd.gradgradcheck(function, (x, *weights))


def test_scripted_equals_eager():
    layer = build_layer()
    scripted = torch.jit.script(layer)
    for shape in [(7, 5), (2, 7, 5)]:
        x = draw(*shape)
        assert torch.equal(scripted(x), layer(x))
    layer.is_enabled = False
    assert torch.equal(torch.jit.script(layer)(x), layer.linear(x))


def test_start_values_come_from_the_generator_and_leave_the_global_one_alone():
    linear = nn.Linear(5, 4)
    before = torch.get_rng_state()
    first, again, other = (
        LoRALinear(linear, 2, 4.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.lora_A.weight, again.lora_A.weight)
    assert not torch.equal(first.lora_A.weight, other.lora_A.weight)
    wide = LoRALinear(
        nn.Linear(5, 4).double(), 2, 4.0, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(first.lora_A.weight, wide.lora_A.weight.float())


def test_autocast_is_supported():
    layer = build_layer(dtype=torch.float32)
    x = draw(7, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True])
def test_a_rank_that_is_no_positive_integer_is_an_error(rank):
    with pytest.raises(LoRAError, match="rank must be an integer of at least 1"):
        LoRAConfig(rank=rank)
    with pytest.raises(LoRAError, match="rank must be an integer of at least 1"):
        LoRALinear(nn.Linear(2, 2), rank, 1.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_not_positive_is_an_error(alpha):
    with pytest.raises(LoRAError, match="alpha must be a positive number"):
        LoRAConfig(alpha=alpha)


def test_targets_must_be_a_list_of_names():
    with pytest.raises(LoRAError, match="list of names"):
        LoRAConfig(targets="mlp")
    with pytest.raises(LoRAError, match="at least one"):
        LoRAConfig(targets=())


def test_the_config_survives_a_plain_mapping():
    config = LoRAConfig(rank=3, alpha=1.5, targets=["mlp", "heads"])
    assert config.targets == ("mlp", "heads")
    assert LoRAConfig.from_dict(config.to_dict()) == config

"""Learning-rate schedule and averaged weights."""

import pytest
import torch

from pet_calc.config import TrainOptions
from pet_calc.lora import LoRAConfig, inject_lora
from pet_calc.train.optim import (
    WeightAverage,
    build_optimizer,
    compute_learning_rate,
    load_optimizer,
    set_learning_rate,
)


def test_the_rate_rises_then_falls_to_zero():
    rates = [compute_learning_rate(s, 100, 1.0, 0.1) for s in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3
    assert min(rates) > 0


def test_without_warm_up_the_first_rate_is_the_peak():
    assert compute_learning_rate(0, 10, 0.5, 0.0) == 0.5


def test_only_trainable_parameters_are_optimised():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, TrainOptions())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(model.weight)]
    assert isinstance(
        build_optimizer(model, TrainOptions(weight_decay=0.01)), torch.optim.AdamW
    )


def test_b_of_lora_moves_faster_than_the_rest():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    inject_lora(model, LoRAConfig(rank=2, targets=("0",)))
    optimizer = build_optimizer(model, build_lora_options(config={"b_rate": 4.0}))
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model[0].lora_B.weight)] == 0.5 * 4.0
    assert rates[id(model[0].lora_A.weight)] == 0.5
    assert rates[id(model[1].weight)] == 0.5


def build_lora_options(config=None, **training):
    finetune = {"method": "lora", "config": config or {}}
    return TrainOptions(finetune=finetune, **training)


def test_adams_mean_of_squares_is_short_with_lora_alone():
    model = torch.nn.Linear(2, 2)
    for options, beta2 in (
        (TrainOptions(), 0.999),
        (build_lora_options(), 0.95),
        (build_lora_options(adam_beta2=0.99), 0.99),
    ):
        (group,) = build_optimizer(model, options).param_groups
        assert group["betas"] == (0.9, beta2)


@pytest.mark.parametrize(("beta2", "expected"), [(None, 0.999), (0.95, 0.95)])
def test_a_saved_state_takes_the_settings_of_now(beta2, expected):
    """But for the mean where nobody names it: a run of before LoRA had a short one."""
    model = torch.nn.Linear(2, 2)
    before = build_optimizer(model, TrainOptions())
    options = build_lora_options(adam_beta2=beta2, weight_decay=0.1)
    optimizer = build_optimizer(model, options)
    load_optimizer(optimizer, before.state_dict(), options)
    (group,) = optimizer.param_groups
    assert group["betas"] == (0.9, expected)
    assert group["weight_decay"] == 0.1
    # AdamW's, which its state of before had not
    assert group["decoupled_weight_decay"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_gradient_in_another_layout_makes_the_same_step(weight_decay):
    """A transposed product has its numbers in the order of the other index."""
    gradient = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]]).double()
    weights = []
    for layout in (gradient, gradient.T.contiguous().T):
        model = torch.nn.Linear(3, 2, bias=False).double()
        model.weight.data.fill_(1.0)
        optimizer = build_optimizer(model, TrainOptions(weight_decay=weight_decay))
        model.weight.grad = layout
        optimizer.step()
        weights.append(model.weight.detach().clone())
    assert layout.stride() != gradient.stride()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0.0)


def test_averages_follow_the_weights_and_swap_back():
    model = torch.nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average.values["weight"].fill_(0.0)
        model.weight.fill_(1.0)
    average.update()  # decay of the first update is 2/11
    expected = 1.0 - 2 / 11
    average.swap()
    assert float(model.weight.detach()) == pytest.approx(expected)
    average.swap()
    assert float(model.weight.detach()) == 1.0
    restored = WeightAverage(model, decay=0.5)
    restored.load_state_dict(average.state_dict())
    assert restored.n_updates == 1
    assert torch.equal(restored.values["weight"], average.values["weight"])

"""Which parameters train."""

import pytest
from support.models import EVERY_LINEAR, PBE0, build_lora_model, build_model

from pet_calc.errors import LoRAError
from pet_calc.lora import (
    LoRAConfig,
    format_trainable_table,
    freeze_for_heads,
    freeze_for_lora,
    inject_lora,
    trainable_table,
    unfreeze_all,
)

WITH_HEADS = LoRAConfig(rank=1, targets=("input_linear", "heads"))
GROUPS = ("node_heads", "edge_heads", "node_last_layers", "edge_last_layers")


def trainable(model):
    return {n for n, p in model.named_parameters() if p.requires_grad}


def names_in_heads(model, target, groups=GROUPS):
    prefixes = tuple(f"{group}.{target}." for group in groups)
    return {n for n, _ in model.named_parameters() if n.startswith(prefixes)}


def lora_names(model):
    return {n for n, _ in model.named_parameters() if ".lora_" in n}


def build_two_targets(config=None):
    model = build_model()
    model.add_target(PBE0, inherit_from="energy")
    inject_lora(model, config or EVERY_LINEAR)
    return model


def test_exactly_the_injected_parameters_train_when_heads_are_frozen():
    model = build_lora_model()
    freeze_for_lora(model, head_mode="freeze")
    assert trainable(model) == lora_names(model)
    # A and B of twelve layers in each of two message-passing steps
    assert len(trainable(model)) == 2 * 2 * 12


def test_a_parameter_that_is_only_named_like_a_correction_does_not_train():
    model = build_model()
    model.lora_A_like = model.edge_embedder
    inject_lora(model, LoRAConfig(rank=2))
    freeze_for_lora(model, head_mode="freeze")
    assert not model.edge_embedder.weight.requires_grad


def test_heads_of_the_given_targets_train_along():
    model = build_two_targets()
    freeze_for_lora(model, targets=[PBE0.name])
    wanted = lora_names(model) | names_in_heads(model, PBE0.name)
    assert trainable(model) == wanted
    freeze_for_lora(model)
    assert trainable(model) == wanted | names_in_heads(model, "energy")


def test_corrections_in_the_heads_of_other_targets_stay_frozen():
    model = build_two_targets(WITH_HEADS)
    freeze_for_lora(model, head_mode="lora", targets=[PBE0.name])
    others = names_in_heads(model, "energy")
    assert trainable(model) == lora_names(model) - others
    assert lora_names(model) & others


@pytest.mark.parametrize("head_mode", ["train", "freeze"])
def test_a_head_mode_that_contradicts_the_injection_is_an_error(head_mode):
    model = build_two_targets(WITH_HEADS)
    with pytest.raises(LoRAError, match="use head_mode='lora'"):
        freeze_for_lora(model, head_mode=head_mode)
    with pytest.raises(LoRAError, match="add 'heads'"):
        freeze_for_lora(build_lora_model(), head_mode="lora")


def test_errors_name_what_is_wrong():
    with pytest.raises(LoRAError, match="inject_lora first"):
        freeze_for_lora(build_model())
    with pytest.raises(LoRAError, match="'train', 'freeze' or 'lora', got 'none'"):
        freeze_for_lora(build_lora_model(), head_mode="none")
    with pytest.raises(LoRAError, match="no target 'dipole'; there are energy"):
        freeze_for_heads(build_model(), ["dipole"])
    with pytest.raises(LoRAError, match="no heads called 'head'"):
        freeze_for_heads(build_model(), groups=["head"])


def test_only_heads_train_when_asked_for():
    model = build_two_targets()
    freeze_for_heads(model, [PBE0.name])
    assert trainable(model) == names_in_heads(model, PBE0.name)
    lasts = ["node_last_layers", "edge_last_layers"]
    freeze_for_heads(model, groups=lasts)
    wanted = [names_in_heads(model, t, lasts) for t in ("energy", PBE0.name)]
    assert trainable(model) == wanted[0] | wanted[1]


def test_unfreezing_lets_everything_train():
    model = build_lora_model()
    freeze_for_lora(model)
    unfreeze_all(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_table_adds_up():
    model = build_two_targets(LoRAConfig(rank=2, targets=("mlp", "combination_mlps")))
    freeze_for_lora(model, targets=[PBE0.name])
    rows = trainable_table(model)
    assert sum(r.n_parameters for r in rows) == sum(
        p.numel() for p in model.parameters()
    )
    assert sum(r.n_trainable for r in rows) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    by_group = {row.group: row for row in rows}
    assert by_group["gnn_layers"].n_trainable == 0
    # mlp of two layers: w_in 8 -> 16 and w_out 8 -> 8, rank 2
    assert by_group["LoRA in gnn_layers"].n_trainable == 2 * 2 * (8 + 16 + 8 + 8)
    row = by_group["heads of energy/pbe0"]
    assert row.n_trainable == row.n_parameters > 0
    assert by_group["heads of energy"].n_trainable == 0


def test_the_table_as_text_ends_with_a_total():
    model = build_lora_model()
    freeze_for_lora(model, head_mode="freeze")
    lines = format_trainable_table(trainable_table(model)).splitlines()
    assert len({len(line) for line in lines}) == 1
    n_all = sum(p.numel() for p in model.parameters())
    n_lora = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = lines[-1].split()
    assert total[0] == "total"
    assert total[1:3] == [f"{n_all:,}", f"{n_lora:,}"]
    assert float(total[3]) == pytest.approx(100 * n_lora / n_all, abs=0.01)

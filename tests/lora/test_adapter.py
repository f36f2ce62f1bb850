"""An adapter holds all that fine-tuning changed, and goes back on its base."""

import dataclasses

import pytest
import torch
from support.models import PBE0, build_lora_model, build_model, build_tuned, evaluate

from pet_calc.errors import LoRAError
from pet_calc.lora import (
    Adapter,
    LoRAConfig,
    apply_adapter,
    compute_fingerprint,
    extract_adapter,
    freeze_for_lora,
    has_lora,
    inject_lora,
    lora_config_of,
    merge_lora,
)

WITH_HEADS = LoRAConfig(rank=1, targets=("mlp", "heads", "last_layers"))


@pytest.mark.parametrize("new_target", [None, PBE0])
@pytest.mark.parametrize("config", [None, WITH_HEADS])
def test_base_plus_adapter_is_the_tuned_model_bit_for_bit(config, new_target):
    tuned, adapter = build_tuned(config, new_target=new_target)
    name = "energy" if new_target is None else new_target.name
    model = build_model()
    before = torch.get_rng_state()
    added = apply_adapter(model, adapter)
    assert torch.equal(torch.get_rng_state(), before)
    assert added == ([] if new_target is None else [name])
    assert model.targets[name] == tuned.targets[name]
    assert lora_config_of(model) == adapter.config
    assert torch.equal(evaluate(model, name), evaluate(tuned, name))


def test_an_adapter_holds_corrections_heads_and_tables_only():
    _, adapter = build_tuned(new_target=PBE0)
    own = (".lora_A.weight", ".lora_B.weight")
    heads = ("node_heads", "edge_heads", "node_last_layers", "edge_last_layers")
    prefixes = tuple(f"{group}.{PBE0.name}." for group in heads)
    for name in adapter.tensors:
        assert name.endswith(own) or name.startswith(
            (*prefixes, f"baseline.tables.{PBE0.name}.")
        )
    assert adapter.tensors[f"baseline.tables.{PBE0.name}.scale"].dtype == torch.float64
    assert len(adapter.layer_names) == 2 * 12
    assert adapter.base_name == "tiny"
    assert adapter.scaling == 2.0


def test_an_adapter_is_a_copy():
    tuned, adapter = build_tuned()
    before = {name: value.clone() for name, value in adapter.tensors.items()}
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.zero_()
    assert all(torch.equal(adapter.tensors[n], v) for n, v in before.items())


def test_an_adapter_can_be_trained_on_and_merged():
    _, adapter = build_tuned()
    model = build_model(dtype=torch.float64)
    apply_adapter(model, adapter)
    freeze_for_lora(model)
    before = evaluate(model)
    merge_lora(model)
    torch.testing.assert_close(evaluate(model), before, rtol=1e-12, atol=1e-12)


def test_a_float32_adapter_goes_on_its_base_in_float64():
    _, adapter = build_tuned(base=build_model(dtype=torch.float32))
    model = build_model(dtype=torch.float32).double()
    apply_adapter(model, adapter)
    assert all(p.dtype == torch.float64 for p in model.parameters())


def test_extraction_refuses_a_model_whose_backbone_was_trained():
    model = build_model()
    fingerprint = compute_fingerprint(model.state_dict())
    inject_lora(model, LoRAConfig(rank=2))
    with torch.no_grad():
        model.edge_embedder.weight += 1.0
    with pytest.raises(LoRAError, match="save a full checkpoint instead"):
        extract_adapter(model, base_fingerprint=fingerprint)


def test_extraction_needs_corrections_and_known_targets():
    with pytest.raises(LoRAError, match="no LoRA layers"):
        extract_adapter(build_model(), base_fingerprint="")
    with pytest.raises(LoRAError, match="no target 'dipole'; there are energy"):
        extract_adapter(build_lora_model(), base_fingerprint="", targets=["dipole"])


def test_the_wrong_base_is_refused_by_name_and_fingerprint():
    _, adapter = build_tuned()
    other = build_model(seed=1)
    found = compute_fingerprint(other.state_dict())
    expected = f"tiny .*{adapter.base_fingerprint[:16]}.* other .*{found[:16]}"
    with pytest.raises(LoRAError, match=expected):
        apply_adapter(other, adapter, base_name="other")
    assert not has_lora(other)


def test_an_adapter_does_not_go_on_another_one():
    _, adapter = build_tuned()
    with pytest.raises(LoRAError, match="already"):
        apply_adapter(build_lora_model(), adapter)


def replace_tensor(adapter, ending, change):
    name = next(n for n in adapter.tensors if n.endswith(ending))
    tensors = {**adapter.tensors, name: change(adapter.tensors[name])}
    return dataclasses.replace(adapter, tensors=tensors)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("input_linear.lora_B.weight", r"input_linear is \[24, 8\].*but \[23, 8\]"),
        ("baseline.tables.energy/pbe0.scale", r"is \[4, 1\].*but \[5, 1\]"),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_and_the_base_stays_whole(ending, message):
    _, adapter = build_tuned(new_target=PBE0)
    wrong = replace_tensor(adapter, ending, lambda t: t[1:])
    model = build_model()
    before = list(model.state_dict())
    with pytest.raises(LoRAError, match=message):
        apply_adapter(model, wrong)
    assert list(model.state_dict()) == before


def test_a_target_in_other_units_is_refused():
    _, adapter = build_tuned()
    spec = dataclasses.replace(adapter.targets["energy"], unit="kcal/mol")
    wrong = dataclasses.replace(adapter, targets={"energy": spec})
    with pytest.raises(LoRAError, match=r"'kcal/mol', but .*'eV' in the model"):
        apply_adapter(build_model(), wrong)


def test_an_adapter_of_unusable_tensors_cannot_be_made():
    _, adapter = build_tuned()
    with pytest.raises(LoRAError, match="not finite"):
        replace_tensor(adapter, "lora_A.weight", lambda t: t / 0.0)
    with pytest.raises(LoRAError, match="no A and B of rank 2"):
        replace_tensor(adapter, "lora_A.weight", lambda t: t[:1])
    with pytest.raises(LoRAError, match="no A and B of rank 2"):
        Adapter(
            config=LoRAConfig(rank=2),
            tensors={"x.lora_A.weight": torch.zeros(2, 3)},
            targets={},
            base_fingerprint="",
        )
    with pytest.raises(LoRAError, match="no A and B of rank 2"):
        Adapter(
            config=LoRAConfig(rank=2),
            tensors={"x.lora_B.weight": torch.zeros(3, 2)},
            targets={},
            base_fingerprint="",
        )

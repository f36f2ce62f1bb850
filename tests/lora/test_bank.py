"""Several adapters on one base."""

import dataclasses

import pytest
import torch
from support.models import PBE0, build_lora_model, build_model, build_tuned, evaluate
from support.structures import build_batch, build_structures

from pet_calc.errors import LoRAError
from pet_calc.lora import AdapterBank, LoRAConfig, inject_lora
from pet_calc.model.edges import compute_edge_vectors

WIDE = LoRAConfig(rank=1, alpha=3.0, targets=("mlp", "compress", "heads"))


def build_bank():
    """A bank with two adapters of different rank, layers and target."""
    model = build_model()
    bank = AdapterBank(model, base_name="tiny")
    tuned_a, adapter_a = build_tuned()
    tuned_b, adapter_b = build_tuned(WIDE, seed=3, new_target=PBE0)
    bank.add("a", adapter_a)
    bank.add("b", adapter_b)
    return model, bank, tuned_a, tuned_b


def assert_is_base(model):
    state, base = model.state_dict(), build_model().state_dict()
    assert list(state) == list(base)
    assert all(torch.equal(state[name], value) for name, value in base.items())
    assert list(model.targets) == ["energy"]
    assert torch.equal(evaluate(model), evaluate(build_model()))


def test_loading_adapters_changes_nothing():
    model, bank, _, _ = build_bank()
    assert bank.names == ["a", "b"]
    assert bank.active is None
    assert_is_base(model)


def test_the_active_adapter_gives_what_its_training_gave():
    model, bank, tuned_a, tuned_b = build_bank()
    bank.activate("a")
    assert bank.active == "a"
    # merged against unmerged: the same sums in another order
    exact = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(evaluate(model), evaluate(tuned_a), **exact)
    bank.activate("b")
    assert bank.active == "b"
    expected = evaluate(tuned_b, PBE0.name)
    torch.testing.assert_close(evaluate(model, PBE0.name), expected, **exact)


def test_switching_forgets_the_adapter_before():
    model, bank, _, _ = build_bank()
    bank.activate("a")
    first = evaluate(model)
    bank.activate("b")
    bank.activate("a")
    assert torch.equal(evaluate(model), first)
    assert list(model.targets) == ["energy"]


def test_disabling_brings_the_base_back_bit_for_bit():
    model, bank, _, _ = build_bank()
    for name in ("a", "b"):
        bank.activate(name)
        bank.disable()
        assert bank.active is None
        assert_is_base(model)
    bank.disable()
    assert_is_base(model)


def test_the_wrong_base_is_refused_by_name():
    _, adapter = build_tuned()
    bank = AdapterBank(build_model(seed=1), base_name="other")
    with pytest.raises(LoRAError, match=r"for the base tiny .* the model is other"):
        bank.add("a", adapter)
    assert bank.names == []


def test_names_are_unique_and_must_be_known():
    _, bank, _, _ = build_bank()
    _, adapter = build_tuned()
    with pytest.raises(LoRAError, match="'a' already"):
        bank.add("a", adapter)
    with pytest.raises(LoRAError, match="no adapter 'c'; loaded: a, b"):
        bank.activate("c")


def test_an_adapter_that_does_not_fit_leaves_the_base_active():
    model, bank, _, _ = build_bank()
    _, adapter = build_tuned(seed=5, new_target=PBE0)
    name = next(n for n in adapter.tensors if n.startswith("node_heads"))
    tensors = {**adapter.tensors, name: adapter.tensors[name][1:]}
    bank.add("wrong", dataclasses.replace(adapter, tensors=tensors))
    bank.activate("a")
    with pytest.raises(LoRAError, match="node_heads"):
        bank.activate("wrong")
    assert bank.active is None
    assert_is_base(model)


def test_a_bank_and_injected_layers_exclude_each_other():
    with pytest.raises(LoRAError, match="base alone"):
        AdapterBank(build_lora_model())
    model, bank, _, _ = build_bank()
    bank.activate("a")
    inject_lora(model, LoRAConfig(rank=1))
    with pytest.raises(LoRAError, match="while a bank holds"):
        bank.disable()


def test_an_active_adapter_is_part_of_a_scripted_model():
    model, bank, _, _ = build_bank()
    bank.activate("b")
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    inputs = (batch, vectors, [PBE0.name], False)
    scripted = torch.jit.script(model)
    assert torch.equal(scripted(*inputs)[PBE0.name], model(*inputs)[PBE0.name])

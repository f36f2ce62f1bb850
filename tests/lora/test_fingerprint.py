"""A base has one fingerprint, and another base has another."""

import torch
from support.models import PBE0, build_lora_model, build_model, build_tuned

from pet_calc.lora import compute_fingerprint
from pet_calc.lora.fingerprint import base_state_of, hash_tensors


def fingerprint_of(model):
    return compute_fingerprint(model.state_dict())


def test_dtype_corrections_heads_and_targets_do_not_count():
    wanted = fingerprint_of(build_model(dtype=torch.float32))
    assert len(wanted) == 64
    assert fingerprint_of(build_model(dtype=torch.float32).double()) == wanted
    assert fingerprint_of(build_lora_model(dtype=torch.float32)) == wanted
    tuned, _ = build_tuned(base=build_model(dtype=torch.float32), new_target=PBE0)
    assert fingerprint_of(tuned) == wanted


def test_every_backbone_weight_counts():
    model = build_model(zbl=True)
    found = {fingerprint_of(model)}
    for name in (
        "edge_embedder.weight",
        "gnn_layers.1.compress.0.bias",
        "combination_norms.0.weight",
        "zbl.covalent_radii",
    ):
        model.state_dict()[name].flatten()[-1:] += 0.5
        found.add(fingerprint_of(model))
    assert len(found) == 5


def test_the_base_state_has_the_names_of_the_base():
    base = build_model().state_dict()
    found = base_state_of(build_lora_model().state_dict())
    assert set(found) == set(base)
    assert all(torch.equal(found[name], base[name]) for name in base)


def test_hashes_see_name_shape_dtype_and_bits():
    value = torch.arange(6.0)
    variants = [
        {"a": value},
        {"b": value},
        {"a": value.view(2, 3)},
        {"a": value.view(2, 3).T},
        {"a": value.to(torch.bfloat16)},
        {"a": value.view(torch.int32)},
        {"a": value[:0]},
        {"a": torch.tensor(1.0)},
    ]
    assert len({hash_tensors(tensors) for tensors in variants}) == len(variants)
    both = {"a": value, "b": value}
    assert hash_tensors(both) == hash_tensors(dict(reversed(both.items())))

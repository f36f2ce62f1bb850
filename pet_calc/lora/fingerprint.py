"""A hash that tells one set of base weights from another."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from pet_calc.lora.freeze import HEAD_GROUPS
from pet_calc.model.tables import TABLES

_LORA_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


def compute_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the backbone, all that an adapter corrects or relies on.

    Heads, scales and composition energies do not count: fine-tuning replaces them,
    and an adapter brings its own. Corrections do not count either, and floating
    values are rounded to float32. So a base has one fingerprint with and without an
    adapter on it, in float32 and cast to float64, on every device.

    Args:
        state: ``model.state_dict()`` or a checkpoint's ``state``.
    """
    weights = {}
    for name, value in base_state_of(state).items():
        if name.split(".", 1)[0] in (*HEAD_GROUPS, TABLES):
            continue
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float32)
        weights[name] = value
    return hash_tensors(weights)


def base_state_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state under the base's names, without the corrections.

    ``PATH.linear.weight`` becomes ``PATH.weight`` where ``PATH.lora_A.weight`` is.
    """
    base = {}
    for name, value in state.items():
        if is_lora_name(name):
            continue
        path, _, leaf = name.rpartition(".linear.")
        is_wrapped = f"{path}{_LORA_SUFFIXES[0]}" in state
        base[f"{path}.{leaf}" if is_wrapped else name] = value
    return base


def is_lora_name(name: str) -> bool:
    """Return whether a state-dict name is that of a correction's A or B."""
    return name.endswith(_LORA_SUFFIXES)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes, dtypes and bytes, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        # bytes by way of a flat view: numpy has no bfloat16
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

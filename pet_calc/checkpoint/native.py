"""pet-calc's own checkpoints: tensors, numbers and text, nothing to execute.

A file is what ``torch.save`` makes of::

    {"format": "pet-calc", "format_version": 1, "header": {...}, "tensors": {...},
     "extras": {...}, "training_state": {...} or None}

It can be read by ``torch.load(path, weights_only=True)`` of any program.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pet_calc.checkpoint.metatrain import convert_metatrain
from pet_calc.checkpoint.record import Checkpoint
from pet_calc.checkpoint.unpickle import read_archive
from pet_calc.errors import CheckpointError, LoRAError
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.system.atomic import write_atomically

FORMAT = "pet-calc"
FORMAT_VERSION = 1

_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From each older ``format_version`` to the next one; none exists yet."""


def save_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    training_state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; an existing file is replaced only when all is on disk.

    Args:
        path: the file; its folder must exist.
        checkpoint: the model.
        training_state: optimizer, scheduler, random numbers and so on, as dicts,
            lists, tuples, numbers, text and tensors; for an exact resume.

    Raises:
        CheckpointError: if metadata or training state hold anything else.
    """
    header = {
        "hypers": checkpoint.hypers.to_dict(),
        "atomic_types": checkpoint.atomic_types,
        "targets": [spec.to_dict() for spec in checkpoint.targets.values()],
        "length_unit": checkpoint.length_unit,
        "lora": None if checkpoint.lora is None else checkpoint.lora.to_dict(),
        "metadata": checkpoint.metadata,
    }
    try:
        header = json.loads(json.dumps(header))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: metadata must be text, numbers, lists and dicts: {error}"
        ) from error
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "header": header,
        "tensors": _prepare(checkpoint.state, "state"),
        "extras": _prepare(checkpoint.extras, "extras"),
        "training_state": _prepare(training_state, "training_state"),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(
    path: str | Path, *, which: Literal["best", "last"] = "best"
) -> Checkpoint:
    """Return the model of a checkpoint of pet-calc or metatrain, also in ``.gz``.

    Args:
        path: the file; its kind is found by its content, not by its name.
        which: for metatrain's files, which hold two sets of weights.

    Raises:
        CheckpointError: if there is no such file, or it cannot be used.
    """
    content = read_archive(path)
    if not _is_native(content):
        return convert_metatrain(content, source=str(path), which=which)
    content = _upgrade(content, path)
    try:
        return _convert(content, str(path))
    except (KeyError, TypeError, ValueError, AttributeError, LoRAError) as error:
        raise CheckpointError(
            f"{path}: damaged pet-calc checkpoint: {type(error).__name__}: {error}"
        ) from error


def load_training_state(path: str | Path) -> dict[str, Any]:
    """Return what a resumed training needs besides the model.

    Raises:
        CheckpointError: if the file is not a pet-calc checkpoint, or has none.
    """
    content = read_archive(path)
    if not _is_native(content):
        raise CheckpointError(
            f"{path}: only a training that pet-calc began can be resumed; use this "
            "file as the base of a fine-tuning instead"
        )
    state = _upgrade(content, path)["training_state"]
    if state is None:
        raise CheckpointError(
            f"{path}: this checkpoint has no training state; resume from the last "
            "checkpoint of the training, or fine-tune from this one"
        )
    return state


def _is_native(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _convert(content: dict[str, Any], source: str) -> Checkpoint:
    header = content["header"]
    specs = [TargetSpec.from_dict(values) for values in header["targets"]]
    lora = header["lora"]
    state = content["tensors"]
    atomic_types = [int(z) for z in header["atomic_types"]]
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("tensors hold something else")
    # the model has a table up to the last one, so that must not be any number
    n_known = len(state["species_to_species_index"])
    is_ascending = atomic_types == sorted(set(atomic_types))
    if not is_ascending or not all(0 < z < n_known for z in atomic_types):
        raise ValueError(f"atomic types {atomic_types}")
    return Checkpoint(
        hypers=PETHypers.from_dict(header["hypers"]),
        atomic_types=atomic_types,
        targets={spec.name: spec for spec in specs},
        state=state,
        length_unit=header["length_unit"],
        lora=None if lora is None else LoRAConfig.from_dict(lora),
        metadata=header["metadata"],
        extras=content["extras"],
        source=source,
    )


def _upgrade(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    version = content.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format_version 1 to {FORMAT_VERSION}, got {version}; "
            "update pet-calc to read it"
        )
    for step in range(version, FORMAT_VERSION):
        content = _UPGRADES[step](content)
    missing = {"header", "tensors", "extras", "training_state"} - set(content)
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(missing))}")
    return content


def _prepare(value: Any, where: str) -> Any:
    """Return a copy with tensors on the CPU; refuse what would need unpickling."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return _detach(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise CheckpointError(f"{where}: key {key!r} is neither text nor int")
        return {k: _prepare(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_prepare(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise CheckpointError(
        f"{where}: expected tensors, numbers, text, lists or dicts, got "
        f"{type(value).__name__}"
    )


def _detach(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    # torch.save writes the whole storage of a view
    if value.untyped_storage().nbytes() != value.numel() * value.element_size():
        value = value.clone()
    return value

"""Load a model for use: a checkpoint, with an adapter if asked for, merged."""

from pathlib import Path
from typing import Any

import torch

from pet_calc.checkpoint import Checkpoint, load_checkpoint
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.checkpoint.archive import has_code
from pet_calc.checkpoint.to_ev import convert_energies_to_ev, is_angstrom
from pet_calc.checkpoint.uncertainty import (
    build_uncertainties,
    convert_wrapper_to_ev,
)
from pet_calc.errors import CheckpointError, ConfigError
from pet_calc.hub import find_model
from pet_calc.lora.adapter import Adapter, apply_adapter
from pet_calc.lora.inject import has_lora, merge_lora
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device of that name; ``auto`` or None takes a GPU if there is one.

    Raises:
        ConfigError: if there is no such device, or it has no float64.
    """
    has_gpu = torch.cuda.is_available()
    if name in (None, "auto"):
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device {name!r}: expected auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "mps":
        raise ConfigError("device mps: has no float64, which energies need; use cpu")
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count() if has_gpu else 0
        if (device.index or 0) >= n_gpus:
            raise ConfigError(
                f"device {name}: torch finds {n_gpus or 'no'} GPU"
                f"{'s' if n_gpus > 1 else ''} here; use cpu or auto"
            )
    return device


def is_exported(path: str | Path) -> bool:
    """Return whether the file is a TorchScript archive, by its content."""
    return has_code(path)


def load_merged_model(
    checkpoint: str | Path | Checkpoint,
    *,
    adapter: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PET:
    """Return the model with all LoRA merged, frozen, in eval mode, in eV and Å.

    Args:
        checkpoint: path of a pet-calc or metatrain checkpoint, or one in memory.
        adapter: LoRA adapter file to put on it.
        dtype: of the weights; None keeps the file's.
        device: where the model goes.

    Raises:
        CheckpointError: if a file cannot be read, or the model counts in another
            length than Å.
        LoRAError: if the adapter belongs to another base.
    """
    record = load_record(checkpoint)
    if not is_angstrom(record.length_unit):
        raise CheckpointError(
            f"{record.source or 'the model'}: its lengths are in {record.length_unit}, "
            "and pet-calc runs models in angstrom only; `pet-calc export` it, the "
            "exported file converts by itself"
        )
    loaded = None if adapter is None else load_adapter(adapter)
    return _build_merged(record, loaded, dtype, device)


def load_merged_checkpoint(
    checkpoint: str | Path | Checkpoint,
    *,
    adapter: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """Return the same model as ``load_merged_model``, with its metadata, to be saved.

    An adapter's metadata (name, provenance, validation errors) replace the base's.
    The uncertainty wrapper of the base, in ``extras``, is left out then, for it
    belongs to the features of the base.

    A model whose lengths are not in Å is merged as well and keeps its units.

    Raises:
        CheckpointError: if a file cannot be read.
        LoRAError: if the adapter belongs to another base.
    """
    record = load_record(checkpoint)
    loaded = None if adapter is None else load_adapter(adapter)
    metadata: dict[str, Any] = dict(record.metadata)
    extras = convert_wrapper_to_ev(record.extras, record)
    if loaded is not None:
        metadata.update(loaded.metadata)
        extras.pop("llpr", None)
        metadata.pop("uncertainty", None)
        metadata.pop("wrapper", None)
    merged = Checkpoint.from_model(
        _build_merged(record, loaded, dtype, "cpu"),
        length_unit=record.length_unit,
        metadata=metadata,
        extras=extras,
    )
    merged.source = record.source
    return merged


def load_uncertainties(
    checkpoint: str | Path | Checkpoint,
    *,
    adapter: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, LastLayerUncertainty]:
    """Return the uncertainties that belong to ``load_merged_model``, by target, in eV.

    With an adapter there are none: those of the base are of other features.

    Raises:
        CheckpointError: if the file cannot be read, or they do not fit the model.
    """
    if adapter is not None:
        return {}
    found = build_uncertainties(load_record(checkpoint))
    return {name: part.to(device) for name, part in found.items()}


def load_record(checkpoint: str | Path | Checkpoint) -> Checkpoint:
    """Return the checkpoint as data, from a path or a model's name.

    Raises:
        CheckpointError: if it cannot be read or downloaded, or is an adapter.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    if Path(checkpoint).suffix == ".safetensors":
        raise CheckpointError(
            f"{checkpoint}: expected a checkpoint, this is an adapter; name its base "
            "as the model, and this file as the adapter"
        )
    return load_checkpoint(find_model(checkpoint))


def _build_merged(
    record: Checkpoint,
    adapter: Adapter | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> PET:
    model = record.build_model(dtype=dtype, device=device)
    if is_angstrom(record.length_unit):
        convert_energies_to_ev(model)
    if adapter is not None:
        if has_lora(model):
            # the adapter was trained on the merged model
            merge_lora(model)
        name = Path(record.source).name if record.source else ""
        apply_adapter(model, adapter, base_name=name)
        model.to(device=device, dtype=dtype or record.dtype)
    if has_lora(model):
        merge_lora(model)
    return model.eval().requires_grad_(False)

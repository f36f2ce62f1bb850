"""Say what a model file holds, as plain data, without evaluating the model."""

import json
import zipfile
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from torch import Tensor

from pet_calc.calculator.from_export import load_exported
from pet_calc.checkpoint import Checkpoint, compute_fingerprint, load_checkpoint
from pet_calc.checkpoint.adapter import FORMAT_VERSION as ADAPTER_VERSION
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.checkpoint.native import FORMAT, FORMAT_VERSION
from pet_calc.checkpoint.open import is_exported
from pet_calc.checkpoint.uncertainty import list_fitted
from pet_calc.checkpoint.unpickle import read_archive
from pet_calc.errors import CheckpointError
from pet_calc.lora.fingerprint import is_lora_name
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.tables import is_table
from pet_calc.system.paths import expand_path

# of 64 digits: enough to tell files and bases apart
N_SHOWN = 16


def describe_file(path: str | Path) -> dict[str, Any]:
    """Return what the file is and holds: text, numbers, lists and dicts.

    Args:
        path: a checkpoint of pet-calc or metatrain, a ``.safetensors`` adapter, or an
            exported model; its kind is found by its content.

    Raises:
        CheckpointError: if the file is none of these, or damaged.
    """
    path = Path(expand_path(path))
    if not path.is_file():
        what = "is a folder, name a file in it" if path.is_dir() else "is no such file"
        raise CheckpointError(f"{path}: there {what}")
    head = {"file": str(path), "size_bytes": path.stat().st_size}
    if _is_safetensors(path):
        return {**head, **_describe_adapter(path)}
    if is_exported(path):
        return {**head, **_describe_exported(path)}
    return {**head, **_describe_checkpoint(path)}


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    content = read_archive(path)
    is_native = isinstance(content, dict) and content.get("format") == FORMAT
    record = load_checkpoint(path)
    metadata = record.metadata
    hypers = record.hypers.to_dict()
    if is_native:
        kind, format_version = "pet-calc checkpoint", f"format {FORMAT_VERSION}"
    else:
        kind = "metatrain checkpoint"
        format_version = f"PET version {metadata.get('architecture_version')}"
        trainer = metadata.get("trainer_ckpt_version")
        if trainer is not None:
            format_version += f", trainer version {trainer}"
    return {
        "kind": kind,
        "format_version": format_version,
        **_describe_origin(metadata),
        "elements": [chemical_symbols[z] for z in record.atomic_types],
        "dtype": str(record.dtype).removeprefix("torch."),
        "length_unit": record.length_unit,
        "n_parameters": _count(record.state, is_low_rank=False),
        "shape": {k: v for k, v in hypers.items() if "cutoff" not in k},
        "cutoff": {
            "radius": record.hypers.cutoff,
            **{k: v for k, v in hypers.items() if k.startswith("cutoff_")},
            "num_neighbors_adaptive": record.hypers.num_neighbors_adaptive,
            "adaptive_cutoff_method": record.hypers.adaptive_cutoff_method,
        },
        "interaction_range": _find_range(record),
        "targets": _describe_targets(record.targets, metadata),
        "lora": _describe_lora(record),
        "fingerprint": compute_fingerprint(record.state),
        "has_uncertainty": bool(list_fitted(record)),
        "uncertainties": list_fitted(record),
        "can_resume": is_native and content.get("training_state") is not None,
    }


def _describe_adapter(path: Path) -> dict[str, Any]:
    adapter = load_adapter(path)
    return {
        "kind": "pet-calc adapter",
        "format_version": f"format {ADAPTER_VERSION}",
        **_describe_origin(adapter.metadata),
        "n_parameters": _count(adapter.tensors, is_low_rank=False),
        "targets": _describe_targets(adapter.targets, adapter.metadata),
        "lora": {
            **adapter.config.to_dict(),
            "n_layers": len(adapter.layer_names),
            "n_parameters": _count(adapter.tensors, is_low_rank=True),
        },
        "base": {"name": adapter.base_name, "fingerprint": adapter.base_fingerprint},
        "new_elements": [chemical_symbols[z] for z in adapter.new_elements],
        "versions": adapter.metadata.get("versions", {}),
    }


def _describe_exported(path: Path) -> dict[str, Any]:
    model = load_exported(path)
    capabilities, metadata = model.capabilities(), model.metadata()
    extra = {key: _parse(value) for key, value in metadata.extra.items()}
    return {
        "kind": "exported model",
        "format_version": ", ".join(_read_versions(path)) or "metatomic",
        **_describe_origin(
            {
                **extra,
                "name": metadata.name,
                "description": metadata.description,
                "authors": list(metadata.authors),
            }
        ),
        "exported_by": str(extra.get("pet_calc_version", "")),
        "elements": [chemical_symbols[z] for z in capabilities.atomic_types],
        "dtype": capabilities.dtype,
        "length_unit": capabilities.length_unit,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "cutoff": {
            "radius": max(
                (n.cutoff for n in model.requested_neighbor_lists()), default=0
            )
        },
        "interaction_range": capabilities.interaction_range,
        "targets": [
            {
                "name": name,
                "unit": output.unit,
                "per_atom": output.sample_kind == "atom",
                "level_of_theory": _find_level(name, output.description, extra),
            }
            for name, output in capabilities.outputs.items()
        ],
        "inputs": list(model.requested_inputs(use_new_names=True)),
        "devices": list(capabilities.supported_devices),
        "has_uncertainty": any("uncertainty" in name for name in capabilities.outputs),
        "uncertainties": [
            name.replace("_uncertainty", "").replace("mtt::aux::", "mtt::")
            for name in capabilities.outputs
            if "_uncertainty" in name
        ],
    }


def _describe_origin(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return name, provenance and errors, as far as the metadata have them."""
    origin: dict[str, Any] = {
        "name": metadata.get("name", ""),
        "description": metadata.get("description", ""),
        "authors": metadata.get("authors") or [],
    }
    for key in ("provenance", "validation", "rotation", "finetune_config"):
        # anything may stand in a file of someone else's
        if isinstance(metadata.get(key), dict):
            origin[key] = metadata[key]
    if isinstance(metadata.get("epoch"), int):
        origin["epoch"] = metadata["epoch"]
    if "provenance" not in origin and metadata.get("format") == "metatrain":
        origin["provenance"] = {
            "trained_with": "metatrain",
            "architecture_version": metadata.get("architecture_version"),
        }
    return origin


def _describe_targets(
    targets: dict[str, TargetSpec], metadata: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "quantity": spec.quantity,
            "unit": spec.unit,
            "per_atom": spec.sample_kind == "atom",
            "level_of_theory": _find_level(name, spec.description, metadata),
        }
        for name, spec in targets.items()
    ]


def _describe_lora(record: Checkpoint) -> dict[str, Any] | None:
    if record.lora is None:
        return None
    return {
        **record.lora.to_dict(),
        "n_layers": sum(name.endswith(".lora_A.weight") for name in record.state),
        "n_parameters": _count(record.state, is_low_rank=True),
    }


def _find_level(name: str, description: str, metadata: dict[str, Any]) -> str:
    """Return the level of theory of an output: of the last training, or its own."""
    provenance = metadata.get("provenance")
    if isinstance(provenance, dict) and provenance.get("target") == name:
        description = provenance.get("level_of_theory") or description
    # what the export writes where there is no description
    return "" if description == f"PET output {name}" else description


def _parse(value: str) -> Any:
    """Return the data that a text of an exported file's metadata stands for."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _read_versions(path: Path) -> list[str]:
    """Return the versions that the file was written with, such as ``torch 2.9``."""
    versions = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, entry = name.rpartition("/")
            if folder.endswith("extra") and entry.endswith("-version"):
                text = archive.read(name).decode(errors="replace").strip()
                versions.append(f"{entry.removesuffix('-version')} {text}")
    return versions


def _find_range(record: Checkpoint) -> float:
    radii = record.state.get("zbl.covalent_radii")
    zbl = 0.0 if radii is None else 2.0 * float(radii.max())
    return max(record.hypers.interaction_range, zbl)


def _count(state: dict[str, Tensor], *, is_low_rank: bool) -> int:
    """Return how many weights there are, without the float64 tables."""
    return sum(
        value.numel()
        for name, value in state.items()
        if value.is_floating_point()
        and not is_table(name)
        and is_lora_name(name) == is_low_rank
    )


def _is_safetensors(path: Path) -> bool:
    """Return whether the file starts as a safetensors file: a length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**27

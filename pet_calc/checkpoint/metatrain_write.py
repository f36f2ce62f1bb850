"""Write a model as a checkpoint that metatrain reads, without needing metatrain.

The file has the layout of version 16. Classes of metatrain are pickled by name only,
from stand-ins, so metatrain need not be installed.
"""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from metatomic.torch import ModelMetadata
from torch import Tensor

from pet_calc.checkpoint.layout import build_block_map, build_layout, encode_map
from pet_calc.checkpoint.llpr import LATEST_VERSION as LATEST_LLPR_VERSION
from pet_calc.checkpoint.record import Checkpoint
from pet_calc.checkpoint.uncertainty import LLPR
from pet_calc.checkpoint.versions import BACKEND, LATEST_VERSION, LONG_RANGE_DEFAULTS
from pet_calc.errors import CheckpointError
from pet_calc.lora.fingerprint import base_state_of
from pet_calc.lora.layer import compute_merged_weight
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.tables import TABLES, is_table
from pet_calc.system.atomic import write_atomically

_METADATA_FIELDS = ("name", "description", "authors", "references", "extra")
_LORA_A = ".lora_A.weight"


class _DatasetInfo:
    """Pickled under the name of metatrain's class; see ``_NAMES``."""


class _TargetInfo:
    """Pickled under the name of metatrain's class; see ``_NAMES``."""


_NAMES: dict[type, tuple[str, str]] = {
    _DatasetInfo: ("metatrain.utils.data.dataset", "DatasetInfo"),
    _TargetInfo: ("metatrain.utils.data.target_info", "TargetInfo"),
}


# the pickler written in Python; the one in C insists on importing what it names
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    """Writes stand-ins by metatrain's names, without importing them."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and obj in _NAMES:
            module, qualified = _NAMES[obj]
            self.write(pickle.GLOBAL + f"{module}\n{qualified}\n".encode())
            self.memoize(obj)
            return
        super().save_global(obj, name)


def save_metatrain_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a metatrain checkpoint of PET, version 16, with LoRA layers merged.

    Fine-tuning state is not written: metatrain can export, evaluate and fine-tune the
    file, not resume pet-calc's training. A model with an uncertainty is written inside
    metatrain's wrapper for it (LLPR, version 4), all in the model's dtype.

    Args:
        path: the file, usually ``*.ckpt``; its folder must exist.
        checkpoint: the model.

    Raises:
        CheckpointError: if the targets cannot be said in metatrain's format.
    """
    state = _merge_lora(checkpoint)
    saved = _build_state(checkpoint, state)
    content = {
        "architecture_name": "pet",
        "model_ckpt_version": LATEST_VERSION,
        "metadata": _build_metadata(checkpoint.metadata),
        "model_data": {
            "model_hypers": {
                **checkpoint.hypers.to_dict(),
                "long_range": dict(LONG_RANGE_DEFAULTS),
            },
            "dataset_info": _build_dataset_info(checkpoint),
        },
        "epoch": checkpoint.metadata.get("epoch"),
        "best_epoch": checkpoint.metadata.get("best_epoch"),
        "model_state_dict": saved,
        # a copy, because metatrain takes finetune_config out of the one it loads
        "best_model_state_dict": dict(saved),
    }
    content = _wrap(content, checkpoint)
    # torch asks a pickle module for its name and its Pickler
    module = SimpleNamespace(Pickler=_Pickler, __name__=__name__)
    write_atomically(path, lambda file: torch.save(content, file, pickle_module=module))


def _wrap(content: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content inside the uncertainty's wrapper, if the model has one."""
    saved = checkpoint.extras.get(LLPR) or {}
    if not saved.get("state"):
        return content
    order = ("covariance_", "cholesky_", "multiplier_")
    # metatrain takes the dtype of the whole model from the second entry
    state = {
        name: _detach(value).to(checkpoint.dtype)
        for name, value in sorted(
            saved["state"].items(), key=lambda item: not item[0].startswith(order)
        )
    }
    return {
        "architecture_name": "llpr",
        "model_ckpt_version": LATEST_LLPR_VERSION,
        "metadata": ModelMetadata(),
        "model_data": {
            "hypers": {"num_ensemble_members": dict(saved["num_ensemble_members"])},
            "dataset_info": content["model_data"]["dataset_info"],
        },
        "epoch": None,
        "best_epoch": None,
        "model_state_dict": state,
        "best_model_state_dict": dict(state),
        "wrapped_model_checkpoint": content,
    }


def _merge_lora(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights with every LoRA correction added to its layer."""
    state = checkpoint.state
    merged = base_state_of(state)
    for name in state:
        if not name.endswith(_LORA_A):
            continue
        layer = name.removesuffix(_LORA_A)
        if checkpoint.lora is None:
            raise CheckpointError(f"{layer} has LoRA weights but no LoRA config")
        merged[f"{layer}.weight"] = compute_merged_weight(
            merged[f"{layer}.weight"],
            state[name],
            state[f"{layer}.lora_B.weight"],
            checkpoint.lora.alpha / checkpoint.lora.rank,
            layer,
        )
    return merged


def _build_state(checkpoint: Checkpoint, state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the state dict under metatrain's names.

    The species index comes first, and a weight second: metatrain takes the model's
    dtype from the second entry.
    """
    index = "species_to_species_index"
    network = {index: state[index]}
    for name, value in state.items():
        if not is_table(name):
            network[_rename_block(name, checkpoint.targets)] = value
    saved: dict[str, Any] = {BACKEND + k: _detach(v) for k, v in network.items()}
    for name, value in network.items():
        if name.startswith("system_conditioning."):
            saved[name] = _detach(value)

    atomic_types = checkpoint.atomic_types
    type_to_index = torch.zeros(max(atomic_types) + 1, dtype=torch.int64)
    type_to_index[torch.tensor(atomic_types)] = torch.arange(len(atomic_types))
    saved["additive_models.0.dummy_buffer"] = torch.ones(1, dtype=torch.float64)
    saved["additive_models.0.model.type_to_index"] = type_to_index
    saved["scaler.dummy_buffer"] = torch.ones(1, dtype=torch.float64)
    saved["scaler.model.type_to_index"] = type_to_index.clone()
    if checkpoint.hypers.zbl:
        species = torch.full_like(type_to_index, -1, dtype=torch.int32)
        species[torch.tensor(atomic_types)] = torch.arange(
            len(atomic_types), dtype=torch.int32
        )
        saved["additive_models.1.species_to_index"] = species
        saved["additive_models.1.covalent_radii"] = _detach(state["zbl.covalent_radii"])
    for spec in checkpoint.targets.values():
        saved.update(_build_tables(spec, state, atomic_types))
    saved["finetune_config"] = {}
    return saved


def _rename_block(name: str, targets: dict[str, TargetSpec]) -> str:
    """Give a last layer the block name that metatrain derives from the layout."""
    for spec in targets.values():
        for group in ("node_last_layers", "edge_last_layers"):
            prefix = f"{group}.{spec.name}."
            if name.startswith(prefix):
                layer = name.removeprefix(prefix).split(".")[0]
                leaf = name.rpartition(".")[2]
                return f"{prefix}{layer}.{spec.name}___0.{leaf}"
    return name


def _build_tables(
    spec: TargetSpec, state: dict[str, Tensor], atomic_types: list[int]
) -> dict[str, Tensor]:
    prefix = f"{TABLES}.tables.{spec.name}"
    scale = state[f"{prefix}.scale"].cpu().to(torch.float64)
    composition = state[f"{prefix}.composition"].cpu().to(torch.float64)
    if spec.sample_kind == "atom":
        samples = list(range(len(atomic_types)))
    else:
        samples = [-1]
        if not torch.equal(scale, scale[:1].expand_as(scale)):
            raise CheckpointError(
                f"target {spec.name!r} is one value per system, but its scale differs "
                "between elements, which metatrain cannot express"
            )
        scale = scale[:1]

    def encode(values: Tensor) -> Tensor:
        return encode_map(build_block_map(spec, "atomic_type", samples, values))

    name = f"scaler.{spec.name}"
    tables = {
        f"{name}_scaler_buffer": encode(scale),
        f"{name}_per_target_scaler_buffer": encode(scale),
        # only the product counts at evaluation, and it is what we keep
        f"{name}_per_property_scaler_buffer": encode(torch.ones_like(scale)),
    }
    if not spec.components:
        tables[f"additive_models.0.{spec.name}_composition_buffer"] = encode_map(
            build_block_map(spec, "center_type", atomic_types, composition)
        )
    elif bool(composition.any()):
        raise CheckpointError(
            f"target {spec.name!r} has components and a composition part, which "
            "metatrain cannot express"
        )
    return tables


def _build_dataset_info(checkpoint: Checkpoint) -> _DatasetInfo:
    info = _DatasetInfo()
    info.__dict__ = {
        "length_unit": checkpoint.length_unit,
        "_atomic_types": list(checkpoint.atomic_types),
        "targets": {
            name: _build_target_info(spec) for name, spec in checkpoint.targets.items()
        },
        "extra_data": {},
    }
    return info


def _build_target_info(spec: TargetSpec) -> _TargetInfo:
    info = _TargetInfo()
    info.__dict__ = {
        "is_scalar": not spec.components,
        "is_cartesian": bool(spec.components),
        "is_spherical": False,
        "is_atomic_basis": False,
        "layout": build_layout(spec),
        "quantity": spec.quantity,
        "unit": spec.unit,
        "description": spec.description,
        "blocks_shape": {f"{spec.quantity}___0": [*spec.components, spec.n_properties]},
    }
    return info


def _build_metadata(metadata: dict[str, Any]) -> ModelMetadata:
    fields = {k: metadata[k] for k in _METADATA_FIELDS if metadata.get(k)}
    # metatomic takes text only in `extra`
    fields["extra"] = {
        str(k): v if isinstance(v, str) else json.dumps(v)
        for k, v in fields.get("extra", {}).items()
    }
    return ModelMetadata(**fields)


def _detach(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)

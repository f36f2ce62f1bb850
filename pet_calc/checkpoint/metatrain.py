"""Turn a checkpoint of metatrain's PET, of any version, into a ``Checkpoint``."""

import json
import logging
from typing import Any, Literal

import torch
from torch import Tensor

from pet_calc.checkpoint.llpr import collect_llpr
from pet_calc.checkpoint.record import Checkpoint
from pet_calc.checkpoint.stand_ins import DatasetInfo, ScriptObject, TargetInfo
from pet_calc.checkpoint.tensormap import decode_map, decode_target
from pet_calc.checkpoint.versions import (
    LATEST_VERSION,
    is_large_scale,
    read_version,
    upgrade_hypers,
    upgrade_weights,
)
from pet_calc.errors import CheckpointError, LoRAError
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.tables import TABLES

log = logging.getLogger(__name__)

# what metatrain takes when a LoRA block does not say
_LORA_RANK = 4
_LORA_ALPHA = 8.0
_LORA_TARGETS = ("input_linear", "output_linear")

# what Python and torch raise over data that are not what they should be
_MALFORMED = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    IndexError,
    RuntimeError,
    LoRAError,
)

_KEPT_FIELDS = ("epoch", "best_epoch", "best_metric", "trainer_ckpt_version")


def convert_metatrain(
    content: Any, *, source: str, which: Literal["best", "last"] = "best"
) -> Checkpoint:
    """Return the model in what ``read_archive`` returned.

    Args:
        content: of a checkpoint of PET or of the LLPR wrapper around it.
        source: name of the file, for messages.
        which: the weights of the best or of the last epoch; metatrain exports and
            fine-tunes the best ones.

    Raises:
        CheckpointError: if the file is damaged, of another architecture, or uses what
            pet-calc does not support.
    """
    try:
        return _convert(content, source, which)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except _MALFORMED as error:
        raise CheckpointError(
            f"{source}: not the structure of a metatrain PET checkpoint: "
            f"{type(error).__name__}: {error}"
        ) from error


def _convert(content: Any, source: str, which: str) -> Checkpoint:
    if not isinstance(content, dict) or "architecture_name" not in content:
        raise CheckpointError(
            "this file was written by torch.save, but it is neither a pet-calc nor a "
            "metatrain checkpoint (no architecture_name)"
        )
    architecture = content["architecture_name"]
    if architecture == "llpr":
        inner = content["wrapped_model_checkpoint"]
        checkpoint = _convert(inner, source, which)
        checkpoint.extras["llpr"] = collect_llpr(content)
        checkpoint.metadata["wrapper"] = "llpr"
        return checkpoint
    if architecture != "pet":
        raise CheckpointError(
            f"this is a model of architecture {architecture!r}; pet-calc reads 'pet', "
            "and 'llpr' around it"
        )
    version = read_version(content, LATEST_VERSION, "a PET checkpoint")
    return _convert_pet(content, version, source, which)


def _convert_pet(
    content: dict[str, Any], version: int, source: str, which: str
) -> Checkpoint:
    state = _choose_state(content, version, source, which)
    large_scale = is_large_scale(version, state)
    model_data = content["model_data"]
    hypers = upgrade_hypers(
        version, model_data["model_hypers"], large_scale=large_scale
    )
    info = _get_state(model_data["dataset_info"], DatasetInfo)
    targets = {
        name: _read_target(name, _get_state(target, TargetInfo))
        for name, target in info["targets"].items()
    }
    weights = upgrade_weights(version, state, large_scale=large_scale)
    atomic_types = _read_species(weights, info)
    lora = _read_lora(content, state, weights)
    tables = _read_tables(state, hypers, atomic_types, targets)
    metadata = _read_metadata(content, state, version)
    length_unit = info["length_unit"]
    if length_unit.lower() in ("", "a", "angstrom"):
        # a file without a unit comes from data without one, which means Å
        metadata["length_unit_in_file"] = length_unit
        length_unit = "angstrom"
    return Checkpoint(
        hypers=hypers,
        atomic_types=atomic_types,
        targets=targets,
        state={**weights, **tables},
        length_unit=length_unit,
        lora=lora,
        metadata=metadata,
        source=source,
    )


def _choose_state(
    content: dict[str, Any], version: int, source: str, which: str
) -> dict[str, Any]:
    last = content.get("model_state_dict")
    best = content.get("best_model_state_dict")
    if which == "last" or (last and is_large_scale(version, last)):
        best = last
    if not best:
        best = last
        log.info("%s: no best epoch yet, taking the last weights", source)
    if not isinstance(best, dict) or not best:
        raise CheckpointError("the file has no model_state_dict")
    return best


def _get_state(value: Any, kind: type[DatasetInfo | TargetInfo]) -> dict[str, Any]:
    if not isinstance(value, kind) or not isinstance(value.state, dict):
        raise CheckpointError(f"expected a {kind.__name__}, found {value!r:.80}")
    return value.state


def _read_target(name: str, info: dict[str, Any]) -> TargetSpec:
    layout = info["layout"]
    if not isinstance(layout, ScriptObject) or not isinstance(layout.state, tuple):
        raise CheckpointError(f"target {name!r} has no layout")
    return decode_target(
        name,
        layout.state[0],
        quantity=info["quantity"],
        unit=info["unit"],
        description=info.get("description", ""),
    )


def _read_species(weights: dict[str, Tensor], info: dict[str, Any]) -> list[int]:
    """Return the atomic numbers, in the order in which the weights have them."""
    index = weights["species_to_species_index"]
    known = [int(z) for z in info["_atomic_types"]]
    atomic_types = sorted(set(known))
    in_range = (
        bool(atomic_types) and atomic_types[0] > 0 and atomic_types[-1] < len(index)
    )
    expected = list(range(len(atomic_types)))
    if not in_range or [int(index[z]) for z in atomic_types] != expected:
        raise CheckpointError(
            f"atomic types {atomic_types} do not match the species index of the file"
        )
    # before version 8 the unknown ones pointed to a padding row, now they are -1
    clean = torch.full_like(index, -1)
    clean[torch.tensor(atomic_types)] = torch.arange(len(atomic_types))
    weights["species_to_species_index"] = clean
    return atomic_types


def _read_lora(
    content: dict[str, Any], state: dict[str, Any], weights: dict[str, Tensor]
) -> LoRAConfig | None:
    factors = [name for name in weights if name.endswith(".lora_A.weight")]
    if not factors:
        return None
    config = _find_finetune_config(content, state).get("config") or {}
    # the name before `.lora_A.weight` is the layer, its last part the target
    found = {name.split(".")[-3] for name in factors}
    wanted = list(config.get("target_modules") or _LORA_TARGETS)
    targets = [t for t in wanted if t in found]
    targets += sorted(found - set(targets))
    rank = weights[factors[0]].shape[0]
    if int(config.get("rank", _LORA_RANK)) != rank:
        raise CheckpointError(
            f"finetune_config says LoRA rank {config.get('rank', _LORA_RANK)}, but "
            f"{factors[0]} has {rank} rows"
        )
    alpha = float(config.get("alpha", _LORA_ALPHA))
    return LoRAConfig(rank=rank, alpha=alpha, targets=tuple(targets))


def _find_finetune_config(
    content: dict[str, Any], state: dict[str, Any]
) -> dict[str, Any]:
    """Return the fine-tuning block, which is not beside every copy of the weights."""
    last = content.get("model_state_dict") or {}
    candidates = (
        state.get("finetune_config"),
        last.get("finetune_config"),
        (content.get("train_hypers") or {}).get("finetune"),
    )
    return next((c for c in candidates if isinstance(c, dict) and c), {})


def _read_tables(
    state: dict[str, Any],
    hypers: PETHypers,
    atomic_types: list[int],
    targets: dict[str, TargetSpec],
) -> dict[str, Tensor]:
    tables: dict[str, Tensor] = {}
    for i, (name, spec) in enumerate(targets.items()):
        prefix = f"{TABLES}.tables.{name}"
        tables[f"{prefix}.scale"] = _read_scale(state, i, spec, len(atomic_types))
        tables[f"{prefix}.composition"] = _read_composition(state, spec, atomic_types)
    if hypers.zbl:
        radii = state["additive_models.1.covalent_radii"].to(torch.float64)
        index = state["additive_models.1.species_to_index"]
        order = index[torch.tensor(atomic_types)].to(torch.int64)
        tables["zbl.covalent_radii"] = radii[order]
    return tables


def _read_scale(
    state: dict[str, Any], position: int, spec: TargetSpec, n_species: int
) -> Tensor:
    """Return the full scale, [n_species, n_properties] float64."""
    shape = (n_species, spec.n_properties)
    if "scaler.scales" in state:  # before version 7: one number per target
        value = state["scaler.scales"][position].to(torch.float64)
        return value.expand(shape).clone()
    name = f"scaler.{spec.name}_scaler_buffer"
    values = decode_map(state.get(name), name).values
    if values.shape not in ((1, spec.n_properties), shape):
        raise CheckpointError(
            f"{name}: expected {shape[0]} or 1 rows of {shape[1]} scales, "
            f"found shape {tuple(values.shape)}"
        )
    return values.expand(shape).clone()


def _read_composition(
    state: dict[str, Any], spec: TargetSpec, atomic_types: list[int]
) -> Tensor:
    """Return composition values, [n_species, n_values] float64, zeros without any."""
    table = torch.zeros(len(atomic_types), spec.n_values, dtype=torch.float64)
    name = f"additive_models.0.{spec.name}_composition_buffer"
    if name not in state:
        return table
    block = decode_map(state[name], name)
    values = block.values
    types = [row[0] for row in block.samples.values]
    missing = set(atomic_types) - set(types)
    if missing or values.numel() != len(types) * spec.n_values:
        raise CheckpointError(
            f"{name}: shape {tuple(values.shape)} for types {types} does not fit "
            f"{spec.n_values} values for each of {atomic_types}"
        )
    rows = [types.index(z) for z in atomic_types]
    return values.reshape(len(types), -1)[rows]


def _read_metadata(
    content: dict[str, Any], state: dict[str, Any], version: int
) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    saved = content.get("metadata")
    if isinstance(saved, ScriptObject) and isinstance(saved.state, tuple):
        metadata = json.loads(saved.state[0])
        metadata.pop("class", None)
    metadata["architecture"] = "pet"
    metadata["architecture_version"] = version
    metadata["format"] = "metatrain"
    for name in _KEPT_FIELDS:
        if content.get(name) is not None:
            metadata[name] = make_plain(content[name])
    if content.get("train_hypers"):
        metadata["train_hypers"] = make_plain(content["train_hypers"])
    finetune = _find_finetune_config(content, state)
    # every file has the block; without a base it says nothing
    if finetune.get("read_from"):
        metadata["finetune_config"] = make_plain(finetune)
    return metadata


def make_plain(value: Any) -> Any:
    """Return a copy made of dicts, lists, strings and numbers; the rest as text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(k): make_plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((make_plain(v) for v in value), key=str)
    if isinstance(value, (list, tuple)):
        return [make_plain(v) for v in value]
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return repr(value)

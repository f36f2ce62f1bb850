"""Reading an options file: metatrain's YAML, with the additions of pet-calc."""

from pathlib import Path
from typing import Any, get_type_hints

from pet_calc.config.fields import (
    at,
    check_keys,
    convert,
    require_mapping,
    show,
    suggest,
)
from pet_calc.config.old_names import (
    NO_EFFECT_RUN,
    UNSUPPORTED_ARCHITECTURE,
    UNSUPPORTED_RUN,
    refuse_original_pet,
    take_unsupported,
    take_without_effect,
)
from pet_calc.config.options import RunOptions
from pet_calc.config.read_data import parse_datasets, parse_held_out
from pet_calc.config.read_train import parse_training
from pet_calc.config.yaml_file import read_yaml
from pet_calc.errors import ConfigError
from pet_calc.model.hypers import PETHypers

_PLAIN_KEYS = ("base_precision", "seed", "output", "data_store", "final_eval")
_RUN_KEYS = (
    "architecture",
    "training_set",
    "validation_set",
    "test_set",
    "retain_set",
    "replay_set",
    "device",
    *_PLAIN_KEYS,
)
_MODEL_CHOICES = {
    "cutoff_function": ("Bump", "Cosine"),
    "adaptive_cutoff_method": ("solver", "grid"),
    "normalization": ("RMSNorm", "LayerNorm"),
    "activation": ("SwiGLU", "SiLU"),
    "transformer_type": ("PreLN", "PostLN"),
    "featurizer_type": ("feedforward", "residual"),
}


def read_options(path: str | Path) -> RunOptions:
    """Return the options in a YAML file.

    Paths in it are relative to the working directory. An option that is unknown, of
    the wrong type, or known but not supported raises ``ConfigError`` with its full
    name.
    """
    try:
        return parse_options(read_yaml(path))
    except ConfigError as error:
        message = str(error)
        prefix = "" if message.startswith(f"{path}:") else f"{path}: "
        raise ConfigError(prefix + message) from error


def parse_options(values: dict[str, Any]) -> RunOptions:
    """Return the options in a mapping of the shape of an options file."""
    values = dict(values)
    hidden = [*UNSUPPORTED_RUN, *NO_EFFECT_RUN]
    refuse_original_pet(map(str, values), _RUN_KEYS)
    check_keys({k: v for k, v in values.items() if k not in hidden}, _RUN_KEYS)
    take_unsupported(values, UNSUPPORTED_RUN)
    take_without_effect(values, NO_EFFECT_RUN)

    if values.get("training_set") is None:
        raise ConfigError("training_set: expected data to learn from, got none")
    found: dict[str, Any] = {key: values[key] for key in _PLAIN_KEYS if key in values}
    found["training_set"] = parse_datasets(values["training_set"], "training_set")
    for name in ("validation_set", "test_set"):
        if values.get(name) is not None:
            found[name] = parse_held_out(values[name], name, found["training_set"])
    for name in ("retain_set", "replay_set"):
        if values.get(name) is not None:
            found[name] = parse_datasets(values[name], name)
    if values.get("device") is not None:
        found["device"] = _parse_device(values["device"])

    targets = {t.name for dataset in found["training_set"] for t in dataset.targets}
    architecture = require_mapping(values.get("architecture"), "architecture")
    found.update(_parse_architecture(architecture, targets))
    return RunOptions(**found)


def _parse_architecture(values: dict[str, Any], targets: set[str]) -> dict[str, Any]:
    with at("architecture"):
        known = ("name", "model", "training", "atomic_types")
        check_keys(values, (*known, *UNSUPPORTED_ARCHITECTURE))
        take_unsupported(values, UNSUPPORTED_ARCHITECTURE)
        name = values.get("name", "pet")
        if name != "pet":
            raise ConfigError(f"name: expected pet, got {show(name)}")
        found: dict[str, Any] = {"atomic_types": values.get("atomic_types")}
        # checked here for the sake of its full name in a message
        wanted = get_type_hints(RunOptions)["atomic_types"]
        convert(found["atomic_types"], wanted, "atomic_types")
        found["train"], found["finetune"] = parse_training(
            values.get("training"), targets
        )
        if values.get("model"):
            found["hypers"] = _parse_model(values["model"])
    return found


def _parse_model(value: Any) -> PETHypers:
    """Return the shape of a new model; what is not given is at its default."""
    values = require_mapping(value, "model")
    with at("model"):
        hints = get_type_hints(PETHypers)
        refuse_original_pet(values, hints)
        check_keys(values, (*hints, "long_range"))
        long_range = require_mapping(values.pop("long_range", None), "long_range")
        if long_range.get("enable", False):
            raise ConfigError("long_range.enable: true is not supported yet")
        for key, item in values.items():
            values[key] = convert(item, hints[key], key)
            choices = _MODEL_CHOICES.get(key, (item,))
            if item not in choices:
                raise ConfigError(
                    f"{key}: expected one of {', '.join(choices)}, got {show(item)}; "
                    f"{suggest(item, choices)}"
                )
            _check_size(key, values[key])
        return PETHypers(**values)


def _check_size(key: str, value: Any) -> None:
    """Raise for a width, count or length that is not above zero."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not value > 0 and key != "max_charge":
        raise ConfigError(f"{key}: expected a number above 0, got {value}")


def _parse_device(value: Any) -> str:
    """Return torch's name of a device from torch's or metatrain's."""
    device = convert(value, str, "device")
    if device.startswith("multi-"):
        raise ConfigError(
            f"device: {device} is not supported; write `device: cuda` and start one "
            "process per GPU with torchrun"
        )
    return "cuda" if device == "gpu" else device

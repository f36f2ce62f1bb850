"""Reading ``architecture: training:`` in today's and in the historic spelling."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from ase.data import atomic_numbers, chemical_symbols

from pet_calc.config.fields import (
    at,
    check_keys,
    convert,
    require_mapping,
    show,
    suggest,
)
from pet_calc.config.historic import TRAINING_KEYS, update_loss, update_training
from pet_calc.config.old_names import (
    LORA_KEYS,
    NO_EFFECT_TRAINING,
    UNSUPPORTED_TRAINING,
    refuse_original_pet,
    take_unsupported,
    take_without_effect,
)
from pet_calc.config.options import (
    BaselineOptions,
    FinetuneOptions,
    LossOptions,
    LossTerm,
    TrainOptions,
)
from pet_calc.config.replay import ReplayOptions
from pet_calc.errors import ConfigError
from pet_calc.lora.layer import LoRAConfig

_FINETUNE_KEYS = (
    "method",
    "read_from",
    "config",
    "inherit_heads",
    "head_mode",
    "keep_head",
    "direct_heads",
    "new_elements",
)
_LORA_KEYS = {"rank": "rank", "alpha": "alpha", "target_modules": "targets"}
_HEADS_KEYS = ("head_modules", "last_layer_modules")
_CONFIG_KEYS = {"lora": tuple(_LORA_KEYS), "heads": _HEADS_KEYS}
_TERM_KEYS = ("type", "weight", "delta", "reduction", "sliding_factor")
# metatrain's names of the gradients, which it also takes in a block of their own
_GRADIENTS = {"positions": "forces", "strain": "stress"}
# A missing label never counts here, which is what metatrain's masked losses are for.
_LOSS_TYPES = {
    **{f"masked_{name}": name for name in ("mse", "mae", "huber")},
    **{f"{name}_masked": name for name in ("mse", "mae", "huber")},
}


def parse_training(
    value: Any, targets: Iterable[str]
) -> tuple[TrainOptions, FinetuneOptions]:
    """Return the options in a ``training:`` block, for the named targets."""
    values = require_mapping(value, "training")
    with at("training"):
        known = [f.name for f in fields(TrainOptions)] + ["finetune", *LORA_KEYS]
        hidden = [*UNSUPPORTED_TRAINING, *NO_EFFECT_TRAINING, *TRAINING_KEYS]
        refuse_original_pet(values, known)
        check_keys({k: v for k, v in values.items() if k not in hidden}, known)
        _drop_direct(values, "per_structure_targets")
        take_unsupported(values, UNSUPPORTED_TRAINING)
        take_without_effect(values, NO_EFFECT_TRAINING)
        update_training(values)

        finetune = _parse_finetune(values)
        names = list(targets)
        values["loss"] = _parse_loss(update_loss(values.get("loss"), names), names)
        values["atomic_baseline"] = _parse_baseline(values.get("atomic_baseline"))
        values["replay"] = _parse_replay(values.get("replay"))
        # metatrain's way to say plain Adam
        if values.get("weight_decay", 0) is None:
            del values["weight_decay"]
        return TrainOptions(**values), finetune


def _drop_direct(values: dict[str, Any], key: str) -> None:
    """Take direct heads out of a list: their errors know no size of a structure."""
    if isinstance(values.get(key), list):
        values[key] = [
            name
            for name in values[key]
            if not str(name).startswith("non_conservative_")
        ]


def _parse_finetune(values: dict[str, Any]) -> FinetuneOptions:
    """Take the ``finetune`` block or the historic keys out of ``values``."""
    historic = {key: values.pop(key) for key in LORA_KEYS if key in values}
    block = values.pop("finetune", None)
    if not historic:
        with at("finetune"):
            return _parse_finetune_block(require_mapping(block, "finetune"))
    if block is not None:
        raise ConfigError(
            f"finetune: expected this block or {', '.join(historic)}, got both"
        )
    uses_lora = convert(historic.get("USE_LORA_PEFT", False), bool, "USE_LORA_PEFT")
    config = {}
    for key, name in (("LORA_RANK", "rank"), ("LORA_ALPHA", "alpha")):
        if key in historic:
            config[name] = _check_lora_value(name, historic[key], key)
    if not uses_lora:
        # rank and alpha may stay in the file while all weights are trained
        return FinetuneOptions()
    return FinetuneOptions(method="lora", lora=LoRAConfig(**config))


def _parse_finetune_block(values: dict[str, Any]) -> FinetuneOptions:
    check_keys(values, _FINETUNE_KEYS)
    base = values.pop("read_from", None)
    method = values.pop("method", "full" if base is not None else "scratch")
    # metatrain writes no fine-tuning as `full` without a file. Another method without
    # one waits for the base on the command line, and is not dropped silently.
    if method == "full" and base is None:
        method = "scratch"
    config = require_mapping(values.pop("config", None), "config")
    if values.get("inherit_heads", {}) is None:
        del values["inherit_heads"]
    return FinetuneOptions(
        method=method, base=base, **_parse_config(config, method), **values
    )


def _parse_config(config: dict[str, Any], method: str) -> dict[str, Any]:
    """Return the fields that the ``config`` of a method decides."""
    with at("config"):
        known = _CONFIG_KEYS.get(method, ())
        for key in config:
            if key in (*_LORA_KEYS, *_HEADS_KEYS) and key not in known:
                raise ConfigError(f"{key}: has no effect with method {method}")
        check_keys(config, known or (*_LORA_KEYS, *_HEADS_KEYS))
        if method == "lora":
            named = {
                _LORA_KEYS[key]: _check_lora_value(_LORA_KEYS[key], value, key)
                for key, value in config.items()
            }
            return {"lora": LoRAConfig(**named)}
        if method == "heads" and config:
            modules: list[str] = []
            for key in _HEADS_KEYS:
                modules += convert(config.get(key, []), list[str], key)
            return {"head_modules": [m.removeprefix("backend.") for m in modules]}
    return {}


def _check_lora_value(field_name: str, value: Any, name: str) -> Any:
    """Return a field of LoRAConfig, checked under the name that the user wrote."""
    value = convert(value, get_type_hints(LoRAConfig)[field_name], name)
    if field_name == "rank" and value < 1:
        raise ConfigError(f"{name}: expected a whole number from 1, got {value}")
    if field_name == "alpha" and not value > 0:
        raise ConfigError(f"{name}: expected a number above 0, got {value}")
    if field_name == "targets" and not value:
        raise ConfigError(f"{name}: expected at least one layer, got none")
    return value


def _parse_loss(value: Any, targets: list[str]) -> dict[str, LossOptions]:
    """Return the loss of each target, from one type for all or from blocks."""
    if value is None:
        return {}
    if isinstance(value, str):
        term = _parse_term({"type": value}, "loss")
        return {name: LossOptions(term, term, term) for name in targets}
    losses = {}
    with at("loss"):
        for name, block in require_mapping(value, "loss").items():
            if name not in targets:
                raise ConfigError(
                    f"{name}: expected a target of the training set; "
                    f"{suggest(name, targets)}"
                )
            losses[name] = _parse_target_loss(block, name)
    return losses


def _parse_target_loss(value: Any, name: str) -> LossOptions:
    if isinstance(value, str):
        value = {"type": value}
    values = require_mapping(value, name)
    with at(name):
        check_keys(values, (*_TERM_KEYS, "forces", "stress", "virial", "gradients"))
        terms = {}
        gradients = require_mapping(values.pop("gradients", None), "gradients")
        with at("gradients"):
            check_keys(gradients, _GRADIENTS)
        written = {key: (_GRADIENTS[key], gradients[key]) for key in gradients}
        for key, term in (
            ("forces", "forces"),
            ("stress", "stress"),
            ("virial", "stress"),
        ):
            if key in values:
                written[key] = (term, values.pop(key))
        for key, (term, block) in written.items():
            if term in terms:
                raise ConfigError(f"{key}: expected one loss for {term}, got two")
            terms[term] = _parse_term(block, key)
    return LossOptions(value=_parse_term(values, name), **terms)


def _parse_term(value: Any, name: str) -> LossTerm:
    if isinstance(value, str):
        value = {"type": value}
    values = require_mapping(value, name)
    with at(name):
        check_keys(values, _TERM_KEYS)
        take_unsupported(
            values,
            {
                "reduction": ((None, "mean"), "change the weight"),
                "sliding_factor": ((None,), "remove it"),
            },
        )
        if "type" in values:
            values["type"] = _LOSS_TYPES.get(str(values["type"]), values["type"])
        return LossTerm(**values)


def _parse_baseline(value: Any) -> BaselineOptions:
    """Return the baseline from a mode, or from metatrain's tables by target."""
    if value is None:
        return BaselineOptions()
    with at("atomic_baseline"):
        if isinstance(value, str):
            return BaselineOptions(mode=_check_mode(value))
        tables = {}
        values = require_mapping(value, "value")
        mode = values.pop("mode", BaselineOptions.mode)
        for target, table in values.items():
            tables[target] = _parse_table(table, target)
        return BaselineOptions(mode=_check_mode(mode), tables=tables)


def _parse_replay(value: Any) -> ReplayOptions:
    values = require_mapping(value, "replay")
    with at("replay"):
        check_keys(values, [f.name for f in fields(ReplayOptions)])
        return ReplayOptions(**values)


def _check_mode(value: Any) -> Any:
    if isinstance(value, str) and value.endswith((".ckpt", ".pt")):
        raise ConfigError(
            f"mode: {value} is not supported; write the energies by symbol instead of "
            "a composition model's checkpoint"
        )
    return convert(value, get_type_hints(BaselineOptions)["mode"], "mode")


def _parse_table(value: Any, name: str) -> dict[str, float] | float:
    """Return energies by symbol from a mapping of symbols or atomic numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: expected a number or energies by element, got {show(value)}; or "
            f"write one of fit, keep, isolated_atoms without a target"
        )
    with at(name):
        return {
            _read_symbol(element): convert(energy, float, str(element))
            for element, energy in value.items()
        }


def _read_symbol(element: Any) -> str:
    # an unquoted No, nobelium, is YAML for false
    symbol = "No" if element is False else element
    if isinstance(element, int) and 0 < element < len(chemical_symbols):
        symbol = chemical_symbols[element]
    if symbol not in atomic_numbers or symbol == "X":
        raise ConfigError(f"{element}: expected a symbol or an atomic number")
    return str(symbol)

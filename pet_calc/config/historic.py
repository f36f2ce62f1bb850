"""Training options of metatrain and of its earlier versions, in our spelling."""

from collections.abc import Mapping
from typing import Any

from pet_calc.config.finetune_options import ConfigOptions
from pet_calc.config.messages import OptionError, at, check_keys, require_mapping, show
from pet_calc.config.old_names import LORA_KEYS

# the default of the versions that had num_epochs_warmup
_OLD_NUM_EPOCHS = 10_000
# 2024 and early 2025: one loss for all targets, with a table of weights
_SHARED_KEYS = ("type", "weights", "reduction", "sliding_factor")
# energies per element: metatrain's name today and its earlier one
_COMPOSITION = ("atomic_baseline", "fixed_composition_weights")
# autumn 2025: beside the target they belong to
_GRADIENTS = ("forces", "stress", "virial")


def update_training(values: dict[str, Any]) -> None:
    """Replace the historic keys of a ``training:`` block, in place."""
    pairs = (
        *((name, "composition") for name in _COMPOSITION),
        ("num_epochs_warmup", "warmup_fraction"),
    )
    for old, new in pairs:
        if old in values and new in values:
            raise OptionError(f"{old}: expected this or {new}, got both")
    for name in _COMPOSITION:
        if name in values:
            values["composition"] = values.pop(name) or None
    if "num_epochs_warmup" in values:
        n_warmup = values.pop("num_epochs_warmup")
        n_epochs = values.get("num_epochs") or _OLD_NUM_EPOCHS
        for name, number in (("num_epochs_warmup", n_warmup), ("num_epochs", n_epochs)):
            if type(number) is not int:
                raise OptionError(
                    f"{name}: expected a whole number, got {show(number)}"
                )
        values["warmup_fraction"] = min(1.0, n_warmup / n_epochs)
    if any(key in values for key in LORA_KEYS):
        values["finetune"] = _take_lora(values)


def _take_lora(values: dict[str, Any]) -> dict[str, Any]:
    """Take the historic keys of LoRA out of a block; return the ``finetune`` of it."""
    found = {key: values.pop(key) for key in LORA_KEYS if key in values}
    if values.get("finetune") is not None:
        raise OptionError(
            f"finetune: expected this block or {', '.join(found)}, got both"
        )
    uses_lora = found.pop("USE_LORA_PEFT", False)
    if not isinstance(uses_lora, bool):
        raise OptionError(
            f"USE_LORA_PEFT: expected true or false, got {show(uses_lora)}"
        )
    config = {}
    for key, value in found.items():
        name = key.removeprefix("LORA_").lower()
        config[name] = value
        try:
            ConfigOptions(**{name: value})
        except OptionError as error:
            raise OptionError(key + str(error).removeprefix(name)) from None
    # rank and alpha may stay in the file while all weights are trained
    return {"method": "lora", "config": config} if uses_lora else {}


def update_loss(value: Any, targets: list[str]) -> Any:
    """Return a ``loss:`` block as today's versions have it, a block per target."""
    if not isinstance(value, Mapping):
        return value
    values = {str(key): item for key, item in value.items()}
    is_shared = bool({"type", "weights"} & set(values)) and not set(values) & set(
        targets
    )
    if is_shared:
        return _spread_shared(values, targets)
    found = [key for key in _GRADIENTS if key in values and key not in targets]
    if not found:
        return value
    with at("loss"):
        name = _only_target(found[0], targets)
        own = values.get(name, {})
        own = {"type": own} if isinstance(own, str) else require_mapping(own, name)
        for key in found:
            if key in own:
                raise OptionError(f"{key}: expected here or in {name}, got both")
            own[key] = values.pop(key)
    return {**values, name: own}


def _spread_shared(values: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    """Return the block of each target for one type and a table of weights."""
    with at("loss"):
        check_keys(values, _SHARED_KEYS)
        if values.get("sliding_factor") is not None:
            raise OptionError("sliding_factor: is not supported; remove it")
        kind, deltas = _read_type(values.get("type", "mse"))
        term = {"type": kind, "reduction": values.get("reduction", "mean")}
        weights = require_mapping(values.get("weights"), "weights")
        known = [*targets, *_GRADIENTS]
        with at("weights"):
            check_keys(weights, known)
        with at("type.huber.deltas"):
            check_keys(deltas, known)

        def build(name: str) -> dict[str, Any]:
            given = {"weight": weights, "delta": deltas}
            return {**term, **{k: v[name] for k, v in given.items() if name in v}}

        losses = {name: build(name) for name in targets}
        for key in _GRADIENTS:
            if key in weights or key in deltas:
                losses[_only_target(key, targets)][key] = build(key)
        # what is not weighed has the same type
        for name in losses:
            for key in ("forces", "stress"):
                if key == "stress" and "virial" in losses[name]:
                    continue
                losses[name].setdefault(key, dict(term))
        return losses


def _read_type(value: Any) -> tuple[Any, dict[str, Any]]:
    """Return the name of a loss, and the thresholds of ``{huber: {deltas: ...}}``."""
    if not isinstance(value, Mapping):
        return value, {}
    if set(value) != {"huber"}:
        raise OptionError(f"type: expected a name or a block huber, got {show(value)}")
    block = require_mapping(value["huber"], "huber")
    with at("type.huber"):
        check_keys(block, ("deltas",))
        return "huber", require_mapping(block.get("deltas"), "deltas")


def _only_target(key: str, targets: list[str]) -> str:
    # direct heads have no gradients
    energies = [name for name in targets if not name.startswith("non_conservative_")]
    if len(energies) != 1:
        raise OptionError(
            f"{key}: expected in the block of the target that it belongs to, of "
            f"{', '.join(targets)}"
        )
    return energies[0]

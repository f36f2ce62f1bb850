"""Options of a fine-tuning run from flags, as the command line gives them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pet_calc.config.data_options import DatasetOptions, TargetOptions
from pet_calc.config.flags import Place, apply_changes, find_flags, set_at
from pet_calc.config.messages import OptionError
from pet_calc.config.options import RunOptions
from pet_calc.config.read import parse_options
from pet_calc.model.hypers import ENERGY

RUN_PLACES = tuple(find_flags(RunOptions))
"""The flags of a run, each with where its option is in an options file."""
DATA_PLACES = (*find_flags(TargetOptions, ("energy",)), *find_flags(DatasetOptions))
"""Those of a data set; what is of the target stands in a block ``energy``."""
LABEL_PLACES = tuple(p for p in DATA_PLACES if p.flag.group == "Labels")
"""Those that say where labels lie and in which units."""

Values = dict[str, Any]


def build_dataset(files: Sequence[str], flags: Mapping[str, Any]) -> DatasetOptions:
    """Return the data set of some files, of whose labels the flags tell."""
    return DatasetOptions(**_build_data(files, flags))


def build_datasets(
    files: Sequence[str], flags: Mapping[str, Any]
) -> list[DatasetOptions]:
    """Return the data set of the files of weight 1, and one of each other weight."""
    return [DatasetOptions(**values) for values in _build_training_set(files, flags)]


def build_finetune_options(
    data: Sequence[str],
    base: str,
    output: str | Path,
    flags: Mapping[str, Any],
    changes: Sequence[str] = (),
) -> RunOptions:
    """Return the options of a fine-tuning run.

    Args:
        data: files or globs with the training frames.
        base: checkpoint to start from.
        output: folder of the run.
        flags: by their name in Python; None and what is missing are at the default.
        changes: options in the form of ``--set``, which come last.
    """
    values: Values = {"output": str(output)}
    finetune = {"method": "lora", "read_from": base}
    set_at(values, ("architecture", "training", "finetune"), finetune)
    for place in RUN_PLACES:
        value = flags.get(place.parameter)
        if value is None or value == ():
            continue
        if place.parameter in _CONVERTERS:
            value = _CONVERTERS[place.parameter](value, flags)
        set_at(values, place.path, place.convert(value))
    values["training_set"] = _build_training_set(data, flags)
    apply_changes(values, changes)
    return parse_options(values)


def read_elements(value: str) -> Literal["nearest"] | dict[str, str]:
    """Return the choice that a text of ``--allow-new-elements`` stands for."""
    if value == "nearest":
        return "nearest"
    pairs = [pair.split("=") for pair in value.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise OptionError(
            f"--allow-new-elements: expected pairs such as Ge=Si,Sn=Si or nothing, got "
            f"{value}; files come before this option"
        )
    return {new: known for new, known in pairs}


def _build_data(files: Sequence[str], flags: Mapping[str, Any]) -> Values:
    """Return an entry of ``training_set:``."""
    values: Values = {"systems": {"read_from": list(files)}, "energy": {}}
    for place in DATA_PLACES:
        value = flags.get(place.parameter)
        if value is not None and place.path[-1] not in ("name", "weight", "sign"):
            is_none = place.name.endswith("-key") and str(value).lower() == "none"
            set_at(values, place.path, False if is_none else value)
    target = values.pop("energy")
    blocks = {name: target.get(name, {}) for name in ("forces", "stress", "virial")}
    for name, block in blocks.items():
        key = block.get("key")
        mode = {None: "auto", False: "off"}.get(key, "required")
        blocks[name] = {**block, "key": key or None, "mode": mode}
    # one whose counterpart is named by a key is not looked for
    for name, other in (("stress", "virial"), ("virial", "stress")):
        if blocks[other]["mode"] == "required" and blocks[name]["mode"] == "auto":
            blocks[name] = {"mode": "off"}
        elif flags.get("stress_sign") is not None:
            blocks[name]["sign"] = int(flags["stress_sign"])
    values["targets"] = {flags.get("target") or ENERGY: {**target, **blocks}}
    return values


def _build_training_set(data: Sequence[str], flags: Mapping[str, Any]) -> list[Values]:
    """Return one data set of the files of weight 1, and one of each other weight."""
    weights = dict(_parse_weight(text) for text in flags.get("weight") or ())
    unknown = sorted(set(weights) - set(data))
    if unknown:
        raise OptionError(
            f"--weight: expected one of the files of the training data "
            f"({', '.join(data)}), got {unknown[0]}"
        )
    groups: dict[float, list[str]] = {}
    for file in data:
        groups.setdefault(weights.get(file, 1.0), []).append(file)
    return [
        {**_build_data(files, flags), "weight": weight}
        for weight, files in groups.items()
    ]


def _parse_weight(text: str) -> tuple[str, float]:
    """Return (file, weight) of ``file=weight``."""
    file, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not file or not 0 < weight < float("inf"):
        raise OptionError(
            f"--weight: expected FILE=NUMBER with a number above 0, got {text!r}"
        )
    return file, weight


def _read_held_out(value: str, flags: Mapping[str, Any]) -> float | Values:
    """Return the fraction, or the data set of a file."""
    try:
        fraction = float(value)
    except ValueError:
        return _build_data((value,), flags)
    if not 0.0 <= fraction < 1.0:
        raise OptionError(
            f"validation or test set: expected a fraction from 0 to 1 or a file, "
            f"got {value}"
        )
    return fraction


def _read_domain(files: Sequence[str], flags: Mapping[str, Any]) -> Values:
    return {"systems": {"read_from": list(files)}}


def _read_heads(name: str, flags: Mapping[str, Any]) -> Values:
    return {flags.get("target") or ENERGY: name}


def _read_weights(weights: Sequence[float], flags: Mapping[str, Any]) -> Values:
    energy, forces, stress = ({"weight": weight} for weight in weights)
    target = flags.get("target") or ENERGY
    return {target: {**energy, "forces": forces, "stress": stress}}


_CONVERTERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "validation": _read_held_out,
    "test": _read_held_out,
    "retain": _read_domain,
    "replay": _read_domain,
    "inherit_head": _read_heads,
    "loss_weights": _read_weights,
    "new_elements": lambda value, flags: read_elements(value),
}


def find_place(parameter: str) -> Place:
    """Return the place of a flag by its name in Python."""
    return next(p for p in (*RUN_PLACES, *DATA_PLACES) if p.parameter == parameter)

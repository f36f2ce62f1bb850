"""Reading ``training_set:``, ``validation_set:`` and ``test_set:``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.config.fields import (
    at,
    check_keys,
    convert,
    require_mapping,
    show,
)
from pet_calc.config.old_names import UNSUPPORTED_TARGET, take_unsupported
from pet_calc.errors import ConfigError

_DATASET_KEYS = (
    "systems",
    "targets",
    "extra_data",
    "indices",
    "weight",
    "use_isolated_atoms",
)
_TARGET_KEYS = (
    "quantity",
    "read_from",
    "key",
    "unit",
    "description",
    "sample_kind",
    "per_atom",
    "type",
)
_LABELS = ("forces", "stress", "virial")
_LABEL_KEYS = ("mode", "key", "unit", "sign", "read_from")

# What a target of each kind must be, where metatrain asks for it to be spelled out.
_LAYOUTS: dict[str, tuple[str, Any]] = {
    "energy": ("system", "scalar"),
    "force": ("atom", {"cartesian": {"rank": 1}}),
    "stress": ("system", {"cartesian": {"rank": 2}}),
}


def parse_datasets(value: Any, name: str) -> tuple[DatasetOptions, ...]:
    """Return the datasets of a path, a block, or a list of both."""
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"{name}: expected at least one dataset, got none")
        return tuple(
            _parse_dataset(item, f"{name}[{i}]") for i, item in enumerate(value)
        )
    return (_parse_dataset(value, name),)


def parse_held_out(
    value: Any, name: str, training_set: Sequence[DatasetOptions]
) -> float | tuple[DatasetOptions, ...]:
    """Return a fraction, or datasets; only ``indices`` means other training frames."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, dict) and set(value) == {"indices"}:
        if len(training_set) != 1:
            raise ConfigError(
                f"{name}.indices: expected a single training set to take frames from, "
                f"got {len(training_set)}"
            )
        with at(name):
            return (replace(training_set[0], indices=value["indices"]),)
    return parse_datasets(value, name)


def _parse_dataset(value: Any, name: str) -> DatasetOptions:
    if isinstance(value, str):
        value = {"systems": value}
    values = require_mapping(value, name)
    with at(name):
        check_keys(values, _DATASET_KEYS)
        if "systems" not in values:
            raise ConfigError("systems: expected a file with structures, got none")
        found = _parse_systems(values.pop("systems"))
        found.update(_parse_extra_data(values.pop("extra_data", None)))
        if "targets" in values:
            targets = require_mapping(values.pop("targets"), "targets")
            with at("targets"):
                found["targets"] = tuple(
                    _parse_target(target, target_name, found["read_from"])
                    for target_name, target in targets.items()
                )
        return DatasetOptions(**found, **values)


def _parse_systems(value: Any) -> dict[str, Any]:
    if isinstance(value, str | list):
        value = {"read_from": value}
    values = require_mapping(value, "systems")
    with at("systems"):
        check_keys(values, ("read_from", "reader", "length_unit", "index"))
        take_unsupported(values, {"reader": UNSUPPORTED_TARGET["reader"]})
        paths = values.get("read_from")
        if paths is None:
            raise ConfigError("read_from: expected a file with structures, got none")
        paths = [paths] if isinstance(paths, str) else paths
        values["read_from"] = convert(paths, tuple[str, ...], "read_from")
        # metatrain's way to say that no unit is known
        if values.get("length_unit", "") in ("", None):
            values.pop("length_unit", None)
        for key in values.keys() & {"length_unit", "index"}:
            convert(values[key], str, key)
    return values


def _parse_extra_data(value: Any) -> dict[str, Any]:
    found = {}
    blocks = require_mapping(value, "extra_data")
    with at("extra_data"):
        check_keys(blocks, ("charge", "spin_multiplicity"))
        for name, block in blocks.items():
            values = require_mapping(block, name)
            with at(name):
                check_keys(values, ("key",))
                found[f"{name}_key"] = convert(values.get("key", name), str, "key")
    return found


def _parse_target(value: Any, name: str, paths: Sequence[str]) -> TargetOptions:
    if isinstance(value, str):
        value = {"read_from": value}
    values = require_mapping(value, name)
    with at(name):
        flat_keys = [f"{label}_key" for label in _LABELS]
        check_keys(values, [*_TARGET_KEYS, *_LABELS, *flat_keys, *UNSUPPORTED_TARGET])
        take_unsupported(values, UNSUPPORTED_TARGET)
        _check_read_from(values, paths)
        layout: dict[str, Any] = {
            key: values.pop(key)
            for key in ("sample_kind", "per_atom", "type")
            if key in values
        }
        for key in ("unit", "quantity"):
            if values.get(key) == "":
                del values[key]
        values.update(_parse_labels(values, paths))
        target = TargetOptions(name=name, **values)
        _check_layout(target, layout)
        return target


def _parse_labels(
    values: dict[str, Any], paths: Sequence[str]
) -> dict[str, LabelOptions]:
    """Take forces, stress and virial, in all their spellings, out of ``values``."""
    labels = {}
    for label in _LABELS:
        if f"{label}_key" in values:
            if label in values:
                raise ConfigError(
                    f"{label}_key: expected this or a block {label}, got both"
                )
            values[label] = {"key": values.pop(f"{label}_key")}
        if label in values:
            labels[label] = _parse_label(values.pop(label), label, paths)
    # asking for one of the two means that the other one is not wanted
    for asked, other in (("stress", "virial"), ("virial", "stress")):
        is_asked = asked in labels and labels[asked].mode == "required"
        if is_asked and other not in labels:
            labels[other] = LabelOptions(mode="off")
    return labels


def _parse_label(value: Any, name: str, paths: Sequence[str]) -> LabelOptions:
    if isinstance(value, bool):
        return LabelOptions(mode="required" if value else "off")
    if value in ("auto", "required", "off"):
        return LabelOptions(mode=value)
    if isinstance(value, str):
        if value not in paths:
            raise ConfigError(
                f"{name}: expected on, off, auto or a block, got {show(value)}; to "
                f"name the labels in the file write `{name}: {{key: {value}}}`"
            )
        value = {}
    values = require_mapping(value, name)
    with at(name):
        check_keys(values, [*_LABEL_KEYS, "reader"])
        take_unsupported(values, {"reader": UNSUPPORTED_TARGET["reader"]})
        _check_read_from(values, paths)
        return LabelOptions(**{"mode": "required", **values})


def _check_read_from(values: dict[str, Any], paths: Sequence[str]) -> None:
    path = values.pop("read_from", None)
    if path is not None and path not in paths:
        raise ConfigError(
            f"read_from: expected the file of the structures, got {show(path)}; labels "
            "in other files than the structures are not supported"
        )


def _check_layout(target: TargetOptions, layout: dict[str, Any]) -> None:
    """Raise if the described target is not the one that its name stands for."""
    sample_kind, kind = _LAYOUTS[target.kind]
    if "per_atom" in layout:
        layout.setdefault("sample_kind", "atom" if layout["per_atom"] else "system")
    for key, wanted in (("sample_kind", sample_kind), ("type", kind)):
        if layout.get(key, wanted) != wanted:
            raise ConfigError(
                f"{key}: expected {wanted} for this target, got {layout[key]}; only "
                "energies and non-conservative forces and stress are learned"
            )

"""Spellings of ``training_set:`` and its like, brought into that of the options."""

from collections.abc import Mapping, Sequence
from typing import Any

from pet_calc.config.messages import OptionError, at, expand, require_mapping, show
from pet_calc.config.old_names import UNSUPPORTED_TARGET, take_unsupported
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    DIRECT_STRESS,
)

_LABELS = ("forces", "stress", "virial")
_READER = {"reader": UNSUPPORTED_TARGET["reader"]}

# What a target must be, where metatrain asks for it to be spelled out.
_ENERGY = ("system", "scalar")
_FORCE = ("atom", {"cartesian": {"rank": 1}})
_LAYOUTS: dict[str, tuple[str, Any]] = {
    DIRECT_FORCE: _FORCE,
    DIRECT_FORCES: _FORCE,
    DIRECT_STRESS: ("system", {"cartesian": {"rank": 2}}),
}


def normalize_systems(value: Any) -> Any:
    """Return ``systems:`` as a block; paths alone are those of ``read_from``."""
    if isinstance(value, str | list | tuple):
        value = {"read_from": value}
    if not isinstance(value, Mapping):
        return value
    values = dict(value)
    take_unsupported(values, _READER)
    if isinstance(values.get("read_from"), str):
        values["read_from"] = (values["read_from"],)
    # metatrain's ways to say that no unit is known
    if values.get("length_unit", "") in ("", None):
        values.pop("length_unit", None)
    return values


def find_paths(values: Mapping[str, Any]) -> Sequence[str]:
    """Return the files of a data set that is not yet checked."""
    systems = normalize_systems(values.get("systems"))
    found = getattr(systems, "read_from", None)
    if isinstance(systems, Mapping):
        found = systems.get("read_from")
    return found if isinstance(found, list | tuple) else ()


def normalize_target(value: Any, name: str, paths: Sequence[str]) -> dict[str, Any]:
    """Return an entry of ``targets:`` with the fields of ``TargetOptions``."""
    values = require_mapping(expand(value, "read_from"), name)
    if values.get("name", name) != name:
        raise OptionError(f"name: expected {name}, as above, got {values['name']}")
    take_unsupported(values, UNSUPPORTED_TARGET)
    _check_read_from(values, paths)
    _check_layout(values, name)
    for key in ("unit", "quantity"):
        if values.get(key) == "":
            del values[key]
    for label in _LABELS:
        if f"{label}_key" in values:
            if label in values:
                raise OptionError(
                    f"{label}_key: expected this or a block {label}, got both"
                )
            values[label] = {"key": values.pop(f"{label}_key")}
        if label in values:
            values[label] = _normalize_label(values[label], label, paths)
    # asking for one of the two means that the other one is not wanted
    for asked, other in (("stress", "virial"), ("virial", "stress")):
        if values.get(asked, {}).get("mode") == "required":
            values.setdefault(other, {"mode": "off"})
    return {"name": name, **values}


def _normalize_label(value: Any, name: str, paths: Sequence[str]) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"mode": "required" if value else "off"}
    if value in ("auto", "required", "off"):
        return {"mode": value}
    if isinstance(value, str):
        if value not in paths:
            raise OptionError(
                f"{name}: expected on, off, auto or a block, got {show(value)}; to "
                f"name the labels in the file write `{name}: {{key: {value}}}`"
            )
        value = {}
    values = require_mapping(value, name)
    with at(name):
        take_unsupported(values, _READER)
        _check_read_from(values, paths)
        return {"mode": "required", **values}


def _check_read_from(values: dict[str, Any], paths: Sequence[str]) -> None:
    path = values.pop("read_from", None)
    if path is not None and path not in paths:
        raise OptionError(
            f"read_from: expected the file of the frames, got {show(path)}; labels "
            "in other files than the frames are not supported"
        )


def _check_layout(values: dict[str, Any], name: str) -> None:
    """Take metatrain's layout, and raise if it is not what the name stands for."""
    layout: dict[str, Any] = {
        k: values.pop(k) for k in ("sample_kind", "type") if k in values
    }
    if "per_atom" in values:
        kind = "atom" if values.pop("per_atom") else "system"
        layout.setdefault("sample_kind", kind)
    sample_kind, kind = _LAYOUTS.get(name.split("/")[0], _ENERGY)
    for key, wanted in (("sample_kind", sample_kind), ("type", kind)):
        if layout.get(key, wanted) != wanted:
            raise OptionError(
                f"{key}: expected {wanted} for this target, got {layout[key]}; only "
                "energies and direct forces and stress are learned"
            )

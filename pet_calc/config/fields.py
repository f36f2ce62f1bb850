"""Checks that every option passes: its name is known, its type and range fit."""

import difflib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pet_calc.errors import ConfigError


@contextmanager
def at(name: str) -> Iterator[None]:
    """Put ``name.`` before the message of a ConfigError, so that paths add up."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        separator = "" if message.startswith("[") else "."
        raise ConfigError(f"{name}{separator}{message}") from None


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` did you mean X?`` or a list of what is known, for a message's end."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(names)}"


def check_keys(values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for the first key that is not known, naming the nearest one."""
    known = set(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"{key}: unknown option; {suggest(key, known)}")


def require_mapping(value: Any, name: str) -> dict[str, Any]:
    """Return ``value`` as a dict with text keys; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: expected a block of options, got {show(value)}")
    return {str(key): item for key, item in value.items()}


def convert(value: Any, wanted: Any, name: str) -> Any:
    """Return ``value`` as the annotated type, or raise naming both.

    Whole numbers become floats and lists become tuples where those are wanted. Text is
    never read as a number, and true/false never as 1/0.
    """
    converted = _try_convert(value, wanted)
    if converted is not MISSING:
        return converted
    message = f"{name}: expected {describe(wanted)}, got {show(value)}"
    choices = _choices(wanted)
    if choices and isinstance(value, str):
        message += f"; {suggest(value, choices)}"
    raise ConfigError(message)


def check_fields(options: Any) -> None:
    """Check and convert every field of a frozen dataclass in place."""
    hints = get_type_hints(type(options))
    for field in fields(options):
        value = convert(getattr(options, field.name), hints[field.name], field.name)
        object.__setattr__(options, field.name, value)


def check_positive(options: Any, *names: str) -> None:
    """Raise if one of the named fields is not above zero; None passes."""
    for name in names:
        value = getattr(options, name)
        # written so that NaN fails as well
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: expected a number above 0, got {show(value)}")


def check_range(options: Any, name: str, low: float, high: float) -> None:
    """Raise if the named field is outside ``low`` to ``high``; None passes."""
    value = getattr(options, name)
    if value is not None and not low <= value <= high:
        raise ConfigError(
            f"{name}: expected a number from {low} to {high}, got {show(value)}"
        )


def check_unit(
    unit: str | None, name: str, compute_factor: Callable[[str], float]
) -> None:
    """Raise if ``compute_factor`` does not know the unit; None passes."""
    try:
        if unit is not None:
            compute_factor(unit)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def describe(wanted: Any) -> str:
    """Name a type in words, for messages."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin in (tuple, list):
        return f"a list ({describe(args[0])} each)"
    if origin is dict:
        return f"a mapping to {describe(args[1])}"
    if wanted in _WORDS:
        return _WORDS[wanted]
    return f"a {wanted.__name__}"


def show(value: Any) -> str:
    """Show a value and its kind as a message does."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a block of options"
    if isinstance(value, list | tuple):
        return f"the list {list(value)!r}"
    return repr(value)


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _choices(wanted: Any) -> list[str]:
    if get_origin(wanted) is Literal:
        return [choice for choice in get_args(wanted) if isinstance(choice, str)]
    return [choice for arg in get_args(wanted) for choice in _choices(arg)]


def _try_convert(value: Any, wanted: Any) -> Any:
    """Return the converted value, or ``MISSING`` where it does not fit."""
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin is Literal:
        # 1 == True, so the kinds are compared as well
        fits = any(value == c and type(value) is type(c) for c in args)
        return value if fits else MISSING
    if origin in (Union, types.UnionType):
        candidates = (_try_convert(value, arg) for arg in args)
        return next((c for c in candidates if c is not MISSING), MISSING)
    if origin in (tuple, list):
        return _try_convert_list(value, origin, args[0])
    if origin is dict:
        return _try_convert_dict(value, *args)
    if isinstance(wanted, type) and is_dataclass(wanted):
        return value if isinstance(value, wanted) else MISSING
    if wanted is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else MISSING
    if wanted is int and isinstance(value, bool):
        return MISSING
    return value if isinstance(value, wanted) else MISSING


def _try_convert_list(value: Any, kind: type, wanted: Any) -> Any:
    if not isinstance(value, list | tuple):
        return MISSING
    items = [_try_convert(item, wanted) for item in value]
    return MISSING if any(item is MISSING for item in items) else kind(items)


def _try_convert_dict(value: Any, wanted_key: Any, wanted: Any) -> Any:
    if not isinstance(value, Mapping):
        return MISSING
    items = {
        _try_convert(key, wanted_key): _try_convert(item, wanted)
        for key, item in value.items()
    }
    is_misfit = MISSING in items or any(item is MISSING for item in items.values())
    return MISSING if is_misfit else items

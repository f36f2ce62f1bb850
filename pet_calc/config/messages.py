"""Messages about options: full paths, what was expected, what came, what is nearest."""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pet_calc.errors import ConfigError


class OptionError(ConfigError, ValueError):
    """A wrong option; a ValueError, so that pydantic hands it on with its place.

    The message starts with the name of the option inside the block.
    """


@contextmanager
def at(name: str) -> Iterator[None]:
    """Put ``name.`` before the message of an OptionError, so that paths add up."""
    try:
        yield
    except OptionError as error:
        raise OptionError(join_path(name, str(error))) from None


def join_path(path: str, rest: str) -> str:
    """Return a path from a block's and that of an option in it."""
    separator = "" if not path or rest.startswith("[") else "."
    return f"{path}{separator}{rest}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean X?`` or a list of what is known, for a message's end."""
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
            raise OptionError(f"{key}: unknown option; {suggest(key, known)}")


def require_mapping(value: Any, name: str) -> dict[str, Any]:
    """Return ``value`` as a new dict with text keys; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{name}: expected a block of options, got {show(value)}")
    return {str(key): item for key, item in value.items()}


def expand(value: Any, key: str) -> Any:
    """Return ``{key: value}`` for a text, which is short for it."""
    return {key: value} if isinstance(value, str) else value


def describe(wanted: Any, limits: Iterable[Any] = ()) -> str:
    """Name a type in words, for messages; ``limits`` is what pydantic knows of it."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return describe(args[0], [*_flatten(args[1:]), *limits])
    if origin is Literal:
        names = [_SHOWN.get(choice, str(choice)) for choice in args]
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if origin in (Union, types.UnionType):
        *first, last = (describe(arg, limits) for arg in args)
        return f"{', '.join(first)} or {last}"
    if origin in (tuple, list):
        return f"a list ({describe(args[0])} each)"
    if origin is dict:
        return f"a mapping to {describe(args[1])}"
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return "a block of options"
    if wanted in (int, float):
        return _WORDS[wanted] + _describe_range(_flatten(limits))
    return _WORDS.get(wanted, f"a {wanted.__name__}")


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
# YAML reads off as false
_SHOWN: dict[Any, str] = {False: "off"}


def describe_misfit(field: FieldInfo, value: Any, part: Any = None) -> str:
    """Return what a field expected and got, with what is nearest to a wrong part."""
    wanted = describe(field.annotation, field.metadata)
    message = f"expected {wanted}, got {show(value)}"
    choices = _find_choices(field.annotation)
    if choices[1:] and isinstance(part, str):
        message += f"; {suggest(part, choices)}"
    return message


def _find_choices(wanted: Any) -> list[str]:
    if get_origin(wanted) is Literal:
        return [choice for choice in get_args(wanted) if isinstance(choice, str)]
    return [choice for arg in get_args(wanted) for choice in _find_choices(arg)]


def _flatten(limits: Iterable[Any]) -> Iterator[Any]:
    for limit in limits:
        yield from getattr(limit, "metadata", (limit,))


def _describe_range(limits: Iterable[Any]) -> str:
    found = {
        name: getattr(limit, name)
        for limit in limits
        for name in ("gt", "ge", "le")
        if getattr(limit, name, None) is not None
    }
    words = {"gt": "above", "ge": "from", "le": "to" if "ge" in found else "up to"}
    return "".join(f" {words[name]} {limit}" for name, limit in found.items())

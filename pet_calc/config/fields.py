"""What all options share: strict types, known names, messages with full paths."""

import ast
import dataclasses
import difflib
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from pet_calc.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# YAML has lists where the options are tuples
Names = Annotated[tuple[str, ...], Strict(False)]

AnyOptions = TypeVar("AnyOptions")


class OptionError(ConfigError, ValueError):
    """A wrong option; a ValueError, so that pydantic hands it on with its place.

    The message starts with the name of the option inside the block.
    """


class Options(BaseModel):
    """A block of options: frozen, and checked when it is made.

    A field's name is its key in an options file, its docstring explains it there and
    in the help. Text is never read as a number, and true/false never as 1/0. A wrong
    value raises ``ConfigError`` naming its path.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, defer_build=True
    )

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Where in the block lies what a property gives, for ``replace``."""

    def __init__(self, /, **values: Any) -> None:
        """Check and keep the values."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionError(_explain(error, type(self), values)) from None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, BaseModel):
            return value
        if isinstance(value, Mapping):
            value = {str(key): item for key, item in value.items()}
        return cls.normalize(value)

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Return a block with the names of the fields from another spelling of it.

        What it returns must stay as it is when it is normalized again.
        """
        return value


def replace(options: AnyOptions, **changes: Any) -> AnyOptions:
    """Return a copy with some fields changed, checked as a new one.

    A name may also be one of ``PARTS``, which says where its value lies further down.
    Dataclasses are copied as by the function of this name in ``dataclasses``.
    """
    if not isinstance(options, Options):
        return dataclasses.replace(options, **changes)  # type: ignore[type-var]
    for name, (block, *path) in options.PARTS.items():
        if name in changes:
            part = changes.get(block, getattr(options, block))
            changes[block] = _replace_at(part, path, changes.pop(name))
    kept = {name: getattr(options, name) for name in options.model_fields_set}
    return type(options)(**kept | changes)


def _replace_at(options: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    if rest:
        value = _replace_at(getattr(options, name), rest, value)
    return replace(options, **{name: value})


def find_changes(old: Options, new: Options) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, old and new value of the options that differ in two blocks."""
    for name in type(old).model_fields:
        before, now = getattr(old, name), getattr(new, name)
        if isinstance(before, Options):
            for inner, *values in find_changes(before, now):
                yield f"{name}.{inner}", values[0], values[1]
        elif before != now:
            yield name, before, now


@contextmanager
def at(name: str) -> Iterator[None]:
    """Put ``name.`` before the message of an OptionError, so that paths add up."""
    try:
        yield
    except OptionError as error:
        raise OptionError(_join(name, str(error))) from None


@cache
def read_docs(cls: type) -> dict[str, str]:
    """Return the docstrings of the fields of a class and of its bases.

    Pydantic has its own way to read them, which takes longer than the rest of a help.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("pet_calc."):
            continue
        for node in _parse_module(base.__module__).body:
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                for field, doc in zip(node.body, node.body[1:], strict=False):
                    if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                        text = " ".join(ast.literal_eval(doc.value).split())
                        docs[ast.unparse(field.target)] = text
    return docs


@cache
def _parse_module(name: str) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(sys.modules[name]))
    except OSError:  # installed without its source
        return ast.parse("")


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


def _find_choices(wanted: Any) -> list[str]:
    if get_origin(wanted) is Literal:
        return [choice for choice in get_args(wanted) if isinstance(choice, str)]
    return [choice for arg in get_args(wanted) for choice in _find_choices(arg)]


def _explain(
    error: ValidationError, cls: type[BaseModel], values: Mapping[str, Any]
) -> str:
    """Return the message for the first error, an unknown name before others."""
    errors = error.errors(include_url=False)
    found = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    # of the kinds that a field may have, the one that says most
    for each in errors:
        if each["loc"][:1] == found["loc"][:1] and isinstance(
            _cause(each), OptionError
        ):
            found = each
    path = _write_path(found["loc"])
    cause = _cause(found)
    if isinstance(cause, OptionError):
        return _join(path, str(cause))
    if cause is not None:
        return f"{path}: {cause}"
    if found["type"] == "extra_forbidden":
        return f"{path}: unknown option; {suggest(path, cls.model_fields)}"
    name = str(found["loc"][0])
    field = cls.model_fields[name]
    if found["type"] == "missing":
        doc = read_docs(cls).get(name, "A value.")
        return f"{path}: expected {doc[:1].lower()}{doc[1:].rstrip('.')}, got none"
    value = values.get(name, found["input"])
    return f"{name}: {describe_misfit(field, value, found['input'])}"


def describe_misfit(field: FieldInfo, value: Any, part: Any = None) -> str:
    """Return what a field expected and got, with what is nearest to a wrong part."""
    wanted = describe(field.annotation, field.metadata)
    message = f"expected {wanted}, got {show(value)}"
    choices = _find_choices(field.annotation)
    if choices[1:] and isinstance(part, str):
        message += f"; {suggest(part, choices)}"
    return message


def _cause(found: Any) -> ValueError | None:
    cause: ValueError | None = found.get("ctx", {}).get("error")
    return cause


def _write_path(location: tuple[int | str, ...]) -> str:
    """Return a path as messages write it, without pydantic's names of types."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not path or not ("[" in part or part in ("int", "float", "str", "bool")):
            path = _join(path, part)
    return path


def _join(path: str, rest: str) -> str:
    separator = "" if not path or rest.startswith("[") else "."
    return f"{path}{separator}{rest}"


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

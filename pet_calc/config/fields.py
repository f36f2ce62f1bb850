"""What all options share: strict types, known names, messages with full paths."""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from pet_calc.config.messages import OptionError, describe_misfit, join_path, suggest

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# YAML has lists where the options are tuples
Names = Annotated[tuple[str, ...], Strict(False)]

AnyOptions = TypeVar("AnyOptions")


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
        return join_path(path, str(cause))
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
            path = join_path(path, part)
    return path

"""Flags of the command line, which stand beside the options that they set.

A field that is made by ``option`` gets a flag of that name. Its type, its
range and its default are the field's, its help is the first sentence of the field's
docstring.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import Field
from pydantic.fields import FieldInfo

from pet_calc.config.fields import Options, read_docs
from pet_calc.config.messages import OptionError
from pet_calc.config.yaml_file import parse_yaml

DATA, LABELS, METHOD, TRAINING = "Data", "Labels", "Method", "Training"
DOMAIN, MACHINE = "Base's domain", "Machine"
GROUPS = (DATA, LABELS, METHOD, TRAINING, DOMAIN, MACHINE)
"""The headings of the help."""
HELD_OUT: dict[str, Any] = {"metavar": "FILE|X", "is_text": True}
FILES: dict[str, Any] = {"metavar": "FILE", "n_values": -1}
KEY: dict[str, Any] = {
    "metavar": "NAME",
    "help": "Name of the {block} in the file; none: not used",
}
UNIT: dict[str, Any] = {"metavar": "UNIT"}


@dataclass(frozen=True)
class Flag:
    """How an option is written on the command line."""

    name: str
    """Such as --epochs; ``{block}`` stands for the name of the block."""
    group: str
    """One of ``GROUPS``."""
    parameter: str = ""
    """Name in Python; empty is that of the flag."""
    help: str = ""
    """Instead of the first sentence of the docstring."""
    metavar: str | None = None
    """What stands for the value in the help."""
    shown: str | None = None
    """What the help shows as default instead of the field's."""
    choices: Mapping[str, Any] | None = None
    """Words of the command line and what they mean, where they are not the same."""
    flag_value: str | None = None
    """What the flag alone means, without a value."""
    n_values: int = 1
    """Values that follow the flag; -1 for a flag that may be repeated."""
    is_text: bool = False
    """Whether the value is handed on as it is, to be read with the rest."""
    old_name: str = ""
    """Another name that is read and not shown."""
    is_rare: bool = False
    """Whether the help leaves it to ``--set``."""


def option(
    default: Any, name: str, group: str, *, exclude: bool = False, **settings: Any
) -> Any:
    """Return a field with a flag, of which ``settings`` are the attributes.

    A default that is a class is made anew each time; what is to be excluded stands not
    in the block itself when it is written.
    """
    kind = "default_factory" if isinstance(default, type) else "default"
    found: Any = {
        kind: default,
        "json_schema_extra": {"flag": Flag(name, group, **settings)},
    }
    return Field(exclude=exclude, **found)


class Place(NamedTuple):
    """A flag, the field it sets, and where that is in an options file."""

    flag: Flag
    path: tuple[str, ...]
    field: FieldInfo
    doc: str

    @property
    def name(self) -> str:
        """The flag as the user writes it."""
        return self._fill(self.flag.name)

    @property
    def parameter(self) -> str:
        """The flag's name in Python."""
        return self.flag.parameter or self.name.lstrip("-").replace("-", "_")

    @property
    def help(self) -> str:
        """What it does."""
        text = self._fill(self.flag.help or self.doc)
        # what null means is said by the default
        return text.split(". ")[0].split("; null")[0].rstrip(".") + "."

    @property
    def default(self) -> str | None:
        """What the help shows as default; None shows nothing."""
        value = self.field.get_default(call_default_factory=True)
        for word, meaning in (self.flag.choices or {}).items():
            if meaning == value and type(meaning) is type(value):
                value = word
        if self.flag.shown is not None or value in (None, "", ()) or value is False:
            return self.flag.shown
        if isinstance(value, tuple):
            return ",".join(value)
        return f"{value:g}" if isinstance(value, float) else str(value)

    def _fill(self, text: str) -> str:
        return text.replace("{block}", self.path[-2]) if self.path[1:] else text

    def convert(self, value: Any) -> Any:
        """Return what the option is for a word of the command line."""
        choices = self.flag.choices or {}
        return choices.get(value, value) if isinstance(value, str) else value


def find_flags(cls: type[Options], path: tuple[str, ...] = ()) -> Iterator[Place]:
    """Yield the flags of a block and of the blocks in it, in the order of the fields.

    Those of an entry of a list, such as a data set, are not among them.
    """
    docs = read_docs(cls)
    for name, field in cls.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            flag: Any = field.json_schema_extra["flag"]
            yield Place(flag, (*path, name), field, docs.get(name, ""))
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from find_flags(kind, (*path, name))


def set_at(values: MutableMapping[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a value in nested blocks, and make those that are not there."""
    *blocks, name = path
    for i, block in enumerate(blocks):
        inner = values.setdefault(block, {})
        if inner is None:
            inner = values[block] = {}
        if not isinstance(inner, MutableMapping):
            raise OptionError(
                f"{'.'.join(path)}: expected a block {'.'.join(path[: i + 1])} to set "
                "this in; write it into the options file"
            )
        values = inner
    values[name] = value


def apply_changes(values: MutableMapping[str, Any], changes: Sequence[str]) -> None:
    """Set options as ``--set training.num_epochs=3`` gives them, in place.

    The value is read as in an options file. ``training`` and ``model`` are short for
    the blocks of ``architecture``.
    """
    for change in changes:
        name, equals, text = change.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise OptionError(
                f"--set: expected NAME=VALUE such as training.grad_clip_norm=0.5, got "
                f"{change}"
            )
        if path[0] in ("training", "model"):
            path = ("architecture", *path)
        set_at(values, path, parse_yaml(f"value: {text}", f"--set {name}")["value"])

"""Options of the command line made from the fields of the options of a run."""

from collections.abc import Iterable, Mapping
from operator import getitem
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import cloup

from pet_calc.config.flags import Place
from pet_calc.config.messages import describe


class FieldValue(click.ParamType):
    """What a field takes, with its range."""

    name = "value"

    def __init__(self, place: Place) -> None:
        """Keep what is checked against."""
        self.field = place.field

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the value that the text stands for."""
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        from pet_calc.config.yaml_file import parse_yaml
        from pet_calc.errors import ConfigError

        annotation, limits = self.field.annotation, self.field.metadata
        wanted: Any = getitem(Annotated, (annotation, None, *limits))
        try:
            if get_origin(annotation) is tuple:
                value = tuple(value.split(","))
            else:
                value = parse_yaml(f"value: {value}")["value"]
            config = ConfigDict(strict=True)
            return TypeAdapter(wanted, config=config).validate_python(value)
        except (ConfigError, ValidationError):
            text = describe(annotation, limits).removesuffix(" or null")
            self.fail(f"expected {text}, got {value}", param, ctx)


class RenamedOption(cloup.Option):
    """An option of which the help shows the first name alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the help."""
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def build_option(place: Place) -> Any:
    """Return the decorator of a flag's option.

    Its value is None, or no value of several, where the flag is not given: a default
    stands in the field and nowhere else.
    """
    flag = place.flag
    settings: dict[str, Any] = {
        "help": f"{place.help}{'' if not place.default else f'  [{place.default}]'}",
        "hidden": flag.is_rare,
        "metavar": flag.metavar,
    }
    annotation = place.field.annotation
    if annotation is bool:
        settings |= {"is_flag": True, "default": None, "metavar": None}
    elif words := flag.choices or _find_words(annotation):
        settings |= {"type": click.Choice([str(word) for word in words])}
    elif flag.n_values > 1:
        settings |= {"type": float, "nargs": flag.n_values}
    elif flag.n_values < 0:
        settings |= {"type": str, "multiple": True}
    elif flag.flag_value is not None:
        settings |= {"is_flag": False, "flag_value": flag.flag_value}
    elif not (flag.is_text or _is_text(annotation)):
        settings |= {"type": FieldValue(place)}
        settings["metavar"] = flag.metavar or _name_kind(annotation)
    else:
        settings["metavar"] = flag.metavar or "TEXT"
    if flag.old_name:
        settings |= {"cls": RenamedOption}
    names = [name for name in (place.name, flag.old_name, place.parameter) if name]
    return cloup.option(*names, **settings)


def build_group(title: str, places: Iterable[Place], *others: Any) -> Any:
    """Return the decorator of a group of the help: others first, then the flags."""
    # one flag may set several fields
    named = {place.parameter: place for place in reversed(list(places))}
    options = [build_option(place) for place in reversed(named.values())]
    return cloup.option_group(title, *others, *options)


def given_flags(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the flags that the user wrote."""
    return [name for name, value in values.items() if value not in (None, ())]


def _find_words(annotation: Any) -> tuple[Any, ...]:
    """Return the choices of a field that takes nothing else."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _is_text(annotation: Any) -> bool:
    """Whether the text is handed on as it is, to be read with the rest."""
    kinds = {annotation, *get_args(annotation)}
    return not kinds & {int, float} and not any(
        get_origin(kind) in (tuple, Annotated) for kind in kinds
    )


def _name_kind(annotation: Any) -> str:
    text = str(annotation)
    name = "N" if "int" in text else "X" if "float" in text else "NAME,..."
    return f"{name}|auto" if "auto" in text else name

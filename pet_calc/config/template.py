"""An options file with every option, its default and its meaning."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pet_calc.config.data_options import DatasetOptions, ExtraOptions
from pet_calc.config.fields import Options, read_docs
from pet_calc.config.options import RunOptions
from pet_calc.config.read import options_to_dict, parse_options
from pet_calc.config.yaml_file import dump_yaml
from pet_calc.errors import ConfigError
from pet_calc.model.hypers import PETHypers

_HEADER = """\
# Options of `pet-calc train FILE` and `pet-calc finetune FILE`. Only training_set must
# be given; everything else is at its default here and can be deleted, except the method
# and its base. Paths are relative to the working directory. Files written for
# metatrain's PET are read as well. A path or glob alone is a training_set, too:
#     training_set: train.xyz
"""
_MODEL_HEADER = """\
# The shape of a new model, for `method: scratch`; a base brings its own:
"""

# One of each kind is spelled out, the others stand in one line.
_IN_ONE_LINE = (
    "training_set.targets.energy.stress",
    "training_set.targets.energy.virial",
    "architecture.training.loss.energy.forces",
    "architecture.training.loss.energy.stress",
)


def write_template(path: str | Path, *, overwrite: bool = False) -> None:
    """Write the commented template; an existing file is kept unless told otherwise."""
    path = Path(path)
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(render_template())
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; choose another name") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error


def render_template() -> str:
    """Return YAML text of a LoRA fine-tuning in which every option is explained."""
    values = options_to_dict(_build_example())
    rest = {"extra_data": ExtraOptions().model_dump(), "indices": None}
    values["training_set"] = values["training_set"][0] | rest
    values["architecture"]["atomic_types"] = None
    lines = "\n".join(_render(values, RunOptions, "", ""))
    model = "\n".join(_render({"model": PETHypers().to_dict()}, None, "", ""))
    model_lines = textwrap.indent(_MODEL_HEADER + _comment_out(model), "  ")
    return f"{_HEADER}{lines}\n".replace(
        "  name: pet\n", f"  name: pet\n{model_lines}\n", 1
    )


def _build_example() -> RunOptions:
    return parse_options(
        {
            "training_set": "train.xyz",
            "architecture": {
                "training": {
                    "loss": {"energy": {}},
                    "finetune": {"method": "lora", "read_from": "base.ckpt"},
                }
            },
        }
    )


def _render(values: dict[str, Any], cls: Any, path: str, indent: str) -> Iterator[str]:
    """Yield the lines of a block of a class, each option under its explanation."""
    docs = read_docs(cls) if cls else {}
    for key, value in values.items():
        inner = f"{path}.{key}".lstrip(".")
        if not path and key != "model":
            yield ""
        if key in docs:
            start = f"{indent}# "
            text = docs[key].replace("``", "`")
            yield from textwrap.wrap(
                text, 88, initial_indent=start, subsequent_indent=start
            )
        if isinstance(value, dict) and value and inner not in _IN_ONE_LINE:
            yield f"{indent}{key}:"
            yield from _render(value, _find_class(cls, key), inner, indent + "  ")
        else:
            yield f"{indent}{key}: {_render_value(value)}"


def _render_value(value: Any) -> str:
    text = dump_yaml({"value": [value]}, flow=True)
    # `{value: [...]}` around it, since a bare value ends with a document mark
    return text.strip().removeprefix("{value: [").removesuffix("]}")


def _find_class(cls: Any, key: str) -> Any:
    """Return the class of a block: that of a field, or of the entries of a block."""
    if cls is None:
        return PETHypers
    if not issubclass(cls, Options):
        return None
    # entries of targets: and loss: have names that are no fields
    field = cls.model_fields.get(key)
    if field is None:
        return cls
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Options):
            return kind
    # training_set: a fraction or a tuple of data sets
    return DatasetOptions if key.endswith("_set") else None


def _comment_out(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())

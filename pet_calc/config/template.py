"""An options file with every option, its default and its meaning."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.config.options import (
    BaselineOptions,
    FinetuneOptions,
    LossOptions,
    LossTerm,
    RunOptions,
    TrainOptions,
)
from pet_calc.config.replay import ReplayOptions
from pet_calc.config.write import options_to_dict
from pet_calc.config.yaml_file import dump_yaml
from pet_calc.errors import ConfigError
from pet_calc.lora.layer import LoRAConfig
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

# Which class describes the keys of a block, by the block's path.
_CLASSES: dict[str, list[type]] = {
    "": [RunOptions],
    "training_set": [DatasetOptions],
    "training_set.systems": [DatasetOptions],
    "training_set.targets.energy": [TargetOptions],
    "training_set.targets.energy.forces": [LabelOptions],
    "architecture": [RunOptions],
    "architecture.training": [TrainOptions, RunOptions],
    "architecture.training.finetune": [FinetuneOptions],
    "architecture.training.finetune.config": [LoRAConfig],
    "architecture.training.loss.energy": [LossOptions, LossTerm],
    "architecture.training.atomic_baseline": [BaselineOptions],
    "architecture.training.replay": [ReplayOptions],
    "model": [PETHypers],
}
_RENAMED = {"read_from": "base", "config": "lora", "target_modules": "targets"}
_EXTRA_DOCS = {
    "training_set.extra_data": "Names of charge and spin_multiplicity in the file, as "
    "charge: {key: ...}; null searches the usual names.",
    "architecture.training.atomic_baseline": "Energies per element: fit, keep, "
    "isolated_atoms, or a table such as `{energy: {H: -13.6, O: -430.0}}`.",
}
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
    training_set = {
        **values.pop("training_set")[0],
        "extra_data": None,
        "indices": None,
    }
    architecture = {**values.pop("architecture"), "atomic_types": None}
    sets = ("validation_set", "test_set", "retain_set", "replay_set")
    data = {key: values.pop(key) for key in sets}
    data = {"training_set": training_set, **data}
    values = {**data, "architecture": architecture, **values}
    model = "\n".join(_render({"model": PETHypers().to_dict()}, "", ""))
    lines = "\n".join(_render(values, "", ""))
    model_lines = textwrap.indent(_MODEL_HEADER + _comment_out(model), "  ")
    return f"{_HEADER}{lines}\n".replace(
        "  name: pet\n", f"  name: pet\n{model_lines}\n", 1
    )


def _build_example() -> RunOptions:
    run = RunOptions(training_set=(DatasetOptions(read_from=("train.xyz",)),))
    return replace(
        run,
        finetune=FinetuneOptions(method="lora", base="base.ckpt"),
        train=TrainOptions(loss={"energy": LossOptions()}),
    )


def _render(values: dict[str, Any], path: str, indent: str) -> Iterator[str]:
    """Yield the lines of a block, each option under its explanation."""
    docs = _read_docs(path)
    for key, value in values.items():
        inner = f"{path}.{key}".lstrip(".")
        if not path and key != "model":
            yield ""
        doc = _EXTRA_DOCS.get(inner) or docs.get(_name_in_class(path, key))
        if doc:
            yield from textwrap.wrap(
                doc, 88, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
        if isinstance(value, dict) and value and inner not in _IN_ONE_LINE:
            yield f"{indent}{key}:"
            yield from _render(value, inner, indent + "  ")
        else:
            yield f"{indent}{key}: {_render_value(value)}"


def _render_value(value: Any) -> str:
    text = dump_yaml({"value": [value]}, flow=True)
    # `{value: [...]}` around it, since a bare value ends with a document mark
    return text.strip().removeprefix("{value: [").removesuffix("]}")


def _name_in_class(path: str, key: str) -> str:
    is_renamed = path.startswith("architecture.training.finetune")
    return _RENAMED.get(key, key) if is_renamed else key


def _read_docs(path: str) -> dict[str, str]:
    """Return the docstrings of the fields of the classes behind a block."""
    docs: dict[str, str] = {}
    for cls in _CLASSES.get(path, []):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                name = ast.unparse(field.target)
                text = ast.literal_eval(doc.value)
                docs.setdefault(name, " ".join(text.replace("``", "`").split()))
    return docs


def _comment_out(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())

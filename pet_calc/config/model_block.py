"""The ``model:`` block of an options file: the shape of a new model, checked."""

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field, create_model

from pet_calc.config.fields import Options
from pet_calc.config.messages import OptionError, require_mapping
from pet_calc.config.old_names import refuse_original_pet
from pet_calc.model.hypers import PETHypers

_CHOICES: dict[str, Any] = {
    "cutoff_function": Literal["Bump", "Cosine"],
    "adaptive_cutoff_method": Literal["solver", "grid"],
    "normalization": Literal["RMSNorm", "LayerNorm"],
    "activation": Literal["SwiGLU", "SiLU"],
    "transformer_type": Literal["PreLN", "PostLN"],
    "featurizer_type": Literal["feedforward", "residual"],
}


def build_hypers(value: Any) -> Any:
    """Return the shape of a new model; what is not given is at its default."""
    if not value or isinstance(value, PETHypers):
        return value or None
    values = require_mapping(value, "model")
    block = _build_block()
    refuse_original_pet(values, block.model_fields)
    long_range = require_mapping(values.pop("long_range", None), "long_range")
    if long_range.get("enable", False):
        raise OptionError("long_range.enable: true is not supported yet")
    checked = block(**values)
    return PETHypers(**checked.model_dump())


@cache
def _build_block() -> type[Options]:
    """Return the options whose fields are those of ``PETHypers``."""
    hints = get_type_hints(PETHypers)

    def limit(name: str) -> Any:
        wanted = _CHOICES.get(name, hints[name])
        if not {int, float} & {wanted, *get_args(wanted)}:
            return wanted
        return Annotated[wanted, Field(ge=0) if name == "max_charge" else Field(gt=0)]

    named: Any = {f.name: (limit(f.name), f.default) for f in fields(PETHypers)}
    return create_model("ModelOptions", __base__=Options, **named)

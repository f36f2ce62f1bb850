"""The options of the loss and of the energies per element."""

from collections.abc import Mapping
from math import sqrt
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pet_calc.config.fields import NotNegative, Options, Positive
from pet_calc.config.flags import METHOD, option
from pet_calc.config.messages import (
    OptionError,
    at,
    check_keys,
    expand,
    require_mapping,
    show,
)
from pet_calc.config.old_names import UNSUPPORTED_LOSS, take_unsupported

# metatrain's names of the gradients, which it also takes in a block of their own
_GRADIENTS = {"positions": "forces", "strain": "stress"}
# A missing label never counts here, which is what metatrain's masked losses are for.
_LOSS_TYPES = {
    **{f"masked_{name}": name for name in ("mse", "mae", "huber")},
    **{f"{name}_masked": name for name in ("mse", "mae", "huber")},
}


class LossTerm(Options):
    """How one kind of error enters the loss."""

    type: Literal["mse", "mae", "huber"] = "mse"
    """Squared error, absolute error, or squared up to delta and absolute beyond."""
    weight: NotNegative = 1.0
    """Factor of this term."""
    delta: Positive = 1.0
    """Where the Huber loss turns from squared to absolute."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the type alone, and metatrain's masked types."""
        value = expand(value, "type")
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        take_unsupported(values, UNSUPPORTED_LOSS)
        if "type" in values:
            values["type"] = _LOSS_TYPES.get(str(values["type"]), values["type"])
        return values


class LossOptions(LossTerm):
    """The loss of one target; an entry of ``architecture: training: loss:``.

    Its own type, weight and delta are those of the target itself: of the energy per
    atom, or of what a direct head predicts.
    """

    forces: LossTerm = Field(default_factory=LossTerm)
    """Forces derived from an energy."""
    stress: LossTerm = Field(default_factory=LossTerm)
    """Stress derived from an energy."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take metatrain's block of gradients, and virial for stress."""
        value = super().normalize(value)
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        gradients = require_mapping(values.pop("gradients", None), "gradients")
        with at("gradients"):
            check_keys(gradients, _GRADIENTS)
        written = [(key, _GRADIENTS[key], gradients[key]) for key in gradients]
        if "virial" in values:
            written.append(("virial", "stress", values.pop("virial")))
        for key, term, block in written:
            if term in values:
                raise OptionError(f"{key}: expected one loss for {term}, got two")
            values[term] = block
        return values

    def to_absolute(self) -> "LossOptions":
        """Return a loss of absolute errors, with the roots of the weights."""
        return LossOptions(
            type="mae",
            weight=sqrt(self.weight),
            forces=LossTerm(type="mae", weight=sqrt(self.forces.weight)),
            stress=LossTerm(type="mae", weight=sqrt(self.stress.weight)),
        )

    @property
    def value(self) -> LossTerm:
        """The term of the target itself."""
        return LossTerm(type=self.type, weight=self.weight, delta=self.delta)


class CompositionOptions(Options):
    """Energies per element, E0; ``architecture: training: composition:``."""

    mode: Literal["fit", "keep", "isolated_atoms"] = option(
        "fit",
        "--composition",
        METHOD,
        help="Energies per element: fitted, kept, or given",
        old_name="--offsets",
    )
    """fit: to the residuals of the base; keep: the base's; or from isolated atoms."""
    tables: dict[str, dict[str, float] | float] = Field(default_factory=dict)
    """Per target: energies by symbol, or one for all, in the unit of the labels."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the mode alone, and metatrain's tables by target."""
        value = expand(value, "mode")
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        mode = values.pop("mode", "fit")
        if isinstance(mode, str) and mode.endswith((".ckpt", ".pt")):
            raise OptionError(
                f"mode: {mode} is not supported; write the energies by symbol instead "
                "of a composition model's checkpoint"
            )
        tables = values.pop("tables", {})
        found = {name: _read_table(values[name], name) for name in values}
        return {"mode": mode, "tables": {**tables, **found}}

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> Any:
        values = write(self)
        tables = values.pop("tables")
        return {**values, **tables} if tables else self.mode


def _read_table(value: Any, name: str) -> dict[str, float] | float:
    """Return energies by symbol from a mapping of symbols or atomic numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, Mapping):
        raise OptionError(
            f"{name}: expected a number or energies by element, got {show(value)}; or "
            f"write one of fit, keep, isolated_atoms without a target"
        )
    with at(name):
        for element, energy in value.items():
            if isinstance(energy, bool) or not isinstance(energy, int | float):
                raise OptionError(f"{element}: expected a number, got {show(energy)}")
        return {_read_symbol(element): float(value[element]) for element in value}


def _read_symbol(element: Any) -> str:
    from ase.data import atomic_numbers, chemical_symbols

    # an unquoted No, nobelium, is YAML for false
    symbol = "No" if element is False else element
    if isinstance(element, int) and 0 < element < len(chemical_symbols):
        symbol = chemical_symbols[element]
    if symbol not in atomic_numbers or symbol == "X":
        raise OptionError(f"{element}: expected a symbol or an atomic number")
    return str(symbol)

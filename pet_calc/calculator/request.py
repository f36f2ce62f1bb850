"""What a calculator asks of its backend, whatever the model."""

from dataclasses import dataclass

from pet_calc.calculator.targets import DirectMode, Variants
from pet_calc.engine.switch import Compile


@dataclass(frozen=True)
class Request:
    """Arguments of ``PETCalculator`` that checkpoints and exported files share."""

    target: str | None
    """Energy target."""
    variants: Variants | None
    """Of each target."""
    direct: DirectMode
    """What comes from direct targets."""
    skin: float
    """Of the neighbour list, Å."""
    compile: Compile
    """Whether to use the engine."""

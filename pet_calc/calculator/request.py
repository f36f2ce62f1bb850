"""What a calculator asks of its backend, whatever the model."""

from collections.abc import Collection
from dataclasses import dataclass

from pet_calc.calculator.targets import (
    ChosenTargets,
    DirectMode,
    Variants,
    choose_targets,
)
from pet_calc.engine.switch import Compile
from pet_calc.model.hypers import TargetSpec


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

    def choose_targets(
        self, energies: dict[str, TargetSpec], names: Collection[str]
    ) -> ChosenTargets:
        """Return the targets to use of a model's, as ``choose_targets`` does."""
        return choose_targets(
            energies,
            names,
            target=self.target,
            variants=self.variants,
            direct=self.direct,
        )

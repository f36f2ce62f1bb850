"""What a run is to learn, and where it stands."""

import math
from dataclasses import dataclass, field
from typing import Any

from pet_calc.config import LossOptions, replace


@dataclass
class RunState:
    """Where a run stands; what is saved to go on from there."""

    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches done in the epoch that has begun."""
    step: int = 0
    """Optimiser steps taken."""
    best_metric: float = math.inf
    best_epoch: int = 0
    loss_sum: float = 0.0
    """Training loss summed over the batches of this epoch."""
    seconds: float = 0.0
    """Time spent, earlier sessions included."""
    losses: list[float] = field(default_factory=list)
    """Of the validation set, before the first step and after each epoch."""
    train_losses: list[float] = field(default_factory=list)
    """Of the training set, the mean of each epoch's steps."""
    restarts: list[dict[str, Any]] = field(default_factory=list)
    """Attempts that diverged, each as ``learning_rate``, ``step`` and ``why``; every
    one halves the rate of the next."""


@dataclass(frozen=True)
class Task:
    """What is to be learned of one energy."""

    target: str
    """Name of the energy target."""
    has_forces: bool
    has_stress: bool
    loss: LossOptions

    def warm_up(self, progress: float) -> LossOptions:
        """Return the loss at a time of the energy's warm-up.

        Where the energy weighs more than the forces its weight rises from theirs, by
        the same factor in every step.

        Args:
            progress: the part of the warm-up that is over, 0 to 1.
        """
        first, last = self.loss.forces.weight, self.loss.weight
        if progress >= 1.0 or not self.has_forces or first >= last:
            return self.loss
        return replace(self.loss, weight=first * (last / first) ** progress)

    def describe(self) -> str:
        """Return such as ``energy/pbe, forces``."""
        forces = ", forces" if self.has_forces else ""
        return self.target + forces + (", stress" if self.has_stress else "")

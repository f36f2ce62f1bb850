"""What a run is to learn, and where it stands."""

import math
from dataclasses import dataclass, field
from typing import Any

from pet_calc.config import LossOptions


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

    def describe(self) -> str:
        """Return such as ``energy/pbe, forces``."""
        forces = ", forces" if self.has_forces else ""
        return self.target + forces + (", stress" if self.has_stress else "")

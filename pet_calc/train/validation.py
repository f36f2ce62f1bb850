"""What the errors of an epoch say: the number that picks the best model, and a line."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from pet_calc.train.objective import Objective

# part of the loss by which its median sinks from one span of epochs to the next. The
# cosine leaves 1.3 % of a run's learning to its last fifth: this is much for that.
_FALL = 0.005


def compute_metric(
    values: dict[str, float], name: str, objectives: Sequence[Objective]
) -> float:
    """Return the number that picks the best model; smaller is better.

    Args:
        values: errors by name, in eV and Å, and their sums ``loss`` and ``mae_sum``.
        name: of one of these, ``mae_prod`` or ``rmse_prod``.
        objectives: what is learned; those of direct heads count in products.
    """
    if name in ("loss", "mae_sum"):
        # a run of an older version has none: the next epoch is the best
        return values.get(name, math.inf)
    suffix = name.split("_", 1)[0]
    product = 1.0
    own = [
        objective.prefix + quantity
        for objective in objectives
        if objective.prefix
        for quantity in objective.quantities
    ]
    for quantity in ("energy", "forces", "stress", *own):
        product *= values.get(f"{quantity}_{suffix}", 1.0)
    return product if math.isfinite(product) else math.inf


def is_falling(losses: Sequence[float], n_epochs: int) -> bool:
    """Return whether the loss of the last epochs is below that of those before.

    Args:
        losses: of the validation set by epoch, as many as there are.
        n_epochs: how many the last ones are, and those before.
    """
    if len(losses) < 2 * n_epochs:
        return False
    last = statistics.median(losses[-n_epochs:])
    return last < (1 - _FALL) * statistics.median(losses[-2 * n_epochs : -n_epochs])


def still_improves(losses: Sequence[float], n_since_best: int) -> bool:
    """Return whether a run ended while its error was still sinking.

    The best epoch is in the last fifth of the run, and the loss fell there.

    Args:
        losses: of the validation set, before the first step and by epoch.
        n_since_best: epochs after the best one.
    """
    n_last = max(1, len(losses) // 5)
    return n_since_best < n_last and is_falling(losses, n_last)


def describe_row(row: dict[str, Any]) -> str:
    """Return the line of an epoch, from its row in the log."""
    parts = [f"epoch {row['epoch']}"]
    if "val_energy_mae" in row:
        parts.append(f"E {1000 * row['val_energy_mae']:.2f} meV/atom")
    if "val_forces_mae" in row:
        parts.append(f"F {1000 * row['val_forces_mae']:.1f} meV/Å")
    return ", ".join(parts)

"""What the errors of an epoch say: the number that picks the best model, and a line."""

import math
from collections.abc import Sequence
from typing import Any

from pet_calc.train.objective import Objective


def compute_metric(
    values: dict[str, float], name: str, objectives: Sequence[Objective]
) -> float:
    """Return the number that picks the best model; smaller is better.

    Args:
        values: errors by name, in eV and Å, and the loss.
        name: ``loss``, ``mae_prod`` or ``rmse_prod``.
        objectives: what is learned; those of direct heads count in products.
    """
    if name == "loss":
        return values["loss"]
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


def describe_row(row: dict[str, Any]) -> str:
    """Return the line of an epoch, from its row in the log."""
    parts = [f"epoch {row['epoch']}"]
    if "val_energy_mae" in row:
        parts.append(f"E {1000 * row['val_energy_mae']:.2f} meV/atom")
    if "val_forces_mae" in row:
        parts.append(f"F {1000 * row['val_forces_mae']:.1f} meV/Å")
    return ", ".join(parts)

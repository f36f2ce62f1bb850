"""Find axes that are exchanged or mirrored between positions and forces."""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np

from pet_calc.check.finding import Finding
from pet_calc.evaluate.predict import FramePrediction

# correlation after the exchange, and by how much it has to be better than without;
# 48 ways are tried, so that chance needs a margin
CLEAR, MARGIN = 0.9, 0.4
LEAST_ATOMS = 20


def check_axes(
    predictions: Sequence[FramePrediction], correlation: float
) -> list[Finding]:
    """Report the exchange of axes that makes forces agree with a base's.

    Args:
        predictions: for frames with and without forces.
        correlation: of the forces as they are.
    """
    used = [p for p in predictions if p.frame.forces is not None]
    if sum(p.frame.n_atoms for p in used) < LEAST_ATOMS:
        return []
    labels = np.concatenate([np.asarray(p.frame.forces) for p in used])
    base = np.concatenate([p.forces for p in used])
    # [3, 3] in labels and base; one product serves all exchanges
    overlap = labels.T @ base / np.sqrt((labels**2).sum() * (base**2).sum())
    best, order, signs = max(
        (
            sum(s * overlap[k, a] for a, (k, s) in enumerate(zip(p, q, strict=True))),
            p,
            q,
        )
        for p in permutations(range(3))
        for q in product((1, -1), repeat=3)
    )
    is_plain = order == (0, 1, 2) and len(set(signs)) == 1
    if is_plain or best < CLEAR or best - abs(correlation) < MARGIN:
        return []
    written = ", ".join(
        f"{'-' if s < 0 else ''}{'xyz'[k]}" for k, s in zip(order, signs, strict=True)
    )
    return [
        Finding(
            "error",
            "forces-axes",
            f"forces go with the base's after an exchange of axes to ({written}): "
            f"correlation {best:.2f} instead of {correlation:.2f}",
            "bring positions and forces into one orientation (did the code turn the "
            "cell?)",
        )
    ]

"""Tell frames that no calculation should be spent on: atoms on each other, or apart."""

import numpy as np

from pet_calc.check.structures import ALONE, CLOSE, find_closest, has_lone_atom
from pet_calc.data.frames import LabeledFrame

CLOSEST = CLOSE
"""Of the sum of covalent radii."""
LONELIEST = ALONE
"""Å."""
OVERLAP = "overlapping atoms"
EXPLODED = "atoms that have left the others"
BROKEN = "frames that cannot be evaluated"


def find_fault(
    frame: LabeledFrame, *, closest: float = CLOSEST, loneliest: float = LONELIEST
) -> tuple[str, str] | None:
    """Return what kind of fault a frame has and the values, None if it has none.

    Args:
        frame: one that can be evaluated.
        closest: distance over the sum of covalent radii below which atoms overlap;
            0 allows all.
        loneliest: distance in Å to the nearest atom above which one has left; 0 allows
            all.
    """
    pair = find_closest(frame, closest) if closest > 0 else None
    if pair is not None and pair[0] < closest:
        ratio, distance, symbols = pair
        return OVERLAP, f"{symbols}, {distance:.2f} A apart, {ratio:.2f} of their radii"
    if loneliest > 0 and has_lone_atom(frame, loneliest):
        span = float(np.ptp(frame.positions, axis=0).max())
        return EXPLODED, f"farther than {loneliest:g} A, the atoms span {span:.0f} A"
    return None

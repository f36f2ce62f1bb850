"""Recognise isolated atoms by what they are, whatever a file calls them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.neighbors import compute_pairs
from pet_calc.data.stored import StoredFrames

# Å; crystals of one atom a cell have their neighbours at 5.3 (Cs) and less
REACH = 6.0


def is_isolated(frame: LabeledFrame) -> bool:
    """Return whether a frame is one atom without a neighbour, or an image, in reach."""
    if frame.n_atoms != 1:
        return False
    if not frame.pbc.any():
        return True
    centers, _, _ = compute_pairs(frame.positions, frame.cell, frame.pbc, REACH)
    return len(centers) == 0


def find_isolated(frames: Sequence[LabeledFrame]) -> npt.NDArray[np.bool_]:
    """Return which frames are isolated atoms, [n_frames].

    Of stored frames, only those of one atom are read.
    """
    if not isinstance(frames, StoredFrames):
        return np.array([is_isolated(frame) for frame in frames], dtype=bool)
    found = np.zeros(len(frames), dtype=bool)
    for index in np.flatnonzero(frames.read_column("n_atoms") == 1).tolist():
        found[index] = is_isolated(frames[index])
    return found


def choose_references(
    frames: Sequence[LabeledFrame],
) -> dict[int, LabeledFrame]:
    """Return for each atomic number the isolated atom that stands for the element.

    It has an energy; neutral atoms come before ions, then the lowest energy counts: the
    ground state.
    """
    labelled = [f for f in frames if f.energy is not None and f.n_atoms == 1]
    labelled.sort(key=lambda frame: (frame.charge != 0, frame.energy))
    references: dict[int, LabeledFrame] = {}
    for frame in labelled:
        references.setdefault(int(frame.numbers[0]), frame)
    return references

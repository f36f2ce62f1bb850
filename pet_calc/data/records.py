"""How a frame lies in a store: its row in the table, and its bytes.

The bytes are real numbers and then elements, one byte each. The real numbers are
positions, cell, and the arrays that each target has labels of, target after target.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import LabeledFrame
from pet_calc.errors import DataError

HAS_ENERGY, HAS_FORCES, HAS_STRESS = 1, 2, 4
HAS_DIRECT_FORCES, HAS_DIRECT_STRESS = 64, 128
# bits of the periodic directions
PBC = (8, 16, 32)
# labels that are arrays, in the order in which a target's are stored
ARRAY_BITS = {
    "forces": HAS_FORCES,
    "stress": HAS_STRESS,
    "direct_forces": HAS_DIRECT_FORCES,
    "direct_stress": HAS_DIRECT_STRESS,
}

ROW = np.dtype(
    [
        ("start", "<u8"),  # byte in frames.bin
        ("energy", "<f8"),
        ("weight", "<f8"),
        ("number", "<u8"),  # of the frame in its file
        ("n_atoms", "<u4"),
        ("file", "<u4"),  # in the header's table
        ("kind", "<u4"),  # likewise: elements and texts that frames share
        ("charge", "<i4"),
        ("spin_multiplicity", "<i4"),
        ("flags", "<u4"),
        ("crc", "<u4"),  # of the bytes in frames.bin
    ]
)


def describe_row(n_targets: int) -> np.dtype[Any]:
    """Return the columns of a row: those of ``ROW``, and more for further targets."""
    further = [
        (name_column(name, k), ROW[name])
        for k in range(1, n_targets)
        for name in ("energy", "flags")
    ]
    return np.dtype([(name, ROW[name]) for name in ROW.names or ()] + further)


def name_column(name: str, place: int) -> str:
    """Return the column that holds ``energy`` or ``flags`` of a target.

    Args:
        name: of the first target's.
        place: of the target among those of the store.
    """
    return f"{name}_{place}" if place else name


def pack_frame(frame: LabeledFrame) -> tuple[bytes, list[int]]:
    """Return the bytes of a frame (real numbers, then elements), flags by target."""
    parts: list[npt.NDArray[np.float64]] = [frame.positions, frame.cell]
    flags = []
    for labels in frame.labels.values():
        if labels.extras:
            raise DataError(f"{frame.source}: further labels cannot be stored")
        found = HAS_ENERGY * (labels.energy is not None)
        for name, bit in ARRAY_BITS.items():
            label = getattr(labels, name)
            if label is not None:
                found |= bit
                parts.append(label)
        flags.append(found)
    flags[0] |= sum(bit for bit, on in zip(PBC, frame.pbc, strict=True) if on)
    reals = np.concatenate([np.asarray(part, "<f8").ravel() for part in parts])
    return reals.tobytes() + frame.numbers.astype(np.uint8).tobytes(), flags


def count_reals(n_atoms: int, flags: Sequence[int]) -> int:
    """Return how many real numbers are stored of a frame, from its targets' flags."""
    return 3 * (n_atoms + 3 + sum(_count_rows(n_atoms, found) for found in flags))


def cut_labels(
    rows: npt.NDArray[np.float64], n_atoms: int, flags: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the arrays of each target by name, from what follows the cell."""
    start = 0
    targets = []
    for found in flags:
        labels = {}
        for name, bit in ARRAY_BITS.items():
            if found & bit:
                end = start + _measure(name, n_atoms)
                labels[name], start = rows[start:end], end
        targets.append(labels)
    return targets


def describe_kind(frame: LabeledFrame) -> str:
    """Return what many frames share, as text."""
    first, *others = (labels.origins for labels in frame.labels.values())
    kind: dict[str, Any] = {
        "elements": np.unique(frame.numbers).tolist(),
        "config_type": frame.config_type,
        "origins": first,
        "notes": frame.notes,
        "keys": frame.keys,
    }
    return json.dumps(kind | ({"further_origins": others} if others else {}))


def _count_rows(n_atoms: int, flags: int) -> int:
    """Return how many rows of three numbers the labels of a target have."""
    bits = ARRAY_BITS.items()
    return sum(_measure(name, n_atoms) for name, bit in bits if flags & bit)


def _measure(label: str, n_atoms: int) -> int:
    """Return how many rows of three numbers a label has."""
    return n_atoms if label.endswith("forces") else 3

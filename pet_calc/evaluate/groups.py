"""Errors of kept predictions by element, kind of frame, file and size of the force."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from pet_calc.evaluate.kept import KeptPredictions

# eV/Å: bounds between groups of atoms, by the norm of the labelled force
FORCE_BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0)
# groups of a kind before the rest is only counted
MOST_GROUPS = 30

KINDS = ("config_type", "file", "element", "force")


@dataclass(frozen=True)
class GroupErrors:
    """Errors of frames, or of atoms, that have something in common; eV and Å."""

    kind: str
    """One of ``KINDS``."""
    name: str
    n_frames: int
    """That are in it, or have atoms in it."""
    n_atoms: int
    errors: dict[str, float]
    """As ``Metrics.to_dict`` has them; of elements and sizes those of forces alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(vars(self))


def compute_groups(
    kept: KeptPredictions, config_types: Sequence[str], files: Sequence[str]
) -> list[GroupErrors]:
    """Return the errors of each group, the largest group of a kind first.

    Args:
        kept: predictions and labels.
        config_types: of each frame, empty where a file names none.
        files: that each frame was read from, empty where it was not.
    """
    found: list[GroupErrors] = []
    for kind, names in (("config_type", config_types), ("file", files)):
        keys = np.array([str(name) for name in names], dtype=object)
        if len(set(names)) > 1:
            found += _group_frames(kind, keys, kept)
    symbols = np.array(chemical_symbols, dtype=object)[kept.numbers]
    found += _group_atoms("element", symbols, kept, np.unique(kept.numbers))
    sizes = np.linalg.norm(kept.forces_label, axis=1)
    steps = np.digitize(sizes, FORCE_BOUNDS)
    keys = np.array(name_force_groups(), dtype=object)[steps]
    keys[~np.isfinite(sizes)] = ""
    found += _group_atoms("force", keys, kept, None)
    return found


def name_force_groups() -> list[str]:
    """Return the names of the groups by size of the force, ascending."""
    low, high = FORCE_BOUNDS[0], FORCE_BOUNDS[-1]
    between = [f"{a:g} to {b:g} eV/Å" for a, b in pairwise(FORCE_BOUNDS)]
    return [f"below {low:g} eV/Å", *between, f"above {high:g} eV/Å"]


def compute_errors(kept: KeptPredictions) -> dict[str, float]:
    """Return the errors as ``Metrics.to_dict`` does, of what was kept."""
    return {
        **_summarize("energy", kept.energy - kept.energy_label),
        **_summarize("forces", kept.forces - kept.forces_label),
        **_summarize("stress", kept.stress - kept.stress_label),
    }


def _group_frames(
    kind: str, keys: npt.NDArray[Any], kept: KeptPredictions
) -> list[GroupErrors]:
    groups = []
    for key in _order_by_count(keys)[:MOST_GROUPS]:
        own = kept.take(np.flatnonzero(keys == key))
        groups.append(
            GroupErrors(
                kind,
                key or "(none)",
                len(own.index),
                len(own.numbers),
                compute_errors(own),
            )
        )
    return groups


def _group_atoms(
    kind: str,
    keys: npt.NDArray[Any],
    kept: KeptPredictions,
    numbers: npt.NDArray[Any] | None,
) -> list[GroupErrors]:
    """Return the errors of forces on groups of atoms; none without forces."""
    frames = kept.frame_of_atom
    if numbers is None:
        names = [name for name in name_force_groups() if (keys == name).any()]
    else:
        names = [chemical_symbols[number] for number in numbers.tolist()]
    groups = []
    for name in names:
        is_here = keys == name
        errors = _summarize("forces", (kept.forces - kept.forces_label)[is_here])
        if errors:
            n_frames = len(np.unique(frames[is_here]))
            groups.append(GroupErrors(kind, name, n_frames, int(is_here.sum()), errors))
    return groups


def _summarize(name: str, errors: npt.NDArray[Any]) -> dict[str, float]:
    known = errors[np.isfinite(errors)].astype(np.float64)
    if not known.size:
        return {}
    return {
        f"{name}_mae": float(np.abs(known).mean()),
        f"{name}_rmse": float(np.sqrt(np.square(known).mean())),
    }


def _order_by_count(keys: npt.NDArray[Any]) -> list[str]:
    names, counts = np.unique(keys.astype(str), return_counts=True)
    order = np.lexsort((names, -counts))
    return [str(names[i]) for i in order]

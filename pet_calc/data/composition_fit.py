"""Fit what is taken off an energy before the network sees it: E0 table and scale.

All in float64 and numpy: totals reach 1e5 eV, and the meV have to survive.
"""

import logging
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from ase import units

from pet_calc.data.frames import LabeledFrame
from pet_calc.errors import DataError

Array: TypeAlias = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)


def count_species(frames: Sequence[LabeledFrame], atomic_types: Sequence[int]) -> Array:
    """Return how many atoms of each type a frame has, [n_frames, n_types].

    Raises ``DataError`` for an atom outside ``atomic_types``.
    """
    numbers = np.asarray(atomic_types, dtype=np.int64)
    counts = np.zeros((len(frames), len(numbers)))
    for row, frame in zip(counts, frames, strict=True):
        row[:] = (frame.numbers[:, None] == numbers).sum(axis=0)
        if row.sum() != frame.n_atoms:
            raise DataError(
                f"{frame.source}: has elements outside the types {list(atomic_types)}"
            )
    return counts


def fit_composition(
    counts: Array,
    energies: Array,
    weights: Array | None = None,
    *,
    prior: Array | None = None,
) -> Array:
    """Return the energies per species that come closest to the frames' energies.

    Args:
        counts: [n_frames, n_types], atoms of each type.
        energies: [n_frames] in eV; frames that are not finite are left out.
        weights: [n_frames] of the squared errors; None gives each frame the same.
        prior: [n_types] in eV, what is likely; None is zero.

    Returns:
        [n_types] in eV. Where the data leave them open (H2O only, one element always
        with another), the solution nearest to the prior: the frames' energies are met
        all the same. An absent element gets exactly 0.
    """
    counts = np.asarray(counts, dtype=np.float64)
    energies = np.asarray(energies, dtype=np.float64)
    if counts.ndim != 2 or energies.shape != (len(counts),):
        raise DataError(
            f"expected counts [n_frames, n_types] and energies [n_frames], got "
            f"{counts.shape} and {energies.shape}"
        )
    used = np.isfinite(energies)
    if not used.any():
        raise DataError("no frame has an energy; the composition cannot be fitted")
    rows, values = counts[used], energies[used]
    if weights is not None:
        # the square root: least squares weighs the errors, we weigh their squares
        roots = np.sqrt(np.asarray(weights, dtype=np.float64)[used])
        rows, values = rows * roots[:, None], values * roots
    present = rows.any(axis=0)
    solution = np.zeros(counts.shape[1])
    if not present.any():
        return solution
    # scaled to numbers near 1, or the default threshold of the rank means little
    largest = np.abs(rows).max()
    likely = np.zeros(int(present.sum())) if prior is None else prior[present]
    rest = values - rows[:, present] @ likely
    found, _, _, _ = np.linalg.lstsq(
        rows[:, present] / largest, rest / largest, rcond=None
    )
    solution[present] = likely + found
    return solution


def find_open_types(counts: Array) -> list[int]:
    """Return the types whose energy the data leave open, though they have the type.

    Their energies are determined in the combinations only that the frames have.
    """
    present = np.flatnonzero(counts.any(axis=0))
    if not len(present):
        return []
    rows = np.unique(counts[:, present], axis=0)
    _, singular, right = np.linalg.svd(rows / rows.max(), full_matrices=True)
    rank = int((singular > 1e-10 * singular[0]).sum())
    # a type that has no part in the null space is determined
    free = np.abs(right[rank:]).max(axis=0, initial=0.0) > 1e-8
    return [int(i) for i in present[free]]


def estimate_total_energies(numbers: Sequence[int]) -> Array:
    """Return the all-electron energies of free atoms, [n] in eV, to about one percent.

    The Thomas-Fermi model with the corrections for strongly bound electrons and for
    exchange (J. Schwinger, Phys. Rev. A 24, 2353 (1981)).
    """
    z = np.asarray(numbers, dtype=np.float64)
    hartrees = 0.768745 * z ** (7 / 3) - 0.5 * z**2 + 0.269900 * z ** (5 / 3)
    return -units.Hartree * hartrees


def fit_composition_shift(
    counts: Array,
    energies: Array,
    predictions: Array,
    weights: Array | None = None,
    *,
    total_shift: Array | None = None,
) -> Array:
    """Return what to add to a base model's energies per species, [n_types] in eV.

    Fitted to ``energies - predictions`` (both [n_frames] totals in eV), so that what
    the base knows about bonding is not mistaken for an offset, as a fit to the totals
    would do. Elements without data keep the base's value: their shift is 0.

    What the data leave open goes where it does least harm: the shift is the smallest
    there is from the base's energies, or from all-electron ones where these explain
    the totals better.

    Args:
        counts: [n_frames, n_types], atoms of each type.
        energies: [n_frames] in eV, of the data.
        predictions: [n_frames] in eV, of the base.
        weights: as for ``fit_composition``.
        total_shift: [n_types] in eV, from the base's energies to all-electron ones.
    """
    residuals = np.asarray(energies, np.float64) - np.asarray(predictions, np.float64)
    prior = None
    if total_shift is not None and find_open_types(counts):
        used = np.isfinite(residuals)
        left = residuals[used] - counts[used] @ total_shift
        if np.abs(left).sum() < np.abs(residuals[used]).sum():
            prior = total_shift
    return fit_composition(counts, residuals, weights, prior=prior)


def fit_energy_scale(residuals: Array, n_atoms: Array) -> float:
    """Return the root mean square of the residual energy per atom, in eV.

    metatrain's convention: each frame's residual (after the composition) is divided by
    its number of atoms, squared and averaged over frames; no mean is taken off. Frames
    that are not finite are left out. With nothing left to scale (no frames, or all
    residuals zero) the scale is 1.

    Args:
        residuals: [n_frames], total energy minus composition, eV.
        n_atoms: [n_frames].
    """
    per_atom = np.asarray(residuals, np.float64) / np.asarray(n_atoms, np.float64)
    per_atom = per_atom[np.isfinite(per_atom)]
    if len(per_atom) == 0:
        return 1.0
    scale = float(np.sqrt(np.mean(per_atom**2)))
    # one frame per composition leaves rounding errors only: no scale for a network
    return scale if scale > 1e-10 else 1.0


def fit_force_scale(frames: Sequence[LabeledFrame]) -> float | None:
    """Return the root mean square force component, in eV/Å; None without forces."""
    parts = [frame.forces.ravel() for frame in frames if frame.forces is not None]
    if not parts:
        return None
    scale = float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
    # crystals at rest have no forces to learn a scale from
    return scale if scale > 1e-3 else None

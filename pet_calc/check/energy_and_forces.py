"""Compare energies with forces, without any model: between near frames dE = -F dx.

The trapezoid rule along the straight line between two frames of the same atoms,
``-(F1 + F2)/2 . (x2 - x1)``, is exact for harmonic potentials and has an error of
third order in the distance. Over the nearest pairs of rMD17, acac and mlearn Si it
correlates with the difference in energy by 0.95 to 1.00, with slopes of 0.92 to 1.10.
So sign and unit of the forces show, relative to the energies, in any data set that
has near frames (MD, rattled, scanned); others give None.
"""

from collections.abc import Sequence

import numpy as np

from pet_calc.check.finding import Finding
from pet_calc.check.units import Fit, compute_fit
from pet_calc.data.advice import advise, spell_label_flag
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import DEFAULT_UNITS, Array, LabelUnits

# fewer pairs could agree by chance
LEAST_PAIRS = 8
# Å, root mean square of the displacements: farther, and third order shows (slope 0.77
# at 0.24 Å in Si); nearer, and what differs are the digits of the file
FARTHEST, NEAREST = 0.15, 2e-3
# eV; below, energies differ by their rounding and convergence
LEAST_DIFFERENCE = 1e-3
# the correct sets above have 0.95 and more, so this is far from chance on both sides
CLEAR = 0.9
# a slope this far from 1 is no error of the trapezoid
FAR = 4.0
# frames of one composition that are compared with each other
MOST_FRAMES = 200


def _forces(unit: str) -> dict[str, str | int]:
    return {"forces_unit": unit}


# mixes that are met in practice, by slope (energy difference over work), and the
# options that mend them where eV and Å are declared
_MIXES: dict[float, tuple[str, dict[str, str | int]]] = {
    0.0434: ("forces in kcal/mol/A beside energies in eV", _forces("kcal/mol/A")),
    23.06: (
        "energies in kcal/mol beside forces in eV/A",
        {"energy_unit": "kcal/mol", **_forces("eV/A")},
    ),
    51.42: ("forces in Hartree/bohr beside energies in eV", _forces("Hartree/bohr")),
    27.21: ("forces in Hartree/A beside energies in eV", _forces("Hartree/A")),
    1 / 27.21: (
        "energies in Hartree beside forces in eV/A",
        {"energy_unit": "Hartree", **_forces("eV/A")},
    ),
    25.71: ("forces in Ry/bohr beside energies in eV", _forces("Ry/bohr")),
    1 / 96.49: ("forces in kJ/mol/A beside energies in eV", _forces("kJ/mol/A")),
    96.49: (
        "energies in kJ/mol beside forces in eV/A",
        {"energy_unit": "kJ/mol", **_forces("eV/A")},
    ),
    1.89: ("forces per bohr beside lengths in A", _forces("eV/bohr")),
    1 / 1.89: (
        "lengths in bohr beside forces per A",
        {"length_unit": "bohr", **_forces("eV/A")},
    ),
}


def compute_work_fit(frames: Sequence[LabeledFrame]) -> Fit | None:
    """Return how differences in energy go with the work; None if there is too little.

    Correlation and slope are 1 for right labels, negative for forces of wrong sign.
    """
    groups: dict[int, list[LabeledFrame]] = {}
    for frame in frames:
        if frame.energy is None or frame.forces is None or frame.n_atoms < 2:
            continue
        cell = np.round(frame.cell[frame.pbc], 3)
        key = hash((frame.numbers.tobytes(), frame.pbc.tobytes(), cell.tobytes()))
        groups.setdefault(key, []).append(frame)
    pairs = [pair for group in groups.values() for pair in _pair_nearest(group)]
    if len(pairs) < LEAST_PAIRS:
        return None
    pairs.sort()
    used = np.array(pairs[: max(LEAST_PAIRS, len(pairs) // 4)])
    return compute_fit(used[:, 1], used[:, 2])


def check_work(fit: Fit | None, units: LabelUnits = DEFAULT_UNITS) -> list[Finding]:
    """Report forces that contradict the energies of the same file.

    Args:
        fit: see ``compute_work_fit``.
        units: the units that the labels were read with.
    """
    if fit is None or abs(fit.correlation) < CLEAR:
        return []
    seen = (
        f"between {fit.n} pairs of near frames the energy changes by {fit.slope:.3g} "
        f"times the work of the forces (correlation {fit.correlation:.2f}; 1 and 1 "
        "expected)"
    )
    if fit.slope < 0:
        return [
            Finding(
                "error",
                "forces-sign",
                f"the forces have the wrong sign, or the energies: {seen}",
                "negate them in the file (gradients are minus the forces; binding "
                "energies are minus the energy)",
            )
        ]
    distance = abs(np.log(fit.slope))
    mix = min(_MIXES, key=lambda ratio: abs(np.log(fit.slope / ratio)))
    fits = abs(np.log(fit.slope / mix)) < np.log(1.25)
    if distance < np.log(FAR) and not (fits and fit.correlation > 0.97):
        return []
    return [
        Finding(
            "error" if distance > np.log(FAR) else "warning",
            "energy-force-units",
            f"energies and forces are not in the same units: {seen}",
            _advise_on_mix(mix if fits else None, units),
        )
    ]


def _advise_on_mix(mix: float | None, units: LabelUnits) -> str:
    flags = [spell_label_flag(name) for name in ("energy_unit", "forces_unit")]
    if mix is None:
        return f"give each its unit, with {' and '.join(flags)}"
    text, options = _MIXES[mix]
    if units != DEFAULT_UNITS:
        return f"{text} would do that; give each its unit, with {' and '.join(flags)}"
    return f"{text} would do that: {advise(**options)}"


def _pair_nearest(group: list[LabeledFrame]) -> list[tuple[float, float, float]]:
    """Return (distance, work, difference in energy) of each frame and its nearest."""
    if len(group) > MOST_FRAMES:
        group = [
            group[i] for i in np.linspace(0, len(group) - 1, MOST_FRAMES, dtype=int)
        ]
    pairs: dict[tuple[int, int], tuple[float, float, float]] = {}
    positions = np.stack([frame.positions for frame in group])
    for i, frame in enumerate(group):
        if frame.pbc.any():
            moves = _wrap(positions - frame.positions, frame)
            turns = np.broadcast_to(np.eye(3), (len(group), 3, 3))
        else:
            moves, turns = _align(positions, frame.positions)
        distances = np.sqrt((moves**2).mean(axis=(1, 2)))
        distances[distances < NEAREST] = np.inf
        j = int(distances.argmin())
        if distances[j] > FARTHEST:
            continue
        other = group[j]
        assert frame.forces is not None  # the callers' choice
        assert other.forces is not None
        assert frame.energy is not None
        assert other.energy is not None
        difference = other.energy - frame.energy
        if abs(difference) < LEAST_DIFFERENCE:
            continue
        mean_forces = 0.5 * (frame.forces + other.forces @ turns[j])
        work = -float((mean_forces * moves[j]).sum())
        pairs[min(i, j), max(i, j)] = (float(distances[j]), work, difference)
    return list(pairs.values())


def _wrap(moves: Array, frame: LabeledFrame) -> Array:
    """Return displacements to the nearest images, without the drift of the whole."""
    # vectors that are not periodic may be zero: any that complete the lattice do
    box = np.where(frame.pbc[:, None], frame.cell, 1e6 * np.eye(3))
    fractions = moves @ np.linalg.inv(box)
    moves = (fractions - np.round(fractions) * frame.pbc) @ box
    centred: Array = moves - moves.mean(axis=1, keepdims=True)
    return centred


def _align(positions: Array, target: Array) -> tuple[Array, Array]:
    """Return displacements from ``target`` after the best rotation, and rotations."""
    centred = positions - positions.mean(axis=1, keepdims=True)
    reference = target - target.mean(axis=0)
    u, _, vt = np.linalg.svd(centred.transpose(0, 2, 1) @ reference)
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    turns = u @ vt
    return centred @ turns - reference, turns

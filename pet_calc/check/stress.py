"""Compare stress labels with a base's: sign, unit, order of the shear components."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from pet_calc.check.finding import Finding, Severity, list_sources, name_frames
from pet_calc.check.magnitudes import LARGE_STRESS
from pet_calc.check.units import MATCH, Fit, compute_fit, find_stress_units
from pet_calc.data.advice import advise
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import Array, LabelUnits
from pet_calc.data.places import name_of
from pet_calc.evaluate.predict import FramePrediction

# frames with a stress, below which nothing is said; and below which forces and stress
# of the base may go with the labels' by chance
LEAST_FRAMES, ENOUGH_FRAMES = 4, 10
# correlation of the normal components, as they are *and* without the mean pressure,
# which a base of another level (dispersion, Pulay stress) can have wrong
CLEAR = 0.8
# of few frames: random weights reached 0.85 in small cells, whose forces agreed as well
CLEAR_OF_FEW = 0.9
# factors that are no error of a base: stresses vary more between levels than forces
FAR = 6.0
# larger than the base's by this factor no stress is, of whatever level
ABSURD = 50.0
# a correlation that tells the sign of a stress whose size is wrong anyway
LIKELY_SIGN = 0.5
# a frame speaks for an order if its error is this part of the other order's, and of
# the shear itself; and only if its shear is not small beside that of the others
BETTER, LEAST_SHEAR = 0.3, 0.1
# frames that have to speak for another order
LEAST_VOTES = 4

SHEAR = ("yz", "xz", "xy")


def check_stress(
    predictions: Sequence[FramePrediction],
    *,
    units: LabelUnits,
    trust: bool | None,
) -> tuple[Fit | None, list[Finding]]:
    """Return how normal components go with the base's, and what is to be said.

    Args:
        predictions: for frames with and without stress.
        units: the units that the labels were read with.
        trust: whether forces or energies confirm the base; None if there are neither.
            Without, only what no level of theory explains is more than a warning.
    """
    used = [
        p for p in predictions if p.frame.stress is not None and p.stress is not None
    ]
    if not used:
        return None, []
    data = _Data.from_predictions(used)
    fit = compute_fit(data.base[:, :3], data.labels[:, :3])
    if len(used) < LEAST_FRAMES or fit.slope == 0.0:
        return fit, []
    centred = compute_fit(
        data.base[:, :3] - data.base[:, :3].mean(),
        data.labels[:, :3] - data.labels[:, :3].mean(),
    )
    is_clear = min(abs(fit.correlation), abs(centred.correlation)) >= CLEAR
    if not is_clear or fit.slope * centred.slope < 0:
        return fit, _judge_without_correlation(fit, data, units, trust)
    # forces that disagree say nothing of a stress that goes with the base's
    is_absurd = fit.slope > ABSURD or fit.slope < -ABSURD
    is_few = len(used) < ENOUGH_FRAMES
    if is_few and not (trust or is_absurd):
        return fit, []
    is_chance = is_few and min(-fit.correlation, -centred.correlation) < CLEAR_OF_FEW
    is_sure = trust and not (fit.slope < 0 and is_chance)
    severe: Severity = "error" if is_sure or is_absurd else "warning"
    found = [*_check_size(fit, data, units), *_check_order(fit, data)]
    return fit, [
        replace(f, severity=severe) if f.severity == "error" else f for f in found
    ]


def _judge_without_correlation(
    fit: Fit, data: "_Data", units: LabelUnits, trust: bool | None
) -> list[Finding]:
    """Return what the size alone says, where the correlation is not clear.

    Small stresses may be those of relaxed structures, of which a base sees only its own
    errors; but none is this much larger than the base's without a mistake in the unit.
    """
    if abs(fit.slope) > ABSURD:
        has_sign = abs(fit.correlation) >= LIKELY_SIGN
        if not has_sign:
            fit = fit._replace(slope=abs(fit.slope))
        typical = float(np.sqrt((data.labels**2).mean()))
        severe: Severity = "error" if has_sign or typical > LARGE_STRESS else "warning"
        return [replace(f, severity=severe) for f in _check_size(fit, data, units)]
    if trust is False:
        return []
    return [
        Finding(
            "note",
            "weak-stress",
            f"stress hardly goes with the base's ({fit.to_text()}): too little to "
            "judge its sign, unit and order",
            "check a few by hand: stretched cells have positive stress here",
        )
    ]


class _Data(NamedTuple):
    frames: list[LabeledFrame]
    base: Array
    """[n_frames, 6], xx yy zz yz xz xy."""
    labels: Array
    """[n_frames, 6]."""
    volumes: Array
    """[n_frames]."""

    @classmethod
    def from_predictions(cls, predictions: Sequence[FramePrediction]) -> "_Data":
        frames = [p.frame for p in predictions]
        return cls(
            frames,
            np.array([_to_voigt(np.asarray(p.stress)) for p in predictions]),
            np.array([_to_voigt(np.asarray(frame.stress)) for frame in frames]),
            np.array([abs(np.linalg.det(frame.cell)) for frame in frames]),
        )


def _check_size(fit: Fit, data: _Data, units: LabelUnits) -> list[Finding]:
    """Return one finding on sign and unit, or none."""
    is_wrong_sign = fit.slope < 0
    size = abs(fit.slope)
    is_far = abs(math.log(size)) > math.log(FAR)
    if not (is_wrong_sign or is_far):
        return []
    factors = units.compute_factors()
    names = find_stress_units(size, factors.stress) if is_far else []
    virial = compute_fit(data.base[:, :3] * data.volumes[:, None], data.labels[:, :3])
    is_virial = is_far and 1 / MATCH < abs(virial.slope) < MATCH
    parts = ["opposite sign"] if is_wrong_sign else []
    options: dict[str, str | int] = {}
    if is_wrong_sign:
        options["stress_sign"] = -units.stress_sign
    explanations = [*names, *(["eV, a virial"] if is_virial else [])]
    if explanations:
        parts.append(f"unit {' or '.join(explanations)}")
    elif is_far:
        parts.append("a factor that no known unit explains")
    if names:
        options["stress_unit"] = names[0]
    elif is_virial:
        options = _advise_virial(data.frames, units, is_wrong_sign)
    explained = bool(explanations) or not is_far
    return [
        Finding(
            "error" if explained else "warning",
            "stress-sign" if is_wrong_sign and not is_far else "stress-unit",
            f"stress does not match the base's ({fit.to_text()}, {len(data.frames)} "
            f"frames): {', '.join(parts)}",
            advise(**options) if options else "check unit and volume convention",
        )
    ]


def _advise_virial(
    frames: Sequence[LabeledFrame], units: LabelUnits, is_wrong_sign: bool
) -> dict[str, str | int]:
    """Return the options that read as a virial what was read as a stress."""
    origins = [f.origins["stress"] for f in frames if "stress" in f.origins]
    name = name_of(origins[0]) if origins else "stress"
    options: dict[str, str | int] = {"virial_key": name}
    # a virial is -stress * volume, so that its sign is the opposite one
    sign = units.stress_sign if is_wrong_sign else -units.stress_sign
    if sign != 1 or units.stress_sign != 1:
        options["stress_sign"] = sign
    return options


def _check_order(fit: Fit, data: _Data) -> list[Finding]:
    """Return a finding if another order of the shear components fits many frames."""
    labels, base = data.labels[:, 3:] / fit.slope, data.base[:, 3:]
    squares = (base**2).sum(axis=1)
    is_large = squares > LEAST_SHEAR**2 * squares.mean()
    plain = ((labels - base) ** 2).sum(axis=1)
    best: tuple[int, tuple[int, ...], Array, int] | None = None
    for order in list(permutations(range(3)))[1:]:
        errors = ((labels[:, order] - base) ** 2).sum(axis=1)
        speaks = is_large & (errors < BETTER * plain) & (errors < BETTER * squares)
        against = is_large & (plain < BETTER * errors) & (plain < BETTER * squares)
        n_votes = int(speaks.sum())
        if best is None or n_votes > best[0]:
            best = (n_votes, order, speaks, int(against.sum()))
    assert best is not None  # there are five orders
    n_votes, order, speaks, n_against = best
    # beside many frames that are right as they are, a few may be chance
    if n_votes < max(LEAST_VOTES, n_against // 4):
        return []
    # the label in place k is the component q whose place it has to go to
    found = [SHEAR[order.index(k)] for k in range(3)]
    chosen = [frame for frame, yes in zip(data.frames, speaks, strict=True) if yes]
    n_open = int(is_large.sum()) - n_votes - n_against
    return [
        Finding(
            "error" if n_votes > n_against else "warning",
            "stress-order",
            f"shear stress in another order: in {n_votes} of {len(data.frames)} frames "
            f"the places of yz, xz, xy hold {', '.join(found)} ({n_against} frames are "
            f"right, {n_open} do not tell): {name_frames(chosen)}",
            "reorder to xx yy zz yz xz xy (VASP writes xx yy zz xy yz zx), or take the "
            "stress out of the file",
            frames=list_sources(chosen),
        )
    ]


def _to_voigt(tensor: Array) -> Array:
    """Return xx yy zz yz xz xy."""
    rows, columns = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
    values: Array = tensor[rows, columns]
    return values

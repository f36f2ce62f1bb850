"""Compare force labels with a base's: sign, unit, and exchanged axes."""

import math
from collections.abc import Sequence

import numpy as np

from pet_calc.check.axes import check_axes
from pet_calc.check.energy_and_forces import CLEAR as WORK_CLEAR
from pet_calc.check.finding import Finding
from pet_calc.check.units import Fit, find_energy_units, find_force_units
from pet_calc.data.advice import advise
from pet_calc.data.labels import LabelUnits
from pet_calc.evaluate.predict import FramePrediction

# correlations: of forces that are judged; where energies are unknown; of none at all
CLEAR, SURE, WEAK = 0.8, 0.95, 0.5
# a factor that is no softness of a base
FAR = 6.0
# energies go with the base's, which settles the sign of the forces; and what is asked
# of a base where there are no forces, or where their size is plausible as it is
AGREES, GOOD = 0.5, 0.9
# force components below which nothing is said
LEAST_COMPONENTS = 30
# eV/Å, root mean square: labels above it are odd, whatever a base says
LARGE, SMALL = 5.0, 0.1


def check_forces(
    predictions: Sequence[FramePrediction],
    fit: Fit | None,
    *,
    energy: Fit | None,
    units: LabelUnits,
    work: Fit | None,
) -> list[Finding]:
    """Return what is to be said of forces beside a base's.

    Args:
        predictions: for frames with and without forces.
        fit: how all components go with the base's; None if there are none.
        energy: likewise, of the energies.
        units: the units that the labels were read with.
        work: how the file's energies go with its forces, see ``check_work``.
    """
    if fit is None or fit.n < LEAST_COMPONENTS or fit.slope == 0.0:
        return []
    if abs(fit.correlation) < CLEAR:
        turned = check_axes(predictions, fit.correlation)
        if turned or fit.correlation > WEAK:
            return turned
        return [
            Finding(
                "note",
                "weak-forces",
                f"forces hardly go with the base's ({fit.to_text()}): too little to "
                "judge sign, unit and order of the labels",
                "check that base and data are about the same chemistry; look at the "
                "errors before training",
            )
        ]
    if fit.correlation > 0:
        return _judge_unit(fit, energy, predictions, units)
    sign = _judge_sign(fit, energy, work)
    if sign.code != "forces-sign":
        return [sign]
    # the size is judged as if the sign were right
    mirrored = Fit(fit.n, -fit.correlation, -fit.slope)
    return [sign, *_judge_unit(mirrored, energy, predictions, units)]


def _judge_sign(fit: Fit, energy: Fit | None, work: Fit | None) -> Finding:
    what = f"forces run against the base's ({fit.to_text()})"
    advice = "negate them in the file (gradients are minus the forces)"
    labels_agree = work is not None and work.correlation > WORK_CLEAR
    if labels_agree:
        return Finding(
            "warning",
            "base-sign",
            what + ", but agree with the energies of their own file",
            "the labels seem right; use another base for these structures",
        )
    if energy is not None and energy.correlation >= AGREES:
        what += f" while the energies go with them ({energy.to_text()})"
        return Finding("error", "forces-sign", what + ": wrong sign", advice)
    if energy is None and fit.correlation <= -SURE and 0.5 < -fit.slope < 2.0:
        return Finding("error", "forces-sign", what + ": wrong sign", advice)
    return Finding(
        "warning",
        "forces-sign",
        what + "; the energies do not tell whether base or labels are wrong",
        "check the sign: " + advice,
    )


def _judge_unit(
    fit: Fit,
    energy: Fit | None,
    predictions: Sequence[FramePrediction],
    units: LabelUnits,
) -> list[Finding]:
    factors = units.compute_factors()
    if abs(math.log(fit.slope)) < math.log(FAR):
        return _judge_per_bohr(fit, units)
    names = find_force_units(fit.slope, factors.forces)
    used = [p for p in predictions if p.frame.forces is not None]
    label_size, base_size = (
        math.sqrt(float(np.mean(np.concatenate([v.ravel() for v in values]) ** 2)))
        for values in (
            [np.asarray(p.frame.forces) for p in used],
            [p.forces for p in used],
        )
    )
    # a base that was stopped early has the pattern of the forces and a part of their
    # size, but none has the pattern and many times the size
    is_small = fit.slope < 1
    if is_small:
        is_odd = label_size < SMALL < base_size and fit.correlation > GOOD
    else:
        is_odd = label_size > LARGE
    what = (
        f"forces are {fit.slope:.4g} times the base's (correlation "
        f"{fit.correlation:.2f}; {label_size:.3g} against {base_size:.3g} eV/A)"
    )
    if not (is_odd or is_small) and fit.correlation < GOOD:
        return []
    if not names:
        return [
            Finding(
                "warning",
                "forces-factor",
                what + ", which no known unit explains",
                "check their unit, and whether the base fits the data",
            )
        ]
    of_energy = _energy_unit_behind(names[0], units)
    energies_agree = energy is None or (
        abs(energy.correlation) < AGREES
        or of_energy in find_energy_units(energy.slope, factors.energy)
    )
    if of_energy is not None and energies_agree:
        advice = advise(energy_unit=of_energy)
    else:
        advice = advise(forces_unit=names[0])
    return [
        Finding(
            "error" if is_odd else "warning",
            "forces-unit",
            f"{what}: as labels in {' or '.join(names)} are",
            advice,
        )
    ]


def _judge_per_bohr(fit: Fit, units: LabelUnits) -> list[Finding]:
    """Report forces per bohr: so near to 1 that it stays a warning."""
    names = find_force_units(fit.slope, units.compute_factors().forces)
    per_bohr = [name for name in names if name.endswith("/bohr")]
    if not per_bohr or fit.correlation < SURE or not 0.48 < fit.slope < 0.58:
        return []
    return [
        Finding(
            "warning",
            "forces-per-bohr",
            f"forces are {fit.slope:.3g} times the base's (correlation "
            f"{fit.correlation:.2f}): as forces in {per_bohr[0]} are",
            f"{advise(forces_unit=per_bohr[0])}, if that is so",
        )
    ]


def _energy_unit_behind(force_unit: str, units: LabelUnits) -> str | None:
    """Return the energy unit X if forces in X/length are what the unit says."""
    energy, _, length = force_unit.rpartition("/")
    is_angstrom = units.length.casefold() in ("a", "angstrom")
    return energy if length == "A" and is_angstrom and units.forces is None else None

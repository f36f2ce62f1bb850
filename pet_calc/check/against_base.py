"""Compare labels with a base model's predictions: sign, unit and order of components.

A base for other chemistry, at another level, or badly trained must never raise an
alarm about right labels. What protects against that:

- Nothing is said below a correlation of 0.8, where a bad base and bad labels look the
  same.
- A wrong sign of the forces is an error only if the base's *energies* go with the
  labels' (0.5 and more): a base consistent with itself cannot follow the energies and
  run against the forces. An untrained network on a rattled crystal can have a force
  correlation of -0.9, but then its energies run against the labels as well.
- A wrong unit is an error only 6 times off and more (bases are soft by 0.7 to 1.3), if
  a known unit fits within 1.5, and the label's size is odd by itself.
- Stress and energies are judged only by a base whose forces the labels confirm.
- Forces that agree with the energies of their own file overrule the base.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pet_calc.check.axes import check_axes
from pet_calc.check.energy_and_forces import CLEAR as WORK_CLEAR
from pet_calc.check.finding import Finding
from pet_calc.check.magnitudes import is_all_electron
from pet_calc.check.stress import check_stress
from pet_calc.check.units import (
    Fit,
    compute_fit,
    find_energy_units,
    find_force_units,
)
from pet_calc.data.advice import advise
from pet_calc.data.composition_fit import count_species
from pet_calc.data.labels import DEFAULT_UNITS, Array, LabelUnits
from pet_calc.evaluate.predict import FramePrediction

# correlations: of forces that are judged; where energies are unknown; of none at all
CLEAR, SURE, WEAK = 0.8, 0.95, 0.5
# a factor that is no softness of a base
FAR = 6.0
# energies go with the base's, which settles the sign of the forces; and what is asked
# of a base where there are no forces, or where their size is plausible as it is
AGREES, GOOD = 0.5, 0.9
# force components, and frames beyond those the composition fit uses up
LEAST_COMPONENTS, LEAST_FRAMES = 30, 8
# eV/Å, root mean square: labels above it are odd, whatever a base says
LARGE, SMALL = 5.0, 0.1
# eV/atom between labels and base: binding is up to 8, levels differ by less
OFFSET = 10.0
# eV/atom and eV/Å: differences of predictions from themselves, written and read again
SAME_ENERGY, SAME_FORCES = 1e-5, 1e-5


@dataclass
class Comparison:
    """How the labels of some frames go with the predictions of a base."""

    n_frames: int
    """Frames compared."""
    forces: Fit | None = None
    """All components, in eV/Å; None without labels."""
    energy: Fit | None = None
    """Per atom, after a fit of the composition; None with too few frames."""
    stress: Fit | None = None
    """Normal components, in eV/Å^3."""
    has_stress: bool = False
    """Whether any of the frames has one."""

    def to_text(self) -> str:
        """Return one line per quantity."""
        rows = {"energy": self.energy, "forces": self.forces, "stress": self.stress}
        lines = [
            f"base      {name:<6} {fit.to_text()} (label over base, {fit.n} values)"
            for name, fit in rows.items()
            if fit is not None
        ]
        return "\n".join(lines) or "base      nothing to compare"


def compare_with_base(
    predictions: Sequence[FramePrediction],
    *,
    units: LabelUnits = DEFAULT_UNITS,
    work: Fit | None = None,
) -> tuple[Comparison, list[Finding]]:
    """Return the fits, and what they say about the labels.

    Args:
        predictions: of a base or any other source, for frames with labels.
        units: the units that the labels were read with.
        work: how the file's energies go with its forces, see ``check_work``.
    """
    comparison = Comparison(
        len(predictions), _fit_forces(predictions), _fit_energies(predictions)
    )
    comparison.has_stress = any(p.frame.stress is not None for p in predictions)
    findings = [
        *_check_forces(comparison, predictions, units, work),
        *_check_energy(comparison, units, work),
    ]
    has_unit = any(finding.code.endswith("-unit") for finding in findings)
    if not has_unit:
        findings += _check_offset(predictions)
    trust = _trust(comparison, findings)
    comparison.stress, found = check_stress(predictions, units=units, trust=trust)
    return comparison, [*_check_same(predictions), *findings, *found]


def _check_same(predictions: Sequence[FramePrediction]) -> list[Finding]:
    """Report labels that are the base's own predictions, to the digits of a file."""
    differences = [
        (
            abs((p.frame.energy or 0.0) - p.energy) / p.frame.n_atoms,
            float(np.abs(np.asarray(p.frame.forces) - p.forces).max()),
        )
        for p in predictions
        if p.frame.energy is not None and p.frame.forces is not None
    ]
    if not differences or len(differences) < len(predictions):
        return []
    energy, forces = (max(values) for values in zip(*differences, strict=True))
    # chance is no such thing; float32 and eight digits are
    if energy > SAME_ENERGY or forces > SAME_FORCES:
        return []
    return [
        Finding(
            "warning",
            "predicted-labels",
            f"energies and forces are the base's own predictions (to {energy:.0e} "
            f"eV/atom and {forces:.0e} eV/A): a file of an older `eval -o`?",
            "an error against them says nothing, and training on them teaches nothing: "
            "name the calculated labels, or take the file that was evaluated",
        )
    ]


def _fit_forces(predictions: Sequence[FramePrediction]) -> Fit | None:
    used = [p for p in predictions if p.frame.forces is not None]
    if not used:
        return None
    labels = np.concatenate([np.asarray(p.frame.forces).ravel() for p in used])
    return compute_fit(np.concatenate([p.forces.ravel() for p in used]), labels)


def _fit_energies(predictions: Sequence[FramePrediction]) -> Fit | None:
    used = [p for p in predictions if p.frame.energy is not None]
    if not used:
        return None
    frames = [p.frame for p in used]
    types = sorted({int(z) for frame in frames for z in np.unique(frame.numbers)})
    n_atoms = np.array([frame.n_atoms for frame in frames], dtype=np.float64)
    rows = count_species(frames, types) / n_atoms[:, None]
    values = np.array([[p.frame.energy, p.energy] for p in used]) / n_atoms[:, None]
    solution, _, rank, _ = np.linalg.lstsq(rows, values, rcond=1e-10)
    if len(used) - rank < LEAST_FRAMES:
        return None
    residuals: Array = values - rows @ solution
    # what is left is rounding where frames are all alike
    if np.abs(residuals).max(axis=0).min() < 1e-7 * np.abs(values).max():
        return None
    return compute_fit(residuals[:, 1], residuals[:, 0])


def _check_forces(
    comparison: Comparison,
    predictions: Sequence[FramePrediction],
    units: LabelUnits,
    work: Fit | None,
) -> list[Finding]:
    fit = comparison.forces
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
    if fit.correlation < 0:
        return [_judge_force_sign(fit, comparison.energy, work)]
    return _judge_force_unit(fit, comparison, predictions, units)


def _judge_force_sign(fit: Fit, energy: Fit | None, work: Fit | None) -> Finding:
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


def _judge_force_unit(
    fit: Fit,
    comparison: Comparison,
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
    if fit.slope > 1:
        is_odd = label_size > LARGE
    else:
        is_odd = label_size < SMALL < base_size and fit.correlation > SURE
    what = (
        f"forces are {fit.slope:.4g} times the base's (correlation "
        f"{fit.correlation:.2f}; {label_size:.3g} against {base_size:.3g} eV/A)"
    )
    if not is_odd and fit.correlation < GOOD:
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
    energies_agree = comparison.energy is None or (
        abs(comparison.energy.correlation) < AGREES
        or of_energy in find_energy_units(comparison.energy.slope, factors.energy)
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


def _check_energy(
    comparison: Comparison, units: LabelUnits, work: Fit | None
) -> list[Finding]:
    fit, forces = comparison.energy, comparison.forces
    if fit is None or abs(fit.correlation) < CLEAR:
        return []
    if forces is None or forces.correlation < CLEAR:
        return []
    what = f"energies differ from the base's ({fit.to_text()}, composition taken off)"
    if fit.slope < 0:
        labels_agree = work is not None and work.correlation > WORK_CLEAR
        if labels_agree or fit.correlation > -GOOD:
            return []
        return [
            Finding(
                "error",
                "energy-sign",
                f"{what}: wrong sign, while forces agree",
                "negate them in the file (binding energies are minus the energy)",
            )
        ]
    # forces in an unknown factor of their own leave the base's size open
    forces_are_right = 1 / FAR < forces.slope < FAR
    if abs(math.log(fit.slope)) < math.log(FAR):
        return []
    names = find_energy_units(fit.slope, units.compute_factors().energy)
    if not names:
        return []
    is_same_factor = abs(math.log(fit.slope / forces.slope)) < math.log(2.0)
    if is_same_factor and not forces_are_right and units.forces is None:
        # said once, for the forces
        return []
    advice = advise(energy_unit=names[0])
    if forces_are_right and units.forces is None:
        # those of forces and stress follow from that of the energy
        own = f"{units.energy}/{units.length}"
        advice = advise(energy_unit=names[0], forces_unit=own)
        if comparison.has_stress and units.stress is None:
            own_stress = f"{units.energy}/{units.length}^3"
            advice = advise(
                energy_unit=names[0], forces_unit=own, stress_unit=own_stress
            )
    return [
        Finding(
            "error" if forces_are_right else "warning",
            "energy-unit",
            f"{what}: as labels in {' or '.join(names)} are",
            advice,
        )
    ]


def _check_offset(predictions: Sequence[FramePrediction]) -> list[Finding]:
    used = [p for p in predictions if p.frame.energy is not None]
    if not used:
        return []
    label = float(np.median([(p.frame.energy or 0.0) / p.frame.n_atoms for p in used]))
    base = float(np.median([p.energy / p.frame.n_atoms for p in used]))
    if abs(label - base) < OFFSET:
        return []
    kind = ""
    if is_all_electron([p.frame for p in used]):
        kind = ": all electrons against valence electrons"
    return [
        Finding(
            "note",
            "energy-offset",
            f"energies are {label:.1f} eV/atom, the base's {base:.1f}{kind}",
            "nothing with the default, which fits offsets (E0) anew; offsets that are "
            "kept or given would be wrong",
        )
    ]


def _trust(comparison: Comparison, findings: list[Finding]) -> bool | None:
    """Return whether the base's stress can judge labels; None if nothing tells."""
    sign_is_wrong = any(
        f.code == "forces-sign" and f.severity == "error" for f in findings
    )
    if comparison.forces is not None:
        return comparison.forces.correlation >= CLEAR or sign_is_wrong
    if comparison.energy is not None:
        return comparison.energy.correlation >= GOOD
    return None

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

from pet_calc.check.energy_and_forces import CLEAR as WORK_CLEAR
from pet_calc.check.finding import Finding
from pet_calc.check.forces import CLEAR, FAR, GOOD, check_forces
from pet_calc.check.magnitudes import is_all_electron
from pet_calc.check.stress import check_stress
from pet_calc.check.units import Fit, compute_fit, find_energy_units
from pet_calc.data.advice import advise
from pet_calc.data.composition_fit import count_species
from pet_calc.data.labels import DEFAULT_UNITS, Array, LabelUnits
from pet_calc.evaluate.predict import FramePrediction

# frames beyond those the composition fit uses up
LEAST_FRAMES = 8
# eV/atom between labels and base: binding is up to 8, levels differ by less
SHIFT = 10.0
# eV/atom and eV/Å: differences of predictions from themselves, written and read again
SAME_ENERGY, SAME_FORCES = 1e-5, 1e-5
NEGATE_ENERGIES = "negate them in the file (binding energies are minus the energy)"


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
        *check_forces(
            predictions,
            comparison.forces,
            energy=comparison.energy,
            units=units,
            work=work,
        ),
        *_check_energy(comparison, units, work),
    ]
    has_unit = any(finding.code.endswith("-unit") for finding in findings)
    if not has_unit:
        findings += _check_shift(predictions)
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


def _check_energy(
    comparison: Comparison, units: LabelUnits, work: Fit | None
) -> list[Finding]:
    fit, forces = comparison.energy, comparison.forces
    if forces is None or forces.correlation < CLEAR:
        return []
    if work is not None and work.correlation < -WORK_CLEAR:
        return [
            Finding(
                "error",
                "energy-sign",
                f"energies run against the forces of their own file ({work.to_text()}),"
                f" which go with the base's ({forces.to_text()})",
                NEGATE_ENERGIES,
            )
        ]
    if fit is None or abs(fit.correlation) < CLEAR:
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
                NEGATE_ENERGIES,
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


def _check_shift(predictions: Sequence[FramePrediction]) -> list[Finding]:
    used = [p for p in predictions if p.frame.energy is not None]
    if not used:
        return []
    label = float(np.median([(p.frame.energy or 0.0) / p.frame.n_atoms for p in used]))
    base = float(np.median([p.energy / p.frame.n_atoms for p in used]))
    if abs(label - base) < SHIFT:
        return []
    kind = ""
    if is_all_electron([p.frame for p in used]):
        kind = ": all electrons against valence electrons"
    return [
        Finding(
            "note",
            "energy-offset",
            f"energies are {label:.1f} eV/atom, the base's {base:.1f}{kind}",
            "nothing with the default, which fits energies per element (E0) anew; "
            "those that are kept or given would be wrong",
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

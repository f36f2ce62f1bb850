"""Check a data set before it is trained on, by itself and against a base model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pet_calc.calculator.supported import check_frame_state
from pet_calc.check.against_base import Comparison, compare_with_base
from pet_calc.check.energy_and_forces import check_work, compute_work_fit
from pet_calc.check.finding import Finding, name_file, sort_findings
from pet_calc.check.inputs import check_inputs
from pet_calc.check.labels import check_labels
from pet_calc.check.orientation import check_orientation
from pet_calc.check.structures import (
    check_alone,
    check_close,
    check_contradictions,
    check_duplicates,
    check_leakage,
)
from pet_calc.check.units import Fit
from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.data.labels import DEFAULT_UNITS, LabelUnits
from pet_calc.errors import DataError, ModelError
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import FramePrediction, predict_frames
from pet_calc.model.hypers import choose_energy_target
from pet_calc.model.pet import PET

# frames that a base is run on, and atoms in them: a minute on one core
MOST_FRAMES, MOST_ATOMS = 200, 5000
# frames whose neighbours are looked at without a base
MOST_STRUCTURES = 2000

Predictor = Callable[[Sequence[LabeledFrame]], Sequence[FramePrediction]]
"""Predicts frames, in their order; ``build_predictor`` makes one of a model."""


@dataclass
class CheckReport:
    """What a check found."""

    findings: list[Finding]
    """The gravest first."""
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    """With the base, by file; empty without a base."""
    work: Fit | None = None
    """How energies go with forces between near frames, see ``check_work``."""

    @property
    def errors(self) -> list[Finding]:
        """Findings that make training pointless."""
        return [f for f in self.findings if f.severity == "error"]

    def to_text(self) -> str:
        """Return what to print, several lines."""
        lines = []
        if self.work is not None:
            lines.append(f"work      energy against forces: {self.work.to_text()}")
        for file, comparison in self.comparisons.items():
            if len(self.comparisons) > 1:
                lines.append(f"base      {file}:")
            lines.append(comparison.to_text())
        lines += [finding.to_text() for finding in self.findings]
        counts = [
            sum(f.severity == severity for f in self.findings)
            for severity in ("error", "warning", "note")
        ]
        lines.append("checked   {} errors, {} warnings, {} notes".format(*counts))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same for JSON."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "work": None if self.work is None else self.work._asdict(),
            "base": {
                file: {
                    name: value._asdict() if isinstance(value, Fit) else value
                    for name, value in vars(comparison).items()
                }
                for file, comparison in self.comparisons.items()
            },
        }


def check_frames(
    frames: Sequence[LabeledFrame],
    *,
    held_out: dict[str, Sequence[LabeledFrame]] | None = None,
    predictor: Predictor | None = None,
    units: LabelUnits = DEFAULT_UNITS,
    with_geometry: bool = True,
) -> CheckReport:
    """Return what is wrong or odd with the frames; those of weight 0 do not count.

    Args:
        frames: the training set.
        held_out: other sets by name, such as ``validation``, for leakage.
        predictor: of a base model to compare with.
        units: the units that the labels were read with, to name the right ones.
        with_geometry: look at the structures too, and not at their labels alone.
    """
    frames = [frame for frame in frames if frame.weight > 0]
    few = thin_out(frames, MOST_STRUCTURES)
    work = compute_work_fit(few)
    findings = check_labels(frames)
    if with_geometry:
        findings += [
            *check_duplicates(frames),
            *check_alone(few),
            *check_close(few),
            *check_orientation(few),
        ]
    else:
        findings += check_contradictions(frames)
    findings += check_work(work, units)
    for name, others in (held_out or {}).items():
        findings += check_leakage(frames, others, name)
    report = CheckReport(findings, work=work)
    report.findings = sort_findings(findings)
    if predictor is not None:
        _compare(report, frames, predictor, units)
    return report


def check_set(
    frames: Sequence[LabeledFrame],
    *,
    held_out: dict[str, Sequence[LabeledFrame]] | None = None,
    model: PET | None = None,
    target: str | None = None,
    units: LabelUnits = DEFAULT_UNITS,
    with_geometry: bool = True,
    progress: Callable[[Any], Any] | None = None,
) -> CheckReport:
    """Return the same as ``check_frames``, with a model as the base.

    Frames that the model cannot answer for are reported and not compared.
    """
    frames = [frame for frame in frames if frame.weight > 0]
    report = check_frames(
        frames, held_out=held_out, units=units, with_geometry=with_geometry
    )
    if model is None:
        return report
    if with_geometry:
        report.findings += check_known(model, frames)
        report.findings += check_inputs(model, frames)
    known = [frame for frame in frames if not check_known(model, [frame])]
    name = choose_energy_target(model.targets, target)
    predictor = build_predictor(model, name, progress=progress)
    _compare(report, known, predictor, units)
    return report


def build_predictor(
    model: PET, target: str, *, progress: Callable[[Any], Any] | None = None
) -> Predictor:
    """Return a predictor from a model on its device."""

    def run(frames: Sequence[LabeledFrame]) -> Sequence[FramePrediction]:
        predictions = predict_frames(
            model, frames, target, Metrics(), progress=progress
        )
        return list(predictions)

    return run


def check_known(model: PET, frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report elements, charges and spins that the base does not know."""
    findings = []
    try:
        check_elements(frames, model.atomic_types)
    except DataError as error:
        findings.append(
            Finding(
                "error",
                "unknown-elements",
                str(error),
                "leave these frames out, take a base that knows the elements, or let "
                "it learn them: pet-calc finetune --allow-new-elements",
            )
        )
    try:
        for frame in frames:
            check_frame_state(model, frame)
    except ModelError as error:
        findings.append(
            Finding("error", "charge-or-spin", str(error), "leave these frames out")
        )
    return findings


def sample_frames(frames: Sequence[LabeledFrame]) -> list[LabeledFrame]:
    """Return the frames that a base is run on: the same ones for the same data.

    Evenly spread over the set and, where only some frames have a stress, over those.
    """
    labelled = [f for f in frames if f.energy is not None or f.forces is not None]
    with_stress = [f for f in labelled if f.stress is not None]
    chosen = {
        id(frame): frame
        for frame in [
            *thin_out(with_stress, MOST_FRAMES // 4),
            *thin_out(labelled, MOST_FRAMES),
        ]
    }
    sample = thin_out([f for f in labelled if id(f) in chosen], MOST_FRAMES)
    n_atoms = sum(frame.n_atoms for frame in sample)
    if n_atoms > MOST_ATOMS:
        sample = thin_out(sample, max(1, len(sample) * MOST_ATOMS // n_atoms))
    return sample


def thin_out(frames: Sequence[LabeledFrame], n_frames: int) -> list[LabeledFrame]:
    """Return at most ``n_frames`` of the frames, evenly spread."""
    if len(frames) <= n_frames:
        return list(frames)
    indices = np.linspace(0, len(frames) - 1, n_frames).round().astype(int)
    return [frames[i] for i in indices.tolist()]


def _compare(
    report: CheckReport,
    frames: Sequence[LabeledFrame],
    predictor: Predictor,
    units: LabelUnits,
) -> None:
    """Add what a base says to the report.

    Each file is compared by itself: files of one set may differ in unit and sign.
    """
    by_file: dict[str, list[FramePrediction]] = {}
    for prediction in predictor(sample_frames(frames)):
        by_file.setdefault(name_file(prediction.frame), []).append(prediction)
    for file, predictions in by_file.items():
        work = report.work
        if len(by_file) > 1:
            work = compute_work_fit([p.frame for p in predictions])
        comparison, findings = compare_with_base(predictions, units=units, work=work)
        report.comparisons[file] = comparison
        for found in findings:
            where = f"{file}: " if len(by_file) > 1 else ""
            report.findings.append(replace(found, what=where + found.what))
    if "energy-sign" in {f.code for f in report.errors}:
        # the base has settled whether energies or forces are wrong
        unsettled = check_work(report.work, units)
        report.findings = [f for f in report.findings if f not in unsettled]
    report.findings = sort_findings(_drop_repeated(report.findings))


def _drop_repeated(findings: list[Finding]) -> list[Finding]:
    """Return the findings without weaker ones on what a graver one says already."""
    codes = {f.code for f in findings if f.severity == "error"}
    covered = {
        "forces-unit": {"large-forces", "energy-unit"},
        "forces-sign": {"base-sign"},
        "energy-unit": {"energy-offset"},
    }
    hidden = {code for key in codes for code in covered.get(key, set())}
    kept = []
    for finding in findings:
        is_weaker = finding.severity != "error" and (
            finding.code in hidden or finding.code in codes
        )
        if not is_weaker:
            kept.append(finding)
    return kept

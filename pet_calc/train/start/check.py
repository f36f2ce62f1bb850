"""Check the data of a run before its first step."""

import logging

from pet_calc.check.finding import Finding
from pet_calc.check.run import CheckReport, check_set
from pet_calc.config import RunOptions
from pet_calc.data.label_options import build_label_units
from pet_calc.data.read_dataset import MOST_CHECKED, sample_stored, take_frames
from pet_calc.errors import DataError
from pet_calc.train.datasets import RunFrames, find_of_target
from pet_calc.train.start.model import Prepared

logger = logging.getLogger(__name__)


def check_data(prepared: Prepared, options: RunOptions, frames: RunFrames) -> None:
    """Check each target's frames against themselves and against the base.

    Raises:
        DataError: for what makes training pointless.
    """
    for name, target in options.energy_targets.items():
        sets = {}
        for part in ("train", "validation", "test"):
            found = getattr(frames, part)
            own = take_frames(found, find_of_target(found, name))
            sets[part] = sample_stored(own, MOST_CHECKED)
            if len(sets[part]) < len(own):
                logger.info("checked: %d of %d frames", len(sets[part]), len(own))
        source = next(d for d in options.training_set if target in d.targets)
        report = check_set(
            sets.pop("train"),
            held_out=sets,
            model=None if prepared.base is None else prepared.model,
            target=target.name,
            units=build_label_units(source, target),
        )
        baseline = options.train.composition
        is_kept = baseline.mode == "keep" and target.name not in baseline.tables
        _judge_findings(report, is_kept)


def _judge_findings(report: CheckReport, keeps_offsets: bool) -> None:
    """Raise for errors, warn of warnings, and leave the rest to the log."""
    wrong = list(report.errors)
    odd: list[Finding] = []
    for finding in report.findings:
        if finding.code == "energy-offset":
            # asked for by the user, unless it is what the base had
            (wrong if keeps_offsets else odd).append(finding)
        # of mixed keys the reader has warned
        elif finding.severity == "warning" and finding.code != "mixed-keys":
            odd.append(finding)
        elif finding.code.startswith("weak"):
            logger.info("%s", finding.what)
    if wrong:
        raise DataError("; ".join(f"{f.what}: {f.advice}" for f in wrong))
    for finding in odd:
        logger.warning("%s; %s", finding.what, finding.advice)

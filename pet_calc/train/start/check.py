"""Check the data of a run before its first step."""

import logging

from pet_calc.check.finding import Finding
from pet_calc.check.run import CheckReport, check_set
from pet_calc.config import RunOptions
from pet_calc.data.label_options import build_label_source
from pet_calc.data.read_dataset import (
    MOST_CHECKED,
    find_of_target,
    sample_stored,
    select_target,
)
from pet_calc.errors import DataError
from pet_calc.train.datasets import RunFrames
from pet_calc.train.loaders import PARTS
from pet_calc.train.start.model import Prepared

logger = logging.getLogger(__name__)


def check_data(prepared: Prepared, options: RunOptions, frames: RunFrames) -> None:
    """Check each target's frames against themselves and against the base.

    Frames of which a target before had labels, all the same ones, are not checked
    again.

    Raises:
        DataError: for what makes training pointless.
    """
    checked = set()
    for name, target in options.energy_targets.items():
        sets = {}
        rows = []
        for part in PARTS:
            found = getattr(frames, part)
            own = select_target(found, name)
            rows.append(find_of_target(found, name).tobytes())
            sets[part] = sample_stored(own, MOST_CHECKED)
            if len(sets[part]) < len(own):
                logger.info("checked: %d of %d frames", len(sets[part]), len(own))
        source = next(d for d in options.training_set if target in d.targets)
        is_new = tuple(rows) not in checked
        report = check_set(
            sets.pop("train"),
            held_out=sets if is_new else {},
            model=None if prepared.base is None else prepared.model,
            target=target.name,
            units=build_label_source(source, target).units,
            with_geometry=is_new,
        )
        checked.add(tuple(rows))
        composition = options.train.composition
        is_kept = composition.mode == "keep" and target.name not in composition.tables
        _judge_findings(report, is_kept)


def _judge_findings(report: CheckReport, keeps_composition: bool) -> None:
    """Raise for errors, warn of warnings, and leave the rest to the log."""
    wrong = list(report.errors)
    odd: list[Finding] = []
    for finding in report.findings:
        if finding.code == "energy-offset":
            # asked for by the user, unless it is what the base had
            (wrong if keeps_composition else odd).append(finding)
        # of mixed keys the reader has warned
        elif finding.severity == "warning" and finding.code != "mixed-keys":
            odd.append(finding)
        elif finding.code.startswith("weak"):
            logger.info("%s", finding.what)
    if wrong:
        raise DataError("; ".join(f"{f.what}: {f.advice}" for f in wrong))
    for finding in odd:
        logger.warning("%s; %s", finding.what, finding.advice)

"""Read what a run has left in its folder, as far as it got."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet_calc.errors import ConfigError
from pet_calc.evaluate.kept_file import KeptFile

REPORT, LOG, OPTIONS = "report.json", "log.jsonl", "options_resolved.yaml"
_START, _BEFORE, _AFTER = (
    f"predictions/{name}" for name in ("start.json", "before.npz", "after.npz")
)
FURTHER = "further"
"""Set of the frames that `pet-calc report --data` has judged the result by."""
FURTHER_BEFORE, FURTHER_AFTER = (
    f"predictions/further_{name}.npz" for name in ("before", "after")
)


@dataclass
class ReadRun:
    """What a run has left; errors in eV and Å."""

    folder: Path
    report: dict[str, Any]
    """As in ``report.json``; the facts of the start alone where there is none yet."""
    is_ended: bool
    """Whether there is a report of all that is in the log: a run that was killed, or
    that goes on after an interruption, has none."""
    is_live: bool = False
    """Whether it is watched while it trains."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the log, one an epoch."""
    options: str = ""
    """The options file."""
    before: KeptFile = field(default_factory=KeptFile)
    """Predictions before the first step."""
    after: KeptFile = field(default_factory=KeptFile)
    """Those of the result."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def facts(self) -> dict[str, Any]:
        """What was trained on what."""
        facts: dict[str, Any] = self.report.get("facts", {})
        return facts

    @property
    def provenance(self) -> dict[str, Any]:
        """Base, level of theory, versions, files."""
        provenance: dict[str, Any] = self.facts.get("provenance", {})
        return provenance

    @property
    def has_base(self) -> bool:
        """Whether the run began with a model, and not with random weights."""
        return bool(self.provenance.get("base"))

    @property
    def target(self) -> str:
        """The main energy."""
        return str(self.provenance.get("target", "energy"))

    def n_frames(self, part: str) -> int | None:
        """Return the number of frames of a set, None if it is not known."""
        if part == FURTHER:
            found: int | None = (self.report.get(FURTHER) or {}).get("n_frames")
        else:
            found = self.provenance.get("n_frames", {}).get(part)
        return found

    def errors(self, part: str, *, is_before: bool) -> dict[str, float]:
        """Return the errors of a set, empty if they were not measured."""
        if part == "validation":
            name = "zero_step" if is_before else "validation"
        elif part == "test":
            name = "test_before" if is_before else "test"
        elif part == FURTHER:
            found = self.report.get(FURTHER) or {}
            return dict(found.get("before" if is_before else "after") or {})
        else:
            return dict(self.table(part).get("before" if is_before else "after", {}))
        return dict(self.report.get(name) or {})

    def table(self, part: str, target: str | None = None) -> dict[str, Any]:
        """Return what was kept of a set and a target, empty if nothing was."""
        found = [t for t in self.tables(part) if t["target"] == (target or self.target)]
        return found[0] if found else {}

    def tables(self, part: str) -> list[dict[str, Any]]:
        """Return what was kept of a set, by target, the main one first."""
        further = self.report.get(FURTHER)
        tables = [*self.report.get("kept", []), *([further["kept"]] if further else [])]
        own = [dict(table) for table in tables if table["set"] == part]
        return sorted(own, key=lambda table: table["target"] != self.target)


def read_run(folder: str | Path, *, is_going_on: bool = False) -> ReadRun:
    """Return what a run has left.

    Args:
        folder: of the run.
        is_going_on: leave out the report, which is of a session before.

    Raises:
        ConfigError: if there is no run in the folder.
        DataError: if its predictions cannot be read.
    """
    folder = Path(folder)
    report_path, start_path = folder / REPORT, folder / _START
    if not report_path.exists() and not (folder / LOG).exists():
        raise ConfigError(
            f"{folder}: expected the folder of a run, but there is neither {REPORT} "
            f"nor {LOG}; name what `pet-calc finetune -o` named"
        )
    rows = read_log(folder / LOG)
    report = json.loads(report_path.read_text()) if report_path.exists() else {}
    # steps beyond those of the report: a resumed run that was killed, or goes on
    is_stale = bool(rows) and rows[-1].get("step", 0) > report.get("n_steps", 0)
    is_ended = bool(report) and not is_stale and not is_going_on
    if not is_ended:
        facts = json.loads(start_path.read_text()) if start_path.exists() else {}
        report = {"test_before": facts.pop("test_before", {}), "facts": facts}
    run = ReadRun(folder, report, is_ended, rows=rows)
    if (folder / OPTIONS).exists():
        run.options = (folder / OPTIONS).read_text()
    if (folder / _BEFORE).exists():
        run.before = KeptFile.load(folder / _BEFORE)
    if is_ended and (folder / _AFTER).exists():
        run.after = KeptFile.load(folder / _AFTER)
    if report.get(FURTHER) and (folder / FURTHER_AFTER).exists():
        _add(run.before, KeptFile.load(folder / FURTHER_BEFORE))
        _add(run.after, KeptFile.load(folder / FURTHER_AFTER))
    return run


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, none without one.

    Of a run that goes on, or was killed, the last line may be there in part.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _add(file: KeptFile, further: KeptFile) -> None:
    """Add further frames to those of the run, in place."""
    file.parts |= further.parts
    file.predictions |= further.predictions
    if further.viewed is not None:
        # those of the run are among them
        file.viewed = further.viewed

"""Say how far a run is that has not ended, from what it has written so far."""

import itertools
from typing import Any

from pet_calc.config import RunOptions, read_options
from pet_calc.errors import ConfigError
from pet_calc.evaluate.groups import compute_errors
from pet_calc.page.read import OPTIONS, ReadRun

# epochs that the pace is taken from
_N_RECENT = 5


def add_progress(run: ReadRun) -> None:
    """Fill in what the report of an ended run has, from log, options and predictions.

    Errors of the validation set are those of the best epoch so far. Those before the
    first step are there if the predictions of all its frames were kept.
    """
    report = run.report
    report.setdefault("n_epochs", find_n_epochs(run))
    best = [row for row in run.rows if row.get("is_best")]
    if best:
        report["best_epoch"] = best[-1]["epoch"]
        report["validation"] = {
            key.removeprefix("val_"): value
            for key, value in best[-1].items()
            if key.startswith("val_") and key not in ("val_loss", "val_mae_sum")
        }
    kept = run.before.predictions.get(("validation", run.target))
    part = run.before.parts.get("validation")
    is_whole = kept is not None and part and len(kept.index) == part.n_frames
    if kept is not None and is_whole and not report.get("zero_step"):
        report["zero_step"] = compute_errors(kept)


def describe_progress(run: ReadRun) -> str:
    """Return how far a run is, and when it ends at its pace."""
    n_done, n_epochs = len(run.rows), run.report.get("n_epochs")
    of = f" of {n_epochs}" if n_epochs else ""
    text = f"{n_done}{of} epochs are done"
    pace = find_pace(run.rows)
    if pace is not None:
        text += f", {format_time(pace)} an epoch"
        if n_epochs and n_epochs > n_done:
            text += f", about {format_time(pace * (n_epochs - n_done))} left"
    best = run.report.get("best_epoch")
    return f"{text}; the best so far is epoch {best}" if best else text


def find_pace(rows: list[dict[str, Any]]) -> float | None:
    """Return the seconds of an epoch, of the last few; None before the first."""
    recent = rows[-_N_RECENT - 1 :]
    # seconds count from the start of the session: they fall where a run was resumed
    steps = [
        after["seconds"] - before["seconds"]
        for before, after in itertools.pairwise(recent)
        if after["seconds"] > before["seconds"]
    ]
    if steps:
        return float(sum(steps) / len(steps))
    return float(rows[0]["seconds"]) if len(rows) == 1 else None


def find_n_epochs(run: ReadRun) -> int | None:
    """Return how many epochs a run is planned for, None if its options do not say."""
    options = _read_options(run)
    return None if options is None else options.train.num_epochs


def has_replay(run: ReadRun) -> bool:
    """Return whether a run trains on frames of the base's domain as well."""
    options = _read_options(run)
    return options is not None and bool(options.replay_set)


def format_time(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _read_options(run: ReadRun) -> RunOptions | None:
    try:
        return read_options(run.folder / OPTIONS)
    except (ConfigError, OSError):
        return None

"""Judge a run by further frames, and keep what came out beside the run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pet_calc.checkpoint.open import choose_device, load_merged_model
from pet_calc.config import DatasetOptions, read_options, replace
from pet_calc.config.quick import build_dataset
from pet_calc.data.files import expand_paths
from pet_calc.data.frames import LabeledFrame, Progress
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate.further import FurtherFrames, judge_further, load_start
from pet_calc.evaluate.kept import KeptPredictions, choose_kept
from pet_calc.evaluate.kept_file import KeptFile
from pet_calc.evaluate.kept_tables import describe_kept, list_worst
from pet_calc.evaluate.viewed import ViewedFrames, build_viewed, join_viewed
from pet_calc.model.pet import PET
from pet_calc.page.read import (
    FURTHER,
    FURTHER_AFTER,
    FURTHER_BEFORE,
    OPTIONS,
    REPORT,
    ReadRun,
    read_run,
)
from pet_calc.system.atomic import write_text_atomically
from pet_calc.system.hashing import hash_file

# to look at
MOST_VIEWED, MOST_VIEWED_ATOMS = 100, 4000


def add_further(
    folder: str | Path,
    files: Sequence[str],
    dataset: DatasetOptions | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge the result of a run by the frames of files, and write that to its folder.

    It goes into ``report.json`` as ``further``, and predictions beside those of the
    run; it takes the place of what was there of other files.

    Args:
        folder: of a run that has ended.
        files: with labelled frames.
        dataset: where their labels lie; None is as in the run's own training set.
        device: where the model runs.
        progress: wraps the iteration over frames.

    Returns:
        What was added to the report.

    Raises:
        ConfigError: if there is no run, or it has no result yet.
        DataError: for files that cannot be used, or have no label.
    """
    run = read_run(folder)
    best = run.folder / Path(run.report.get("best_model", "")).name
    if not run.is_ended or not best.is_file():
        raise ConfigError(
            f"{run.folder}: has no result yet that further frames could be judged "
            "with; wait for the end of the run"
        )
    dataset = dataset or find_dataset(run, files)
    model = load_merged_model(best, device=choose_device(device))
    source = run.provenance
    base, why = load_start(
        model,
        source.get("base") or "",
        run.target,
        source.get("base_fingerprint") or "",
    )
    found = judge_further(
        model, dataset, run.target, base=base, why_no_base=why, progress=progress
    )
    if found.after.kept is None or not found.after.errors:
        raise DataError(
            f"{', '.join(files)}: no frame has a label of {run.target} to judge by; "
            "name the keys (--energy-key and its like)"
        )
    before, after = _build_files(found, run.target)
    further = _view(model, run.target, found)
    (own,) = describe_kept(before, after)
    described = {
        "files": {file: hash_file(file) for file, _ in expand_paths(list(files))},
        "why_no_base": found.why_no_base,
        "n_frames": found.part.n_frames,
        "before": {} if found.before is None else found.before.errors,
        "after": found.after.errors,
        "kept": own,
        "worst": [] if further is None else list_worst(further),
    }
    parts = [view for view in (further, read_run_alone(run.folder)) if view is not None]
    after.viewed = join_viewed(model, run.target, parts) if parts else None
    before.save(run.folder / FURTHER_BEFORE)
    after.save(run.folder / FURTHER_AFTER)
    # read again: the run's report may have been added to meanwhile
    report = json.loads((run.folder / REPORT).read_text()) | {FURTHER: described}
    write_text_atomically(run.folder / REPORT, json.dumps(report, indent=2) + "\n")
    return described


def find_dataset(run: ReadRun, files: Sequence[str]) -> DatasetOptions:
    """Return a data set of the files with the labels of the run's own one."""
    for own in read_options(run.folder / OPTIONS).training_set:
        targets = tuple(t for t in own.energy_targets if t.name == run.target)
        if targets:
            systems = replace(own.systems, read_from=tuple(files), index=":")
            return replace(
                own, systems=systems, targets=targets, indices=None, weight=1.0
            )
    return build_dataset(files, {"target": run.target})


def read_run_alone(folder: Path) -> ViewedFrames | None:
    """Return the frames that the run itself has kept to be looked at."""
    path = folder / "predictions" / "after.npz"
    return KeptFile.load(path).viewed if path.exists() else None


def _build_files(found: FurtherFrames, target: str) -> tuple[KeptFile, KeptFile]:
    files = []
    for judged in (found.before, found.after):
        file = KeptFile({FURTHER: found.part})
        if judged is not None and judged.kept is not None:
            file.predictions[FURTHER, target] = judged.kept
        files.append(file)
    return files[0], files[1]


def _view(model: PET, target: str, found: FurtherFrames) -> ViewedFrames | None:
    """Return the worst frames, and some that are evenly spread."""
    entries: list[tuple[str, LabeledFrame, KeptPredictions, bool]] = []
    for own in found.after.worst:
        entries.append((FURTHER, found.frames[int(own.index[0])], own, True))
    there = {int(own.index[0]) for own in found.after.worst}
    kept = found.after.kept
    assert kept is not None  # asked before
    few = choose_kept(
        [found.frames[i] for i in kept.index.tolist()],
        most_frames=MOST_VIEWED,
        most_atoms=MOST_VIEWED_ATOMS,
    )
    for place in few.tolist():
        index = int(kept.index[place])
        if index not in there:
            one = kept.take(np.array([place]))
            entries.append((FURTHER, found.frames[index], one, False))
    return build_viewed(model, target, entries)

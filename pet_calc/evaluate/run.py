"""Evaluate a model on the frames of files, from first to last."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pet_calc.calculator.supported import find_serious_notes
from pet_calc.checkpoint.open import (
    choose_device,
    load_merged_model,
    load_record,
    load_uncertainties,
)
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.census import CensusCounter, LabelCensus
from pet_calc.data.files import expand_paths
from pet_calc.data.frames import NO_NAME, LabeledFrame, Progress, iterate_frames
from pet_calc.data.label_options import build_label_source
from pet_calc.engine.switch import Compile
from pet_calc.errors import PetCalcError
from pet_calc.evaluate.in_parallel import FAILED, predict_shared, tell_all
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS, BatchPredictor, Errors
from pet_calc.evaluate.prediction_file import PredictionWriter, open_predictions
from pet_calc.model.hypers import choose_energy_target
from pet_calc.model.pet import PET
from pet_calc.system.hashing import hash_file
from pet_calc.system.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and how."""

    model: str
    """Path of a checkpoint."""
    dataset: DatasetOptions
    """Files, and where their labels lie."""
    adapter: str | None = None
    """Path of an adapter to put on the model."""
    target: str | None = None
    """Energy target to use; None where there is only one."""
    dtype: torch.dtype | None = None
    """Of the weights; None is the file's."""
    device: str = "auto"
    """Where the model runs."""
    compile: Compile = "auto"
    """Whether to use the compiled engine."""
    precision: str = "exact"
    """``exact`` or ``mixed``."""
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    """Pairs and atoms evaluated at once."""
    n_orientations: int = 1
    """Random ones in which each frame is evaluated, besides that of the file."""


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    census: LabelCensus
    """What the files hold."""
    errors: Errors
    """Errors over all frames, those before an interruption too."""


def run_evaluation(
    options: EvaluationOptions,
    *,
    output: str | Path | None = None,
    is_resumed: bool = False,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Return the errors on the frames of the files; write the predictions if asked.

    Frames are read, and predictions written, as they come. Of several processes, each
    reads all frames and evaluates its share; the first one writes, and has the errors.

    Args:
        options: what is evaluated, and how.
        output: extended XYZ file for the predictions.
        is_resumed: go on where an interrupted run stopped writing ``output``.
        progress: wraps the iteration over frames.
        ranks: the processes that share the frames, joined already.

    Raises:
        PetCalcError: for files that cannot be used, naming them.
    """
    dataset = options.dataset
    device = choose_device(options.device)
    record = load_record(options.model)
    model = load_merged_model(
        record, adapter=options.adapter, dtype=options.dtype, device=device
    )
    uncertainties = load_uncertainties(record, adapter=options.adapter, device=device)
    target = choose_energy_target(model.targets, options.target)
    frames = iterate_frames(
        list(dataset.read_from),
        {NO_NAME: build_label_source(dataset)},
        index=dataset.index,
        keeps_atoms=output is not None,
    )
    frames = _warn_of_notes(frames, model)
    census = CensusCounter()
    watched = census.watch(progress(frames) if progress else frames)
    predictor = BatchPredictor(
        model,
        target,
        batch_tokens=options.batch_tokens,
        compile=options.compile,
        precision=options.precision,
        n_orientations=options.n_orientations,
        uncertainty=uncertainties.get(target),
    )
    with ExitStack() as stack:
        writer: PredictionWriter | None = None
        if output is not None and ranks.is_main:
            run = _identify(options, target, str(model.edge_embedder.weight.dtype))
            opened = open_predictions(
                output, run, model=_name_model(options, target), is_resumed=is_resumed
            )
            try:
                writer = stack.enter_context(opened)
            except PetCalcError:
                tell_all(FAILED, ranks)
                raise
        errors = Errors() if writer is None else writer.errors
        n_done = tell_all(0 if writer is None else writer.n_frames, ranks)
        # the frames before are counted in the census, but not evaluated
        left = islice(watched, n_done, None)
        for batch in predict_shared(predictor, left, ranks, first=n_done):
            if writer is None:
                errors.merge(batch.errors)
            else:
                writer.add(batch)
    return Evaluation(census.build(), errors)


def _warn_of_notes(
    frames: Iterable[LabeledFrame], model: PET
) -> Iterator[LabeledFrame]:
    """Yield the frames; warn, once each, of notes that question the errors."""
    told: set[str] = set()
    for frame in frames:
        for note in find_serious_notes(frame, model):
            if note not in told:
                logger.warning("%s: %s", frame.source, note)
                told.add(note)
        yield frame


def _name_model(options: EvaluationOptions, target: str) -> str:
    """Return what the file of predictions says about the model."""
    parts = [options.model, *([options.adapter] if options.adapter else [])]
    named = [f"{Path(part).name} sha256 {hash_file(part)[:12]}" for part in parts]
    return f"{' with '.join(named)}, {target}"


def _identify(options: EvaluationOptions, target: str, dtype: str) -> dict[str, Any]:
    """Return what the predictions and their errors depend on, by checksums."""
    dataset = options.dataset
    files = expand_paths(list(dataset.read_from), dataset.index)
    source = build_label_source(dataset)
    return {
        "model": hash_file(options.model),
        "adapter": options.adapter and hash_file(options.adapter),
        "target": target,
        "dtype": dtype,
        "precision": options.precision,
        "n_orientations": options.n_orientations,
        "data": [[hash_file(file), index] for file, index in files],
        "keys": asdict(source.keys),
        "units": asdict(source.units),
    }

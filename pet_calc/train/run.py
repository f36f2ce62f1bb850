"""A whole run: read, prepare, train, evaluate, and leave everything in one folder."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pet_calc.checkpoint import Checkpoint, load_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.checkpoint.files import write_atomically
from pet_calc.config import (
    LossOptions,
    LossTerm,
    RunOptions,
    TargetOptions,
    default_energy_weight,
    default_learning_rate,
    default_num_epochs,
    read_options,
    write_options,
)
from pet_calc.data.dataset import GraphDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.label_options import build_label_units
from pet_calc.data.loader import BatchLoader
from pet_calc.data.read_dataset import MOST_CHECKED, sample_stored
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate.check import check_set
from pet_calc.evaluate.findings import Finding
from pet_calc.evaluate.metrics import format_errors
from pet_calc.lora.adapter import extract_adapter
from pet_calc.lora.inject import has_lora
from pet_calc.train.datasets import RunFrames, choose_target, read_run_frames
from pet_calc.train.loaders import build_datasets, build_loaders
from pet_calc.train.loop import BEST_NAME, LAST_NAME, Task, Trainer
from pet_calc.train.offsets import set_offsets
from pet_calc.train.provenance import describe_run
from pet_calc.train.ranks import Ranks, join_ranks
from pet_calc.train.report import RunReport
from pet_calc.train.setup import (
    Prepared,
    build_model,
    count_trainable,
    load_base,
    set_trainable,
)

logger = logging.getLogger(__name__)

ADAPTER_NAME = "adapter.safetensors"
OPTIONS_NAME = "options_resolved.yaml"
# of stored frames, which may be millions: offsets converge long before
MOST_OFFSET_FRAMES = 10_000
REPORT_NAME = "report.json"


def run_training(
    options: RunOptions,
    *,
    is_resumed: bool = False,
    may_overwrite: bool = False,
    stop_after: int | None = None,
    show_progress: bool = True,
    run_name: str = "",
) -> RunReport:
    """Train as the options say, and write the results to ``options.output``.

    The folder then holds ``best_model.ckpt``, ``last_model.ckpt`` (to resume from),
    ``adapter.safetensors`` (with LoRA), ``log.csv``, ``log.jsonl``, ``report.json``
    and ``options_resolved.yaml``.

    Args:
        options: what to do.
        is_resumed: go on with the run in the folder.
        may_overwrite: allow a new run in a folder that holds one.
        stop_after: end this session after so many epochs in all.
        show_progress: show progress bars.
        run_name: goes into the names of the model files, ``best_model_NAME.ckpt``.

    Raises:
        PetCalcError: for options, data or checkpoints that cannot be used; before
            the first step wherever possible.
    """
    options.check_ready()
    _refuse_unsupported(options)
    with join_ranks(options.device) as ranks:
        return _run(
            options,
            ranks,
            is_resumed,
            may_overwrite,
            stop_after,
            show_progress,
            run_name,
        )


def _run(
    options: RunOptions,
    ranks: Ranks,
    is_resumed: bool,
    may_overwrite: bool,
    stop_after: int | None,
    show_progress: bool,
    run_name: str,
) -> RunReport:
    """Do what ``run_training`` says, as one of its processes."""
    show_progress = show_progress and ranks.is_main
    folder = Path(options.output)
    _check_folder(folder, is_resumed, may_overwrite)
    # before the first process writes there
    ranks.wait()
    target = choose_target(options)
    base = load_base(options)
    frames = read_run_frames(options, show_progress=show_progress)
    resumed = folder if is_resumed else None
    prepared, datasets = _prepare(base, options, target, frames, resumed, ranks)
    if not is_resumed:
        _check_data(prepared, options, target, frames)
    model = prepared.model
    ranks.share_model(model)
    n_trainable, n_parameters = count_trainable(model)
    options = _resolve_defaults(options, target.name, n_parameters)
    n_epochs, rate = options.train.num_epochs, options.train.learning_rate
    assert n_epochs is not None  # both are resolved
    assert rate is not None
    task = _choose_task(options, target, frames)
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        if is_resumed:
            _warn_of_changes(folder / OPTIONS_NAME, options)
        write_options(options, folder / OPTIONS_NAME)
    device = model.edge_embedder.weight.device
    loaders = build_loaders(datasets, options, device, ranks)
    logger.info(
        "training: %d epochs of %d steps, peak learning rate %.2g, loss on energy%s%s",
        n_epochs,
        loaders["train"].n_steps,
        rate,
        ", forces" if task.has_forces else "",
        ", stress" if task.has_stress else "",
    )
    trainer = Trainer(
        model,
        task,
        loaders["train"],
        loaders["validation"],
        options.train,
        n_epochs=n_epochs,
        learning_rate=rate,
        folder=folder,
        metadata=describe_run(options, target, prepared, frames),
        best_name=f"best_model_{run_name}.ckpt" if run_name else BEST_NAME,
        show_progress=show_progress,
        ranks=ranks,
    )
    trainer.smoke_test()
    started = time.monotonic()
    end = trainer.fit(is_resumed=is_resumed, stop_after=stop_after)

    report = RunReport(
        method=options.finetune.method,
        target=target.name,
        end=end,
        n_trainable=n_trainable,
        n_parameters=n_parameters,
        n_steps=trainer.progress.step,
        best_epoch=trainer.progress.best_epoch,
        seconds=round(time.monotonic() - started, 2),
        zero_step=trainer.zero_metrics,
        validation=trainer.best_metrics,
        best_model=str(trainer.best_path),
    )
    _write_results(trainer, prepared, loaders, report, options)
    return report


def _prepare(
    base: Checkpoint | None,
    options: RunOptions,
    target: TargetOptions,
    frames: RunFrames,
    resumed_folder: Path | None,
    ranks: Ranks,
) -> tuple[Prepared, dict[str, GraphDataset]]:
    """Return the model with offsets set and LoRA injected, or the resumed one.

    With it come the frames, whose neighbour lists go as far as the model does.
    """
    placed = replace(options, device=ranks.place(options.device))
    prepared = build_model(base, placed, target, frames.all())
    datasets = build_datasets(frames, prepared.model.pair_cutoff)
    if resumed_folder is not None:
        checkpoint = load_checkpoint(resumed_folder / LAST_NAME)
        weight = prepared.model.edge_embedder.weight
        prepared.model = checkpoint.build_model(
            dtype=weight.dtype, device=weight.device
        )
    else:
        offset_frames = sample_stored(frames.train, MOST_OFFSET_FRAMES)
        set_offsets(
            prepared.model,
            target,
            options.train.atomic_baseline,
            offset_frames,
            frames.isolated,
            has_base=prepared.base is not None,
            scale_targets=options.train.scale_targets,
            batch_size=options.train.frames_per_step,
            graphs=datasets["train"] if offset_frames is frames.train else None,
        )
    set_trainable(prepared, options, target.name)
    return prepared, datasets


def _check_data(
    prepared: Prepared, options: RunOptions, target: TargetOptions, frames: RunFrames
) -> None:
    """Raise if labels contradict themselves or the base; log what is merely odd.

    The offsets are set by now: energies far from the model's mean wrong offsets.
    """
    sets = {"train": frames.train, "validation": frames.validation, "test": frames.test}
    few = {name: sample_stored(part, MOST_CHECKED) for name, part in sets.items()}
    if len(few["train"]) < len(frames.train):
        logger.info(
            "checked %d of %d frames, evenly spread",
            len(few["train"]),
            len(frames.train),
        )
    report = check_set(
        few.pop("train"),
        held_out=few,
        model=None if prepared.base is None else prepared.model,
        target=target.name,
        units=build_label_units(options.training_set[0]),
    )
    baseline = options.train.atomic_baseline
    is_kept = baseline.mode == "keep" and target.name not in baseline.tables
    wrong = list(report.errors)
    odd: list[Finding] = []
    for finding in report.findings:
        if finding.code == "energy-offset":
            # asked for by the user, unless it is what the base had
            (wrong if is_kept else odd).append(finding)
        # of mixed keys the reader has warned
        elif finding.severity == "warning" and finding.code != "mixed-keys":
            odd.append(finding)
        elif finding.code.startswith("weak"):
            logger.info("%s", finding.what)
    if wrong:
        raise DataError("; ".join(f"{f.what}: {f.advice}" for f in wrong))
    for finding in odd:
        logger.warning("%s; %s", finding.what, finding.advice)


def _resolve_defaults(
    options: RunOptions, target: str, n_parameters: int
) -> RunOptions:
    """Return the options with what depends on method and model size filled in."""
    train, method = options.train, options.finetune.method
    loss = dict(train.loss)
    if target not in loss:
        loss[target] = LossOptions(LossTerm(weight=default_energy_weight(method)))
    rate = train.learning_rate or default_learning_rate(method, n_parameters)
    n_epochs = train.num_epochs or default_num_epochs(method)
    filled = replace(train, num_epochs=n_epochs, learning_rate=rate, loss=loss)
    return replace(options, train=filled)


def _choose_task(options: RunOptions, target: TargetOptions, frames: RunFrames) -> Task:
    """Return what the loss is made of: the labels that there are and are wanted."""
    loss = options.train.loss_of(target.name)
    has_forces = loss.forces.weight > 0 and _has(frames.train, "forces")
    has_stress = loss.stress.weight > 0 and _has(frames.train, "stress")
    return Task(target.name, has_forces, has_stress, loss)


def _has(frames: Sequence[LabeledFrame], label: str) -> bool:
    return any(getattr(frame, label) is not None for frame in frames)


def _write_results(
    trainer: Trainer,
    prepared: Prepared,
    loaders: dict[str, BatchLoader],
    report: RunReport,
    options: RunOptions,
) -> None:
    """Evaluate the best model and write adapter and report."""
    folder, is_main = trainer.folder, trainer.ranks.is_main
    # the first process has written the model that all of them read
    trainer.ranks.wait()
    weight = trainer.model.edge_embedder.weight
    best = load_checkpoint(trainer.best_path)
    trainer.model = best.build_model(dtype=weight.dtype, device=weight.device)
    if has_lora(trainer.model) and is_main:
        adapter = extract_adapter(
            trainer.model,
            base_fingerprint=prepared.base_fingerprint,
            base_name=Path(options.finetune.base or "").name,
            targets=[report.target],
            metadata=best.metadata,
        )
        save_adapter(folder / ADAPTER_NAME, adapter)
    if report.best_epoch == 0 and prepared.base is not None:
        logger.warning(
            "no epoch beat the base on the validation set: %s is the base with the new "
            "energy offsets",
            trainer.best_path,
        )
    if options.final_eval and "test" in loaders and report.end != "stopped":
        report.test = trainer.evaluate(loaders["test"], "test errors")
        logger.info("test set: %s", format_errors(report.test))
    if not is_main:
        return
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_atomically(folder / REPORT_NAME, lambda file: _write_text(file, text))


def _write_text(file: Any, text: str) -> None:
    file.write(text.encode())


def _check_folder(folder: Path, is_resumed: bool, may_overwrite: bool) -> None:
    has_run = (folder / LAST_NAME).exists()
    if is_resumed and not has_run:
        raise ConfigError(f"{folder}: nothing to resume, there is no {LAST_NAME}")
    if has_run and not (is_resumed or may_overwrite):
        raise ConfigError(
            f"{folder}: holds a run already; --resume goes on with it, --overwrite "
            "replaces it, -o names another folder"
        )


def _warn_of_changes(path: Path, options: RunOptions) -> None:
    """Warn of options that are not those that the run in the folder began with."""
    if not path.exists():
        return
    before, now = read_options(path), options
    changed = [
        f"{group}.{field}" if group else field
        for group, old, new in (
            ("", before, now),
            ("train", before.train, now.train),
            ("finetune", before.finetune, now.finetune),
        )
        for field, value in vars(old).items()
        if value != getattr(new, field) and field not in ("train", "finetune", "output")
    ]
    if changed:
        logger.warning(
            "resumed with other options than it began with (%s): the result will not "
            "be that of one uninterrupted run",
            ", ".join(changed),
        )


def _refuse_unsupported(options: RunOptions) -> None:
    """Raise for options that are understood but not built yet."""
    if options.train.mixed_precision:
        raise ConfigError(
            "architecture.training.mixed_precision: not supported yet; leave it out"
        )

"""A whole run: read, prepare, train, evaluate, and leave everything in one folder."""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pet_calc.check.finding import Finding
from pet_calc.check.run import CheckReport, check_set
from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
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
from pet_calc.data.label_options import build_label_units
from pet_calc.data.loader import BatchLoader
from pet_calc.data.read_dataset import (
    MOST_CHECKED,
    has_label,
    sample_stored,
    take_frames,
)
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate.metrics import format_errors
from pet_calc.lora.adapter import extract_adapter
from pet_calc.lora.inject import has_lora
from pet_calc.system.atomic import write_text_atomically
from pet_calc.system.cores import CoreWatch
from pet_calc.system.paths import expand_path
from pet_calc.system.ranks import Ranks, join_ranks
from pet_calc.train.datasets import (
    RunFrames,
    choose_target,
    find_of_target,
    read_run_frames,
)
from pet_calc.train.direct import DirectTask, build_direct_loss
from pet_calc.train.domain.forgetting import measure_forgetting
from pet_calc.train.domain.frames import BaseDomain, read_base_domain
from pet_calc.train.domain.replay import build_replay
from pet_calc.train.loaders import build_datasets, build_loaders
from pet_calc.train.loop import BEST_NAME, LAST_NAME, Task, Trainer
from pet_calc.train.provenance import describe_run
from pet_calc.train.recompute import recompute_layers
from pet_calc.train.report import RunReport
from pet_calc.train.rotation import RotationReport, choose_sample, measure_turned
from pet_calc.train.start.composition import set_offsets
from pet_calc.train.start.direct_heads import scale_new_heads
from pet_calc.train.start.model import (
    Prepared,
    build_model,
    count_trainable,
    load_base,
    pin_base,
    set_trainable,
)
from pet_calc.train.steps import choose_predictor

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
    options = replace(options, output=expand_path(options.output))
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
    watch = CoreWatch()
    show_progress = show_progress and ranks.is_main
    folder = Path(options.output)
    _check_folder(folder, is_resumed, may_overwrite)
    # before the first process writes there
    ranks.wait()
    target = choose_target(options)
    options = pin_base(options)
    base = load_base(options)
    frames = read_run_frames(options, show_progress=show_progress)
    placed = replace(options, device=ranks.place(options.device))
    prepared = build_model(base, placed, target, frames)
    domain = read_base_domain(
        prepared, options, frames.train, show_progress=show_progress
    )
    resumed = folder if is_resumed else None
    datasets = _prepare(prepared, options, frames, resumed)
    if not is_resumed:
        _check_data(prepared, options, frames)
    model = prepared.model
    ranks.share_model(model)
    n_trainable, n_parameters = count_trainable(model)
    options = _resolve_defaults(options, n_parameters)
    n_epochs, rate = options.train.num_epochs, options.train.learning_rate
    assert n_epochs is not None  # both are resolved
    assert rate is not None
    task, *other_tasks = _choose_tasks(options, frames)
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        if is_resumed:
            _warn_of_changes(folder / OPTIONS_NAME, options)
        write_options(options, folder / OPTIONS_NAME)
    device = model.edge_embedder.weight.device
    loaders = build_loaders(datasets, options, device, ranks)
    if ranks.size == 1 and device.type == "cpu":
        watch.warn_if_shared(torch.get_num_threads())
    logger.info(
        "training: %d epochs of %d steps, peak learning rate %.2g, loss on %s",
        n_epochs,
        loaders["train"].n_steps,
        rate,
        "; ".join(each.describe() for each in (task, *other_tasks)),
    )
    is_recomputed = options.train.activation_checkpointing
    if is_recomputed:
        recompute_layers(model)
        logger.info("layers are computed again for the gradient, to save memory")
    sample = choose_sample(frames, model.pair_cutoff)
    base_spread: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    if ranks.is_main:
        if is_resumed:
            before = load_checkpoint(folder / LAST_NAME).metadata
            base_spread = before.get("rotation", {}).get("base", {})
        elif base is not None:
            errors = measure_turned(model, prepared.base_output, sample)
            base_spread = errors.spread.to_dict()
        metadata = describe_run(options, target, prepared, frames, domain)
        metadata["rotation"] = {"base": base_spread}
    trainer = Trainer(
        model,
        task,
        loaders["train"],
        loaders["validation"],
        options.train,
        n_epochs=n_epochs,
        learning_rate=rate,
        folder=folder,
        metadata=metadata,
        direct=DirectTask(prepared.direct, build_direct_loss(options, task.loss))
        if prepared.direct.names
        else None,
        replay=build_replay(prepared, options, task, domain.replayed, ranks),
        best_name=f"best_model_{run_name}.ckpt" if run_name else BEST_NAME,
        show_progress=show_progress,
        ranks=ranks,
        other_tasks={other.target: other for other in other_tasks},
    )
    trainer.predictor = choose_predictor(
        not is_recomputed and options.train.compile,
        model,
        [each.target for each in (task, *other_tasks)],
        trainer.estimate_seconds,
        is_mixed=options.train.mixed_precision,
    )
    trainer.smoke_test()
    started = time.monotonic()
    end = trainer.fit(is_resumed=is_resumed, stop_after=stop_after)

    report = RunReport(
        method=options.finetune.method,
        target=", ".join(options.targets),
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
    if end != "stopped":
        report.rotation = RotationReport(sample, base=base_spread)
    _write_results(trainer, prepared, loaders, report, options, domain)
    return report


def _prepare(
    prepared: Prepared,
    options: RunOptions,
    frames: RunFrames,
    resumed_folder: Path | None,
) -> dict[str, GraphDataset]:
    """Set offsets and inject LoRA, or put the resumed model in place.

    Returns the frames, whose neighbour lists go as far as the model does.
    """
    datasets = build_datasets(frames, prepared.model.pair_cutoff)
    if resumed_folder is not None:
        checkpoint = load_checkpoint(resumed_folder / LAST_NAME)
        weight = prepared.model.edge_embedder.weight
        prepared.model = checkpoint.build_model(
            dtype=weight.dtype, device=weight.device
        )
    else:
        _set_all_offsets(prepared, options, frames, datasets["train"])
    set_trainable(prepared, options)
    return datasets


def _set_all_offsets(
    prepared: Prepared, options: RunOptions, frames: RunFrames, graphs: GraphDataset
) -> None:
    """Set the energies per element of each target from its own frames, in place."""
    for name, target in _name_targets(options).items():
        indices = find_of_target(frames.train, name)
        own = take_frames(frames.train, indices)
        few = sample_stored(own, MOST_OFFSET_FRAMES)
        set_offsets(
            prepared.model,
            target,
            options.train.atomic_baseline,
            few,
            [frame for frame in frames.isolated if frame.target == name],
            has_base=prepared.base is not None,
            scale_targets=options.train.scale_targets,
            batch_size=options.train.frames_per_step,
            graphs=graphs.select(indices.tolist()) if few is own else None,
            new_elements=prepared.new_numbers if not name else [],
        )
    if options.train.scale_targets and prepared.direct.new:
        few = sample_stored(frames.train, MOST_OFFSET_FRAMES)
        scale_new_heads(prepared.model, prepared.direct, few)


def _name_targets(options: RunOptions) -> dict[str, TargetOptions]:
    """Return the energies by the name that their frames have; the main one has none."""
    main = choose_target(options).name
    return {"" if n == main else n: t for n, t in options.energy_targets.items()}


def _check_data(prepared: Prepared, options: RunOptions, frames: RunFrames) -> None:
    """Check each target's frames against themselves and against the base.

    Raises:
        DataError: for what makes training pointless.
    """
    for name, target in _name_targets(options).items():
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
        baseline = options.train.atomic_baseline
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


def _resolve_defaults(options: RunOptions, n_parameters: int) -> RunOptions:
    """Return the options with what depends on method and model size filled in."""
    train, method = options.train, options.finetune.method
    loss = dict(train.loss)
    for name, target in options.targets.items():
        is_energy = target.kind == "energy"
        weight = default_energy_weight(method) if is_energy else LossTerm.weight
        loss.setdefault(name, LossOptions(LossTerm(weight=weight)))
    rate = train.learning_rate or default_learning_rate(method, n_parameters)
    n_epochs = train.num_epochs or default_num_epochs(
        method, is_paired=train.consistency > 0
    )
    filled = replace(train, num_epochs=n_epochs, learning_rate=rate, loss=loss)
    return replace(options, train=filled)


def _choose_tasks(options: RunOptions, frames: RunFrames) -> list[Task]:
    """Return what each loss is made of: the labels that there are and are wanted.

    The main target comes first.
    """
    tasks = []
    for name, target in _name_targets(options).items():
        loss = options.train.loss_of(target.name)
        own = take_frames(frames.train, find_of_target(frames.train, name))
        has_forces = loss.forces.weight > 0 and has_label(own, "forces")
        has_stress = loss.stress.weight > 0 and has_label(own, "stress")
        tasks.append(Task(target.name, has_forces, has_stress, loss))
    return tasks


def _write_results(
    trainer: Trainer,
    prepared: Prepared,
    loaders: dict[str, BatchLoader],
    report: RunReport,
    options: RunOptions,
    domain: BaseDomain,
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
            targets=[*options.energy_targets, *prepared.direct.names],
            new_elements=prepared.new_numbers,
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
    if report.rotation is not None:
        report.rotation.measure(trainer.model, prepared.target)
        logger.info("rotation: %s", report.rotation.to_text())
        for warning in report.rotation.find_warnings():
            logger.warning("%s", warning)
        best.metadata["rotation"] = report.rotation.to_dict()
        save_checkpoint(trainer.best_path, best)
    if domain.retained and report.end != "stopped":
        report.forgetting = measure_forgetting(
            trainer.model,
            domain.retained,
            domain.before,
            (prepared.target, prepared.source),
            prepared.base_offsets,
        )
        logger.info("forgetting: %s", report.forgetting.to_text())
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_text_atomically(folder / REPORT_NAME, text)


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

"""A whole run: read, prepare, train, evaluate, and leave everything in one folder."""

import logging
import time
from functools import partial
from pathlib import Path

import torch

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import RunOptions, replace, write_options
from pet_calc.data.loader import BatchLoader
from pet_calc.errors import ConfigError
from pet_calc.model.memory import read_peak_memory
from pet_calc.system.cores import CoreWatch
from pet_calc.system.paths import expand_path
from pet_calc.system.ranks import Ranks, join_ranks
from pet_calc.train.datasets import (
    RunFrames,
    choose_target,
    read_run_frames,
)
from pet_calc.train.domain.frames import BaseDomain, read_base_domain
from pet_calc.train.domain.replay import build_replay
from pet_calc.train.facts import describe_start, keep_warnings
from pet_calc.train.folder import LAST_NAME, RunFolder, name_best
from pet_calc.train.keep import RunKeeper
from pet_calc.train.loaders import build_datasets, build_loaders
from pet_calc.train.loop import Trainer
from pet_calc.train.objective import TrainedSet
from pet_calc.train.physics import choose_check
from pet_calc.train.progress import RunLog, keep_log
from pet_calc.train.provenance import describe_run
from pet_calc.train.recompute import recompute_layers
from pet_calc.train.report import RunReport
from pet_calc.train.results import write_results
from pet_calc.train.rotation import (
    RotationReport,
    Sample,
    choose_sample,
    measure_turned,
)
from pet_calc.train.start.check import check_data
from pet_calc.train.start.model import (
    Prepared,
    build_model,
    count_trainable,
    load_base,
    pin_base,
)
from pet_calc.train.start.prepare import prepare_model
from pet_calc.train.start.resume import OPTIONS_NAME, check_resumed
from pet_calc.train.start.tasks import build_objectives, choose_tasks, resolve_defaults
from pet_calc.train.step_runner import StepRunner
from pet_calc.train.steps import choose_predictor
from pet_calc.train.validation import still_improves

logger = logging.getLogger(__name__)


def run_training(
    options: RunOptions,
    *,
    is_resumed: bool = False,
    may_overwrite: bool = False,
    stop_after: int | None = None,
    show_progress: bool = True,
    run_name: str = "",
    accepts_new_data: bool = False,
) -> RunReport:
    """Train as the options say, and write the results to ``options.output``.

    The folder then holds ``best_model.ckpt``, ``last_model.ckpt`` (to resume from),
    ``adapter.safetensors`` (with LoRA), ``log.csv``, ``log.jsonl``, ``run.log``,
    ``report.json`` and ``options_resolved.yaml``, and in ``predictions/`` those of some
    frames before and after.

    Args:
        options: what to do.
        is_resumed: go on with the run in the folder.
        may_overwrite: allow a new run in a folder that holds one.
        stop_after: end this session after so many epochs in all.
        show_progress: show progress bars.
        run_name: goes into the names of the model files, ``best_model_NAME.ckpt``.
        accepts_new_data: go on with other data than the run began with.

    Raises:
        PetCalcError: for options, data or checkpoints that cannot be used; before
            the first step wherever possible.
    """
    options.check_ready()
    options = replace(options, output=expand_path(options.output))
    with (
        keep_warnings() as warnings,
        keep_log() as log,
        join_ranks(options.device) as ranks,
    ):
        report = _run(
            options,
            ranks,
            is_resumed,
            may_overwrite,
            stop_after,
            show_progress,
            run_name,
            accepts_new_data,
            warnings,
            log,
        )
        log.write(report.to_text())
        return report


def _run(
    options: RunOptions,
    ranks: Ranks,
    is_resumed: bool,
    may_overwrite: bool,
    stop_after: int | None,
    show_progress: bool,
    run_name: str,
    accepts_new_data: bool,
    warnings: list[str],
    log: RunLog,
) -> RunReport:
    """Do what ``run_training`` says, as one of its processes."""
    watch = CoreWatch()
    show_progress = show_progress and ranks.is_main
    path = Path(options.output)
    _check_folder(path, is_resumed, may_overwrite)
    # before the first process writes there
    ranks.wait()
    options = pin_base(options)
    base = load_base(options)
    frames = read_run_frames(options, show_progress=show_progress)
    placed = replace(options, device=ranks.place(options.device))
    prepared = build_model(base, placed, choose_target(options), frames)
    domain = read_base_domain(
        prepared, options, frames.train, show_progress=show_progress
    )
    is_unseen = not is_resumed or check_resumed(
        path / LAST_NAME, options, prepared, accepts_new_data=accepts_new_data
    )
    datasets = build_datasets(frames, prepared.model.pair_cutoff)
    prepare_model(
        prepared,
        options,
        frames,
        datasets["train"],
        path / LAST_NAME if is_resumed else None,
    )
    if is_unseen:
        check_data(prepared, options, frames)
    ranks.share_model(prepared.model)
    n_trainable, n_parameters = count_trainable(prepared.model)
    options = resolve_defaults(options, n_parameters, len(frames.train))
    if ranks.is_main:
        path.mkdir(parents=True, exist_ok=True)
        write_options(options, path / OPTIONS_NAME)
        log.open(path, is_resumed=is_resumed)
    device = prepared.model.edge_embedder.weight.device
    loaders = build_loaders(datasets, options, device, ranks)
    if ranks.size == 1 and device.type == "cpu":
        watch.warn_if_shared(torch.get_num_threads())
    sample = choose_sample(frames, options.main_energy, prepared.model.pair_cutoff)
    base_spread: dict[str, float] = {}
    if ranks.is_main:
        base_spread = _measure_base(prepared, sample, path, is_resumed)
    folder = RunFolder(
        path,
        name_best(path, run_name, is_resumed=is_resumed),
        {
            **describe_run(options, prepared, frames, domain),
            "rotation": {"base": base_spread},
        }
        if ranks.is_main
        else {},
    )
    runner = _build_runner(prepared, options, frames, domain, loaders["train"], ranks)
    trainer = Trainer(
        runner,
        loaders["validation"],
        options.train,
        folder,
        show_progress=show_progress,
    )
    runner.smoke_test()
    keeper = RunKeeper(
        path,
        frames,
        loaders,
        runner,
        target=prepared.target,
        facts=describe_start(prepared, frames, folder.metadata, ranks.size),
        warnings=warnings,
    )
    if is_resumed:
        keeper.resume()
    else:
        keeper.begin(trainer, loaders.get("test") if options.final_eval else None)
    keeper.save_facts()
    report = _fit(trainer, options, is_resumed, stop_after)
    report.n_trainable, report.n_parameters = n_trainable, n_parameters
    if report.end != "stopped":
        report.rotation = RotationReport(sample, base=base_spread)
    if report.end != "stopped" and options.final_validation:
        report.physics = choose_check(
            frames, options.main_energy, prepared.model.pair_cutoff
        )
    test = loaders.get("test")
    write_results(trainer, prepared, test, report, options, domain, keeper)
    return report


def _fit(
    trainer: Trainer, options: RunOptions, is_resumed: bool, stop_after: int | None
) -> RunReport:
    """Train, and return what came out but for the test errors."""
    started = time.monotonic()
    end = trainer.fit(is_resumed=is_resumed, stop_after=stop_after)
    state = trainer.state
    improves = still_improves(state.losses, state.epoch - state.best_epoch)
    return RunReport(
        method=options.finetune.method,
        target=", ".join(options.targets),
        end=end,
        n_steps=state.step,
        n_epochs=trainer.n_epochs,
        next_epochs=2 * trainer.n_epochs if end == "finished" and improves else 0,
        learning_rate=trainer.learning_rate,
        restarts=state.restarts,
        best_epoch=state.best_epoch,
        seconds=round(time.monotonic() - started, 2),
        zero_step=trainer.zero_metrics,
        validation=trainer.best_metrics,
        best_model=str(trainer.folder.best),
        signal=trainer.signal if end == "interrupted" else 0,
        peak_memory=read_peak_memory(trainer.runner.device),
    )


def _build_runner(
    prepared: Prepared,
    options: RunOptions,
    frames: RunFrames,
    domain: BaseDomain,
    loader: BatchLoader,
    ranks: Ranks,
) -> StepRunner:
    """Return what computes the steps: objectives, replay, and who predicts."""
    model, train = prepared.model, options.train
    tasks = choose_tasks(options, frames)
    logger.info(
        "training: %d epochs of %d steps, peak learning rate %.2g, loss on %s",
        train.num_epochs,
        loader.n_steps,
        train.learning_rate,
        "; ".join(task.describe() for task in tasks),
    )
    if train.activation_checkpointing:
        recompute_layers(model)
        logger.info("layers are computed again for the gradient, to save memory")
    training = TrainedSet(loader, build_objectives(options, tasks, prepared.direct))
    replayed = build_replay(prepared, options, tasks[0], domain.replayed, ranks)
    build = partial(StepRunner, model, training, replayed, ranks=ranks)

    def estimate() -> float:
        assert train.num_epochs is not None  # resolved
        return build().estimate_seconds(train.num_epochs * loader.n_steps)

    predictor = choose_predictor(
        not train.activation_checkpointing and train.compile,
        model,
        [task.target for task in tasks],
        estimate,
        is_mixed=train.mixed_precision,
    )
    return build(predictor=predictor)


def _measure_base(
    prepared: Prepared, sample: Sample, folder: Path, is_resumed: bool
) -> dict[str, float]:
    """Return the base's spread over orientations, empty without a base."""
    if is_resumed:
        before = load_checkpoint(folder / LAST_NAME).metadata
        found: dict[str, float] = before.get("rotation", {}).get("base", {})
        return found
    if prepared.base is None:
        return {}
    return measure_turned(prepared.model, prepared.base_target, sample).spread.to_dict()


def _check_folder(folder: Path, is_resumed: bool, may_overwrite: bool) -> None:
    has_run = (folder / LAST_NAME).exists()
    if is_resumed and not has_run:
        raise ConfigError(f"{folder}: nothing to resume, there is no {LAST_NAME}")
    if has_run and not (is_resumed or may_overwrite):
        raise ConfigError(
            f"{folder}: holds a run already; --resume goes on with it, --overwrite "
            "replaces it, -o names another folder"
        )

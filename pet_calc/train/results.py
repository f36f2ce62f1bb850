"""What a run leaves at its end: test errors, adapter, report."""

import json
import logging
from pathlib import Path

from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.config import RunOptions
from pet_calc.data.loader import BatchLoader
from pet_calc.evaluate.metrics import format_errors
from pet_calc.lora.adapter import extract_adapter
from pet_calc.lora.inject import has_lora
from pet_calc.system.atomic import write_text_atomically
from pet_calc.train.divergence import describe_late_divergence, describe_restarts
from pet_calc.train.domain.forgetting import measure_forgetting
from pet_calc.train.domain.frames import BaseDomain
from pet_calc.train.keep import RunKeeper
from pet_calc.train.loop import Trainer
from pet_calc.train.report import RunReport
from pet_calc.train.start.model import Prepared
from pet_calc.train.uncertainty import add_uncertainties

logger = logging.getLogger(__name__)

ADAPTER_NAME = "adapter.safetensors"
REPORT_NAME = "report.json"


def write_results(
    trainer: Trainer,
    prepared: Prepared,
    test_loader: BatchLoader | None,
    report: RunReport,
    options: RunOptions,
    domain: BaseDomain,
    keeper: RunKeeper,
) -> None:
    """Evaluate the best model and write adapter, kept predictions and report."""
    folder, runner = trainer.folder, trainer.runner
    # the first process has written the model that all of them read
    runner.ranks.wait()
    weight = runner.model.edge_embedder.weight
    best = load_checkpoint(folder.best)
    model = best.build_model(dtype=weight.dtype, device=weight.device)
    if has_lora(model) and runner.ranks.is_main:
        adapter = extract_adapter(
            model,
            base_fingerprint=prepared.base_fingerprint,
            base_name=Path(options.finetune.base or "").name,
            targets=[*options.energy_targets, *prepared.direct.names],
            new_elements=prepared.new_numbers,
            metadata=best.metadata,
        )
        save_adapter(folder.path / ADAPTER_NAME, adapter)
    if report.best_epoch == 0:
        warn_of_the_start(report, has_base=prepared.base is not None)
    if late := describe_late_divergence(trainer.state.losses):
        logger.warning("%s", late)
    is_over = report.end != "stopped"
    if options.final_eval and test_loader is not None and is_over:
        report.test = runner.evaluate(
            test_loader,
            model,
            desc="test errors",
            hide=trainer.hide_bar,
            keeper=keeper.watch("test"),
        )
        logger.info("test set: %s", format_errors(report.test))
    if options.train.uncertainty and is_over:
        report.uncertainty = add_uncertainties(
            best, runner, trainer.validation, options.seed
        )
    for part in ("train", "validation"):
        keeper.run(part, model)
    kept = keeper.save_after(model)
    if not runner.ranks.is_main:
        return
    report.kept, report.worst = kept["kept"], kept["worst"]
    if report.uncertainty:
        best.metadata["uncertainty"] = {
            name: calibration.to_dict()
            for name, calibration in report.uncertainty.items()
        }
        save_checkpoint(folder.best, best)
    if report.rotation is not None:
        report.rotation.measure(model, prepared.target)
        logger.info("rotation: %s", report.rotation.to_text())
        for warning in report.rotation.find_warnings():
            logger.warning("%s", warning)
        best.metadata["rotation"] = report.rotation.to_dict()
        save_checkpoint(folder.best, best)
    if report.physics is not None:
        report.physics.measure(model, prepared.target)
        logger.info("physics: %s", report.physics.to_text())
    if domain.retained and is_over:
        report.forgetting = measure_forgetting(
            model,
            domain.retained,
            domain.before,
            (prepared.target, prepared.source),
            prepared.base_composition,
        )
        logger.info("forgetting: %s", report.forgetting.to_text())
    keeper.save_facts()
    report.facts = keeper.facts.to_dict()
    report.test_before = report.facts.pop("test_before")
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_text_atomically(folder.path / REPORT_NAME, text)


def warn_of_the_start(report: RunReport, *, has_base: bool) -> None:
    """Say that the best model is the one before training, and why."""
    what = "the base with the new energies per element" if has_base else "untrained"
    if report.end == "diverged":
        rates = [each["learning_rate"] for each in report.restarts]
        logger.warning(
            "training diverged at every learning rate from %.2g to %.2g: %s is %s. "
            "Look for labels that are wrong or contradict each other with `pet-calc "
            "check`; or give a rate far below with --lr (and --resume)",
            rates[0],
            rates[-1],
            report.best_model,
            what,
        )
    elif has_base and report.end != "stopped":
        why = ""
        if report.restarts:
            why = (
                f". Training {describe_restarts(report.restarts)}; perhaps "
                f"{report.learning_rate:.2g} is still too high: give a lower --lr"
            )
        logger.warning(
            "no epoch beat the base on the validation set: %s is %s%s",
            report.best_model,
            what,
            why,
        )

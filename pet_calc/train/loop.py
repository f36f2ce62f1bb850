"""The training loop: steps, validation, best and last checkpoints, exact resume."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pet_calc.checkpoint import Checkpoint, load_training_state, save_checkpoint
from pet_calc.config import LossOptions, TrainOptions, default_ema_decay
from pet_calc.data.graph import Labels
from pet_calc.data.loader import BatchLoader
from pet_calc.errors import CheckpointError, DataError, ModelError
from pet_calc.evaluate.metrics import Metrics
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, predict
from pet_calc.model.pet import PET
from pet_calc.train.logbook import Logbook
from pet_calc.train.loss import compute_loss
from pet_calc.train.optim import (
    WeightAverage,
    build_optimizer,
    compute_learning_rate,
    set_learning_rate,
)
from pet_calc.train.signals import StopSignal

logger = logging.getLogger(__name__)

BEST_NAME = "best_model.ckpt"
LAST_NAME = "last_model.ckpt"


@dataclass
class Progress:
    """Where a run stands; what is saved to go on from there."""

    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches done in the epoch that has begun."""
    step: int = 0
    """Optimiser steps taken."""
    best_metric: float = math.inf
    best_epoch: int = 0
    loss_sum: float = 0.0
    """Training loss summed over the batches of this epoch."""
    seconds: float = 0.0
    """Time spent, earlier sessions included."""


@dataclass(frozen=True)
class Task:
    """What is to be learned."""

    target: str
    """Name of the energy output."""
    has_forces: bool
    has_stress: bool
    loss: LossOptions


class Trainer:
    """Trains a prepared model: its trainable parameters decide what changes."""

    def __init__(
        self,
        model: PET,
        task: Task,
        train_loader: BatchLoader,
        val_loader: BatchLoader,
        options: TrainOptions,
        *,
        n_epochs: int,
        learning_rate: float,
        folder: Path,
        metadata: dict[str, Any],
        best_name: str = BEST_NAME,
        show_progress: bool = True,
    ) -> None:
        self.model = model
        self.task = task
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.options = options
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.folder = folder
        self.metadata = metadata
        self.best_path = folder / best_name
        # tqdm's None: hidden where the output is no terminal
        self._hide_bar = None if show_progress else True
        self.progress = Progress()
        self.zero_metrics: dict[str, float] = {}
        self.best_metrics: dict[str, float] = {}
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ModelError("nothing to train: no parameter is trainable")
        self._optimizer = build_optimizer(model, options.weight_decay)
        self._average: WeightAverage | None = None
        decay = options.ema_decay
        if decay is None:
            decay = default_ema_decay(self._count_steps())
        if decay > 0:
            self._average = WeightAverage(model, decay)
        self._stop = StopSignal()

    def smoke_test(self) -> None:
        """Run one training step's forward and backward, and throw it away.

        Raises:
            DataError: if the loss or a gradient is not finite.
        """
        batch, labels = next(self.train_loader.iterate(0))
        loss = self._compute_loss(batch, labels)
        loss.backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        is_finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        self._optimizer.zero_grad(set_to_none=True)
        if not gradients or not is_finite or not math.isfinite(float(loss.detach())):
            raise DataError(
                "the first training step gives no finite loss and gradient "
                f"(loss {float(loss.detach())}); check the labels and structures"
            )

    def fit(self, *, is_resumed: bool = False, stop_after: int | None = None) -> str:
        """Train to the end, or until stopped.

        Args:
            is_resumed: go on from ``last_model.ckpt`` in the folder.
            stop_after: leave after this many epochs in all, to be resumed later.

        Returns:
            Why it ended: ``finished``, ``stopped``, ``interrupted`` or ``early``.
        """
        keep = None
        if is_resumed:
            self._load_state()
            keep = self.progress.epoch
        logbook = Logbook(self.folder, keep_until_epoch=keep)
        if not is_resumed:
            self._start()
        n_steps = self._count_steps()
        reason = "finished"
        bar = tqdm(
            total=n_steps,
            initial=self.progress.step,
            disable=self._hide_bar,
            desc="training",
            unit="step",
            dynamic_ncols=True,
        )
        with bar, self._stop.catch():
            while self.progress.epoch < self.n_epochs:
                if stop_after is not None and self.progress.epoch >= stop_after:
                    reason = "stopped"
                    break
                if not self._run_epoch(n_steps, bar):
                    reason = "interrupted"
                    break
                row = self._finish_epoch(n_steps)
                logbook.add(row)
                bar.set_postfix_str(_describe_row(row), refresh=False)
                if bar.disable and self._is_worth_a_line(row["epoch"]):
                    logger.info("%s", _describe_row(row))
                if self._is_stale():
                    reason = "early"
                    break
        if self._stop.name:
            logger.warning(
                "%s: saved after step %d; add --resume to go on",
                self._stop.name,
                self.progress.step,
            )
        return reason

    def evaluate(self, loader: BatchLoader, desc: str = "") -> dict[str, float]:
        """Return errors (eV, Å) and the loss of the model as it is."""
        metrics = Metrics()
        loss_sum, n_batches = 0.0, 0
        batches: Any = loader.iterate()
        if desc:
            batches = tqdm(
                batches, total=len(loader.plan()), desc=desc, leave=False,
                disable=self._hide_bar, unit="batch",
            )  # fmt: skip
        for batch, labels in batches:
            prediction = self._predict(batch, is_training=False)
            labels = self._subtract_composition(batch, labels)
            metrics.add(prediction, labels)
            parts = compute_loss(prediction, labels, _volumes(batch), self.task.loss)
            loss_sum += float(parts.total)
            n_batches += 1
        values = metrics.to_dict()
        values["loss"] = loss_sum / max(1, n_batches)
        return values

    def _start(self) -> None:
        """Measure the model before any step; it stays the best until beaten."""
        self.zero_metrics = self.evaluate(self.val_loader, "zero-step errors")
        self.progress.best_metric = self._compute_metric(self.zero_metrics)
        self.best_metrics = self.zero_metrics
        self._save_best()
        self._save_state()

    def _count_steps(self) -> int:
        """Return the steps of the whole run; packed epochs differ in their number."""
        return sum(len(self.train_loader.plan(e)) for e in range(self.n_epochs))

    def _run_epoch(self, n_steps: int, bar: Any) -> bool:
        """Take the (remaining) steps of one epoch; False if a signal came."""
        progress = self.progress
        started = time.monotonic()
        try:
            batches = self.train_loader.iterate(progress.epoch, start=progress.batch)
            for batch, labels in batches:
                if self._stop.name:
                    return False
                rate = compute_learning_rate(
                    progress.step,
                    n_steps,
                    self.learning_rate,
                    self.options.warmup_fraction,
                )
                progress.loss_sum += self._take_step(batch, labels, rate)
                progress.step += 1
                progress.batch += 1
                bar.update(1)
            return True
        finally:
            progress.seconds += time.monotonic() - started
            if self._stop.name:
                self._save_state()

    def _take_step(self, batch: Batch, labels: Labels, rate: float) -> float:
        set_learning_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._compute_loss(batch, labels)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self.options.grad_clip_norm
        )
        if not math.isfinite(float(norm)):
            raise DataError(
                f"step {self.progress.step}: the gradient is not finite; lower the "
                "learning rate, or look for broken labels with `pet-calc check`"
            )
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self.model)
        return float(loss.detach())

    def _finish_epoch(self, n_steps: int) -> dict[str, Any]:
        """Validate, keep the best, save the state; return the epoch's log row."""
        progress = self.progress
        started = time.monotonic()
        train_loss = progress.loss_sum / max(1, progress.batch)
        progress.epoch += 1
        progress.batch, progress.loss_sum = 0, 0.0
        with self._averaged_weights():
            values = self.evaluate(self.val_loader)
            metric = self._compute_metric(values)
            is_best = metric < progress.best_metric
            if is_best:
                progress.best_metric, progress.best_epoch = metric, progress.epoch
                self.best_metrics = values
                self._save_best()
        progress.seconds += time.monotonic() - started
        is_last = progress.epoch == self.n_epochs
        if is_last or progress.epoch % self.options.checkpoint_interval == 0 or is_best:
            self._save_state()
        rate = compute_learning_rate(
            progress.step - 1, n_steps, self.learning_rate, self.options.warmup_fraction
        )
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "learning_rate": rate,
            "train_loss": train_loss,
            "metric": metric,
            "is_best": is_best,
            "seconds": round(progress.seconds, 3),
        }
        row.update({f"val_{name}": value for name, value in values.items()})
        return row

    def _compute_metric(self, values: dict[str, float]) -> float:
        """Return the number that picks the best model; smaller is better."""
        if self.options.best_model_metric == "loss":
            return values["loss"]
        suffix = self.options.best_model_metric.split("_", 1)[0]
        product = 1.0
        for name in ("energy", "forces", "stress"):
            product *= values.get(f"{name}_{suffix}", 1.0)
        return product if math.isfinite(product) else math.inf

    def _is_worth_a_line(self, epoch: int) -> bool:
        """Whether to log this epoch where no bar shows it: about 20 lines a run."""
        interval = max(self.options.log_interval, math.ceil(self.n_epochs / 20))
        return epoch % interval == 0 or epoch == self.n_epochs

    def _is_stale(self) -> bool:
        patience = self.options.early_stopping_patience
        if patience is None:
            return False
        return self.progress.epoch - self.progress.best_epoch >= patience

    def _predict(self, batch: Batch, *, is_training: bool) -> Prediction:
        return predict(
            self.model,
            batch,
            self.task.target,
            with_forces=self.task.has_forces,
            with_stress=self.task.has_stress,
            with_composition=False,
            is_training=is_training,
        )

    def _compute_loss(self, batch: Batch, labels: Labels) -> Tensor:
        prediction = self._predict(batch, is_training=True)
        labels = self._subtract_composition(batch, labels)
        return compute_loss(prediction, labels, _volumes(batch), self.task.loss).total

    def _subtract_composition(self, batch: Batch, labels: Labels) -> Labels:
        """Return labels whose energy lacks the composition part, as predictions do."""
        per_atom = self.model.composition(batch, self.task.target).squeeze(1)
        energy = labels.energy.index_add(0, batch.system_of_atom, -per_atom)
        return labels._replace(energy=energy)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights into the model for a while."""
        if self._average is None:
            yield
            return
        self._average.swap(self.model)
        try:
            yield
        finally:
            self._average.swap(self.model)

    def _save_best(self) -> None:
        metadata = dict(self.metadata)
        metadata["epoch"] = self.progress.epoch
        metadata["validation"] = dict(self.best_metrics)
        checkpoint = Checkpoint.from_model(self.model, metadata=metadata)
        save_checkpoint(self.best_path, checkpoint)

    def _save_state(self) -> None:
        """Write ``last_model.ckpt``: the weights and all that a resumed run needs."""
        state = {
            "progress": dict(vars(self.progress)),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "zero_metrics": self.zero_metrics,
            "best_metrics": self.best_metrics,
            "n_epochs": self.n_epochs,
        }
        checkpoint = Checkpoint.from_model(self.model, metadata=self.metadata)
        save_checkpoint(self.folder / LAST_NAME, checkpoint, training_state=state)

    def _load_state(self) -> None:
        path = self.folder / LAST_NAME
        state = load_training_state(path)
        if state is None:
            raise CheckpointError(f"{path}: holds no training state to resume from")
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None and state["average"] is not None:
            self._average.load_state_dict(state["average"])
        self.progress = Progress(**state["progress"])
        self.zero_metrics = dict(state["zero_metrics"])
        self.best_metrics = dict(state["best_metrics"])
        if state["n_epochs"] != self.n_epochs:
            logger.warning(
                "the run was planned for %d epochs and goes on to %d: the learning "
                "rate now follows the new length",
                state["n_epochs"],
                self.n_epochs,
            )


def _volumes(batch: Batch) -> Tensor:
    return torch.det(batch.cells.to(torch.float64)).abs()


def _describe_row(row: dict[str, Any]) -> str:
    parts = [f"epoch {row['epoch']}"]
    if "val_energy_mae" in row:
        parts.append(f"E {1000 * row['val_energy_mae']:.2f} meV/atom")
    if "val_forces_mae" in row:
        parts.append(f"F {1000 * row['val_forces_mae']:.1f} meV/Å")
    return ", ".join(parts)

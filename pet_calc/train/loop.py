"""The training loop: steps, validation, best and last checkpoints, exact resume."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from pet_calc.checkpoint import Checkpoint, load_training_state, save_checkpoint
from pet_calc.config import TrainOptions, default_ema_decay
from pet_calc.data.graph import Labels
from pet_calc.data.loader import BatchLoader, MicroBatch, Step
from pet_calc.errors import CheckpointError, ConfigError, DataError, ModelError
from pet_calc.evaluate.metrics import Metrics, merge_by_target
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.pet import PET
from pet_calc.system.ranks import Ranks
from pet_calc.train.direct import DirectTask
from pet_calc.train.logbook import Logbook
from pet_calc.train.loss import compute_consistency, compute_loss, compute_share
from pet_calc.train.memory import (
    MemoryBound,
    add_gradient,
    choose_bound,
    describe_frame,
    measure_memory,
)
from pet_calc.train.optim import (
    WeightAverage,
    build_optimizer,
    compute_learning_rate,
    set_learning_rate,
)
from pet_calc.train.signals import StopSignal
from pet_calc.train.steps import StepPredictor
from pet_calc.train.task import Progress, Task

if TYPE_CHECKING:
    from pet_calc.train.domain.replay import ReplayTask

logger = logging.getLogger(__name__)

BEST_NAME = "best_model.ckpt"
LAST_NAME = "last_model.ckpt"


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
        direct: DirectTask | None = None,
        replay: "ReplayTask | None" = None,
        show_progress: bool = True,
        ranks: Ranks | None = None,
        other_tasks: dict[str, Task] | None = None,
    ) -> None:
        self.model = model
        self.predictor = StepPredictor()
        self.task = task
        self.other_tasks = other_tasks or {}
        self.ranks = ranks or Ranks()
        self.bound = MemoryBound(train_loader.most_tokens)
        self._device = model.edge_embedder.weight.device
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.options = options
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.folder = folder
        self.metadata = metadata
        self.best_path = folder / best_name
        self.direct = direct
        self.replay = replay
        # tqdm's None: hidden where the output is no terminal
        self._hide_bar = None if show_progress else True
        self.progress = Progress()
        self.zero_metrics: dict[str, float] = {}
        self.best_metrics: dict[str, float] = {}
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ModelError("nothing to train: no parameter is trainable")
        self._optimizer = build_optimizer(
            model, options.weight_decay, options.optimizer
        )
        self._average: WeightAverage | None = None
        decay = options.ema_decay
        if decay is None:
            decay = default_ema_decay(self._count_steps())
        if decay > 0:
            self._average = WeightAverage(model, decay)
        self._stop = StopSignal()

    def estimate_seconds(self) -> float:
        """Return how long all steps would take, by trying one and throwing it away."""
        step = next(self.train_loader.iterate_steps(0))
        for _ in range(2):  # the first one warms up
            started = time.monotonic()
            self._accumulate(step)
            seconds = time.monotonic() - started
        self._optimizer.zero_grad(set_to_none=True)
        (total,) = self.ranks.sum([seconds], self._device)
        return self._count_steps() * total / self.ranks.size

    def smoke_test(self) -> None:
        """Take one training step's forward and backward, and throw it away.

        What it needs in memory decides how much later ones try at once, unless the
        options say it.

        Raises:
            DataError: if the loss or a gradient is not finite.
        """
        step = next(self.train_loader.iterate_steps(0))
        with measure_memory(self._device) as memory:
            loss = self._accumulate(step)
        memory["bytes"] += self.predictor.count_bytes()
        self.ranks.sum_gradients(self._parameters)
        (loss,) = self.ranks.sum([loss], self._device)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        is_finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        self._optimizer.zero_grad(set_to_none=True)
        if not gradients or not is_finite or not math.isfinite(loss):
            raise DataError(
                "the first training step gives no finite loss and gradient "
                f"(loss {loss}); check the labels and structures"
            )
        if self.bound.most_tokens is None and step.parts:
            largest = max(part.n_tokens for part in step.parts)
            self.bound.most_tokens = choose_bound(
                memory["bytes"], largest, self._device, n_ranks=self.ranks.local_size
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
        logbook = None
        if self.ranks.is_main:
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
                if logbook is not None:
                    logbook.add(row)
                bar.set_postfix_str(_describe_row(row), refresh=False)
                if bar.disable and self._is_worth_a_line(row["epoch"]):
                    logger.info("%s", _describe_row(row))
                if self._is_stale():
                    reason = "early"
                    break
        if logbook is not None:
            logbook.close()
        if self._stop.is_set:
            logger.warning(
                "%s: saved after step %d; add --resume to go on",
                self._stop.name or "signal to another process",
                self.progress.step,
            )
        return reason

    def evaluate(self, loader: BatchLoader, desc: str = "") -> dict[str, float]:
        """Return errors (eV, Å) and the loss of the model as it is."""
        metrics = {name: Metrics() for name in ("", *self.other_tasks)}
        loss_sum = 0.0
        steps: Any = loader.iterate_steps()
        if desc:
            steps = tqdm(
                steps, total=loader.n_steps, desc=desc, leave=False,
                disable=self._hide_bar, unit="batch",
            )  # fmt: skip
        name_frame = describe_frame(loader.dataset)
        for step in steps:

            def compute(part: MicroBatch, step: Step = step) -> float:
                prediction, labels, share = self._compute_share(part, step, False)
                if self.direct is not None and not part.target:
                    self.direct.add_errors(self.model, part)
                metrics[part.target].add(prediction, labels)
                return float(share)

            loss_sum += sum(self.bound.run(step, compute, name_frame))
        for part_metrics in metrics.values():
            part_metrics.merge_over(self.ranks, self._device)
        (loss_sum,) = self.ranks.sum([loss_sum], self._device)
        values = merge_by_target(metrics, self.task.target)
        if self.direct is not None:
            direct = self.direct.pop_metrics()
            direct.merge_over(self.ranks, self._device)
            values.update(
                {f"direct_{name}": value for name, value in direct.to_dict().items()}
            )
        values["loss"] = loss_sum / max(1, loader.n_steps)
        return values

    def _start(self) -> None:
        """Measure the model before any step; it stays the best until beaten."""
        self.zero_metrics = self.evaluate(self.val_loader, "zero-step errors")
        self.progress.best_metric = self._compute_metric(self.zero_metrics)
        self.best_metrics = self.zero_metrics
        self._save_best()
        self._save_state()

    def _count_steps(self) -> int:
        """Return the steps of the whole run."""
        return self.n_epochs * self.train_loader.n_steps

    def _run_epoch(self, n_steps: int, bar: Any) -> bool:
        """Take the (remaining) steps of one epoch; False if a signal came."""
        progress = self.progress
        started = time.monotonic()
        try:
            steps = self.train_loader.iterate_steps(
                progress.epoch, start=progress.batch
            )
            for step in steps:
                if self.ranks.any(self._stop.is_set, self._device):
                    self._stop.is_set = True
                    return False
                rate = compute_learning_rate(
                    progress.step,
                    n_steps,
                    self.learning_rate,
                    self.options.warmup_fraction,
                )
                progress.loss_sum += self._take_step(step, rate)
                progress.step += 1
                progress.batch += 1
                bar.update(1)
            return True
        finally:
            progress.seconds += time.monotonic() - started
            if self._stop.is_set:
                self._save_state()

    def _take_step(self, step: Step, rate: float) -> float:
        set_learning_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate(step)
        self.ranks.sum_gradients(self._parameters)
        (loss,) = self.ranks.sum([loss], self._device)
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
        return loss

    def _accumulate(self, step: Step) -> float:
        """Add the gradient of this process's frames; return their part of the loss."""

        def compute(part: MicroBatch) -> float:
            _, _, share = self._compute_share(part, step, True)
            if self.direct is not None and not part.target:
                share = share + self.direct.compute_share(self.model, part, step.totals)
            if share.requires_grad:
                add_gradient(share, self._parameters)
            return float(share.detach())

        name_frame = describe_frame(self.train_loader.dataset)
        total = sum(self.bound.run(step, compute, name_frame))
        return total + self._accumulate_replay()

    def _accumulate_replay(self) -> float:
        """Add the gradient of the replayed frames; return their part of the loss."""
        replay = self.replay
        if replay is None:
            return 0.0
        step = replay.find_step(self.progress.step)

        def compute(part: MicroBatch) -> float:
            share = replay.compute_share(self.predictor, self.model, part, step.totals)
            if share.requires_grad:
                add_gradient(share, self._parameters)
            return float(share.detach())

        return sum(self.bound.run(step, compute, describe_frame(replay.loader.dataset)))

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
        own = self.direct.own_quantities if self.direct is not None else []
        for name in ("energy", "forces", "stress", *own):
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

    def _compute_share(
        self, part: MicroBatch, step: Step, is_training: bool
    ) -> tuple[Prediction, Labels, Tensor]:
        """Return prediction, labels, and what they contribute to the step's loss."""
        batch = part.batch
        task = self.other_tasks[part.target] if part.target else self.task
        prediction = self.predictor.predict(
            self.model, batch, task, is_training=is_training
        )
        labels = self._subtract_composition(batch, part.labels, task.target)
        volumes = _volumes(batch)
        parts = compute_loss(prediction, labels, volumes, task.loss)
        share = compute_share(parts, labels, step.totals, task.loss)
        if part.turns is not None:
            apart = compute_consistency(
                prediction, part, volumes, step.totals, task.loss
            )
            share = share + self.options.consistency * apart
        return prediction, labels, share

    def _subtract_composition(
        self, batch: Batch, labels: Labels, target: str
    ) -> Labels:
        """Return labels whose energy lacks the composition part, as predictions do."""
        per_atom = self.model.composition(batch, target).squeeze(1)
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
        if not self.ranks.is_main:
            return
        metadata = dict(self.metadata)
        metadata["epoch"] = self.progress.epoch
        metadata["validation"] = dict(self.best_metrics)
        checkpoint = Checkpoint.from_model(self.model, metadata=metadata)
        save_checkpoint(self.best_path, checkpoint)

    def _save_state(self) -> None:
        """Write ``last_model.ckpt``: the weights and all that a resumed run needs."""
        if not self.ranks.is_main:
            return
        state = {
            "progress": dict(vars(self.progress)),
            "optimizer": self._optimizer.state_dict(),
            "algorithm": self.options.optimizer,
            "average": self._average.state_dict() if self._average else None,
            "zero_metrics": self.zero_metrics,
            "best_metrics": self.best_metrics,
            "n_epochs": self.n_epochs,
            "is_compiled": self.predictor.is_compiled,
        }
        checkpoint = Checkpoint.from_model(self.model, metadata=self.metadata)
        save_checkpoint(self.folder / LAST_NAME, checkpoint, training_state=state)

    def _load_state(self) -> None:
        path = self.folder / LAST_NAME
        state = load_training_state(path)
        if state is None:
            raise CheckpointError(f"{path}: holds no training state to resume from")
        began_with = state.get("algorithm", "adam")
        if began_with != self.options.optimizer:
            raise ConfigError(
                f"optimizer: expected {began_with}, with which the run in "
                f"{self.folder} began, got {self.options.optimizer}"
            )
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None and state["average"] is not None:
            self._average.load_state_dict(state["average"])
        self.progress = Progress(**state["progress"])
        self.zero_metrics = dict(state["zero_metrics"])
        self.best_metrics = dict(state["best_metrics"])
        was_compiled = state.get("is_compiled", False)
        if was_compiled != self.predictor.is_compiled:
            logger.warning(
                "the run began with steps by %s: from here on its numbers may differ "
                "in the last digits from those of an uninterrupted one",
                "the compiled engine" if was_compiled else "PyTorch",
            )
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

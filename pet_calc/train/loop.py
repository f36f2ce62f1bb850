"""The training loop: epochs, validation, best and last checkpoints, exact resume."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.config import TrainOptions, default_ema_decay
from pet_calc.data.loader import BatchLoader, Step
from pet_calc.errors import DataError
from pet_calc.evaluate.kept import PredictionKeeper
from pet_calc.train.divergence import MOST_RESTARTS, DivergedError, StartWatch
from pet_calc.train.folder import RunFolder
from pet_calc.train.logbook import Logbook
from pet_calc.train.optim import (
    WeightAverage,
    build_optimizer,
    compute_learning_rate,
    compute_progress,
    load_optimizer,
    set_learning_rate,
)
from pet_calc.train.progress import TrainingBar, log_epoch
from pet_calc.train.signals import StopSignal
from pet_calc.train.start.resume import check_state
from pet_calc.train.step_runner import StepRunner
from pet_calc.train.task import RunState
from pet_calc.train.validation import compute_metric, describe_row, is_falling

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a prepared model: its trainable parameters decide what changes."""

    def __init__(
        self,
        runner: StepRunner,
        validation: BatchLoader,
        options: TrainOptions,
        folder: RunFolder,
        *,
        show_progress: bool = True,
    ) -> None:
        """Set up.

        Args:
            runner: computes the steps.
            validation: the frames that pick the best model.
            options: of the training, epochs and rate included.
            folder: where models and log go.
            show_progress: show a progress bar.
        """
        assert options.num_epochs is not None  # both are resolved
        assert options.learning_rate is not None
        self.runner = runner
        self.validation = validation
        self.options = options
        self.folder = folder
        self.n_epochs = options.num_epochs
        # tqdm's None: hidden where the output is no terminal
        self.hide_bar = None if show_progress else True
        self.state = RunState()
        self.zero_metrics: dict[str, float] = {}
        self.best_metrics: dict[str, float] = {}
        self._watch = StartWatch(runner.model, self._count_steps())
        self._build_optimizer()
        self._stop = StopSignal()

    def _build_optimizer(self) -> None:
        """Make optimiser and average for the model as it is."""
        model, options = self.runner.model, self.options
        self._optimizer = build_optimizer(model, options)
        self._average: WeightAverage | None = None
        decay = options.ema_decay
        if decay is None:
            decay = default_ema_decay(self._count_steps())
        if decay > 0:
            self._average = WeightAverage(model, decay)

    @property
    def learning_rate(self) -> float:
        """Peak rate of this attempt."""
        assert self.options.learning_rate is not None  # resolved
        return self.options.learning_rate * 0.5 ** len(self.state.restarts)

    @property
    def signal(self) -> int:
        """Number of the signal that interrupts the run."""
        return self._stop.number

    def fit(self, *, is_resumed: bool = False, stop_after: int | None = None) -> str:
        """Train to the end, or until stopped.

        Args:
            is_resumed: go on from ``last_model.ckpt`` in the folder.
            stop_after: leave after this many epochs in all, to be resumed later.

        Returns:
            Why it ended: ``finished``, ``stopped``, ``interrupted``, ``early`` or
            ``diverged``.
        """
        keep = None
        if is_resumed:
            self._load_state()
            keep = self.state.epoch
        logbook = None
        if self.runner.ranks.is_main:
            logbook = Logbook(self.folder.path, keep_until_epoch=keep)
        if not is_resumed:
            self._start()
        try:
            reason = self._run_epochs(logbook, stop_after)
        except Exception:
            # as far as it got: the last finished step
            self._save_state()
            raise
        finally:
            if logbook is not None:
                logbook.close()
        self._save_state()
        if self._stop.is_set:
            logger.warning(
                "%s: saved after step %d; add --resume to go on",
                self._stop.name or "signal to another process",
                self.state.step,
            )
        return reason

    def _run_epochs(self, logbook: Logbook | None, stop_after: int | None) -> str:
        """Train until something ends it; return what."""
        n_steps = self._count_steps()
        bar = TrainingBar(
            self.runner.training.loader,
            self.n_epochs,
            self.runner.device,
            n_steps_done=self.state.step,
            hide=self.hide_bar,
        )
        with closing(bar), self._stop.catch():
            while self.state.epoch < self.n_epochs:
                if len(self.state.restarts) > MOST_RESTARTS:
                    return "diverged"
                if stop_after is not None and self.state.epoch >= stop_after:
                    return "stopped"
                try:
                    if not self._run_epoch(n_steps, bar):
                        return "interrupted"
                    row = self._finish_epoch(n_steps)
                    if logbook is not None:
                        logbook.add(row)
                    bar.show_epoch(describe_row(row))
                    if self._is_worth_a_line(row["epoch"]):
                        log_epoch(
                            logger, describe_row(row), is_in_bar=not bar.is_hidden
                        )
                except DivergedError as error:
                    self._begin_again(str(error))
                    bar.begin_again()
                    if logbook is not None:
                        logbook.clear()
                    continue
                if self._is_stale():
                    return "early"
        return "finished"

    def _judge_epoch(self) -> None:
        """Raise DivergedError if the losses show that the run diverges."""
        is_last = self.state.epoch >= self.n_epochs or self._is_stale()
        if why := self._watch.judge_epoch(self.state, is_last=is_last):
            raise DivergedError(why)

    def _begin_again(self, why: str) -> None:
        """Go back to the start for an attempt at half the rate, and say so."""
        before, rate = self.state, self.learning_rate
        entry = {"learning_rate": rate, "step": before.step, "why": why}
        self.state = RunState(
            seconds=before.seconds, restarts=[*before.restarts, entry]
        )
        is_given_up = len(self.state.restarts) > MOST_RESTARTS
        logger.warning(
            "diverged at learning rate %.2g: after %d steps %s; %s",
            rate,
            before.step,
            why,
            "gives up" if is_given_up else f"begins again at {self.learning_rate:.2g}",
        )
        self._watch.put_back(self.runner.model)
        self._build_optimizer()
        self._start()

    def measure_zero(self, keeper: PredictionKeeper | None = None) -> None:
        """Measure the model before any step.

        Args:
            keeper: takes its predictions.
        """
        self.zero_metrics = self._evaluate("zero-step errors", keeper)

    def _start(self) -> None:
        """Begin with the model before any step; it stays the best until beaten."""
        if not self.zero_metrics:
            self.measure_zero()
        self.state.best_metric = self._compute_metric(self.zero_metrics)
        self.best_metrics = self.zero_metrics
        self.state.losses = [self.zero_metrics["loss"]]
        self._save_best()
        self._save_state()

    def _evaluate(
        self, desc: str = "", keeper: PredictionKeeper | None = None
    ) -> dict[str, float]:
        return self.runner.evaluate(
            self.validation, desc=desc, hide=self.hide_bar, keeper=keeper
        )

    def _count_steps(self) -> int:
        """Return the steps of the whole run."""
        return self.n_epochs * self.runner.training.loader.n_steps

    def _run_epoch(self, n_steps: int, bar: TrainingBar) -> bool:
        """Take the (remaining) steps of one epoch; False if a signal came."""
        state = self.state
        started = time.monotonic()
        try:
            steps = self.runner.training.loader.iterate_steps(
                state.epoch, start=state.batch
            )
            for step in steps:
                if self.runner.ranks.any(self._stop.is_set, self.runner.device):
                    self._stop.is_set = True
                    return False
                loss = self._take_step(step, n_steps)
                state.loss_sum += loss
                state.step += 1
                state.batch += 1
                bar.show_step(state.step)
                why = self._watch.judge_step(state, loss, self.zero_metrics["loss"])
                if why:
                    raise DivergedError(why)
            return True
        finally:
            state.seconds += time.monotonic() - started

    def _compute_rate(self, number: int, n_steps: int) -> float:
        """Return the rate of a step of the run."""
        return compute_learning_rate(
            number, n_steps, self.learning_rate, self.options.warmup_fraction
        )

    def _take_step(self, step: Step, n_steps: int) -> float:
        number = self.state.step
        set_learning_rate(self._optimizer, self._compute_rate(number, n_steps))
        progress = compute_progress(number, n_steps, self.options.energy_warmup)
        loss = self.runner.compute_gradient(step, number, progress=progress)
        norm = torch.nn.utils.clip_grad_norm_(
            self.runner.parameters, self.options.grad_clip_norm
        )
        if not math.isfinite(float(norm)):
            if not self._watch.is_over:
                raise DivergedError("the gradient is not finite")
            raise DataError(
                f"step {self.state.step}: the gradient is not finite, training has "
                f"diverged; lower the learning rate (--lr, now {self.learning_rate:.2g}"
                "), or look for broken labels with `pet-calc check`"
            )
        self._optimizer.step()
        if self._average is not None:
            self._average.update()
        return loss

    def _finish_epoch(self, n_steps: int) -> dict[str, Any]:
        """Validate, keep the best, save the state; return the epoch's log row.

        The epoch counts as done when it is validated: a run that ends before that goes
        on with the validation.

        Raises:
            DivergedError: if the loss shows that the run diverges.
        """
        state = self.state
        started = time.monotonic()
        train_loss = state.loss_sum / max(1, state.batch)
        epoch = state.epoch + 1
        with self._averaged_weights():
            values = self._evaluate()
            metric = self._compute_metric(values)
            is_best = metric < state.best_metric
            if is_best:
                state.best_metric, state.best_epoch = metric, epoch
                self.best_metrics = values
                self._save_best()
        state.epoch, state.batch, state.loss_sum = epoch, 0, 0.0
        state.losses.append(values["loss"])
        state.train_losses.append(train_loss)
        state.seconds += time.monotonic() - started
        self._judge_epoch()
        if epoch % self.options.checkpoint_interval == 0 or is_best:
            self._save_state()
        row = {
            "epoch": epoch,
            "step": state.step,
            "learning_rate": self._compute_rate(state.step - 1, n_steps),
            "train_loss": train_loss,
            "metric": metric,
            "is_best": is_best,
            "restarts": len(state.restarts),
            "seconds": round(state.seconds, 3),
        }
        row.update({f"val_{name}": value for name, value in values.items()})
        return row

    def _compute_metric(self, values: dict[str, float]) -> float:
        objectives = self.runner.training.objectives
        return compute_metric(values, self.options.best_model_metric, objectives)

    def _is_worth_a_line(self, epoch: int) -> bool:
        """Whether to log this epoch where no bar shows it: about 20 lines a run."""
        interval = max(self.options.log_interval, math.ceil(self.n_epochs / 20))
        return epoch % interval == 0 or epoch == self.n_epochs

    def _is_stale(self) -> bool:
        patience = self.options.early_stopping_patience
        if patience is None:
            return False
        if self.state.epoch - self.state.best_epoch < patience:
            return False
        # one epoch may have been lucky
        return not is_falling(self.state.losses, patience)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights into the model for a while."""
        if self._average is None:
            yield
            return
        self._average.swap()
        try:
            yield
        finally:
            self._average.swap()

    def _save_best(self) -> None:
        if not self.runner.ranks.is_main:
            return
        metadata = dict(self.folder.metadata)
        metadata["epoch"] = self.state.best_epoch
        metadata["validation"] = dict(self.best_metrics)
        checkpoint = Checkpoint.from_model(self.runner.model, metadata=metadata)
        save_checkpoint(self.folder.best, checkpoint)

    def _save_state(self) -> None:
        """Write ``last_model.ckpt``: the weights and all that a resumed run needs."""
        if not self.runner.ranks.is_main:
            return
        state = {
            "progress": dict(vars(self.state)),
            "optimizer": self._optimizer.state_dict(),
            "algorithm": self.options.optimizer,
            "average": self._average.state_dict() if self._average else None,
            "zero_metrics": self.zero_metrics,
            "best_metrics": self.best_metrics,
            "n_epochs": self.n_epochs,
            "learning_rate": self.options.learning_rate,
            "watch": self._watch.state_dict(),
            "is_compiled": self.runner.predictor.is_compiled,
        }
        checkpoint = Checkpoint.from_model(
            self.runner.model, metadata=self.folder.metadata
        )
        save_checkpoint(self.folder.last, checkpoint, training_state=state)

    def _load_state(self) -> None:
        state = self.folder.load_state()
        check_state(
            state,
            self.folder.path,
            algorithm=self.options.optimizer,
            n_epochs=self.n_epochs,
            is_compiled=self.runner.predictor.is_compiled,
        )
        load_optimizer(self._optimizer, state["optimizer"], self.options)
        if self._average is not None and state["average"] is not None:
            self._average.load_state_dict(state["average"])
        self.state = RunState(**state["progress"])
        self.zero_metrics = dict(state["zero_metrics"])
        self.best_metrics = dict(state["best_metrics"])
        # another number may pick now
        self.state.best_metric = self._compute_metric(self.best_metrics)
        self._watch.load_state_dict(state.get("watch"))
        if state.get("learning_rate") != self.options.learning_rate:
            # a rate of its own: no attempt has halved that one
            self.state.restarts = []

"""The gradient of a step, and the errors of a set: one pass over all objectives."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pet_calc.data.loader import BatchLoader, MicroBatch, Step
from pet_calc.errors import DataError, ModelError
from pet_calc.evaluate.kept import PredictionKeeper
from pet_calc.evaluate.metrics import Metrics, merge_by_target
from pet_calc.model.batch import Batch
from pet_calc.model.memory import measure_memory
from pet_calc.model.pet import PET
from pet_calc.system.ranks import Ranks
from pet_calc.train.memory import (
    MemoryBound,
    add_gradient,
    choose_bound,
    describe_frame,
)
from pet_calc.train.objective import Objective, Outcome, TrainedSet
from pet_calc.train.steps import StepPredictor


class StepRunner:
    """Computes the gradient of whole steps, in parts that fit into memory."""

    def __init__(
        self,
        model: PET,
        training: TrainedSet,
        replayed: Sequence[TrainedSet] = (),
        *,
        predictor: StepPredictor | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Set up.

        Args:
            model: whose trainable parameters get the gradient.
            training: the training set, whose passes are the epochs.
            replayed: further sets, of which each step has some frames.
            predictor: of energies; None is PyTorch.
            ranks: the processes that share the work.

        Raises:
            ModelError: if nothing is trainable.
        """
        self.model = model
        self.training = training
        self.replayed = tuple(replayed)
        self.predictor = predictor or StepPredictor()
        self.ranks = ranks or Ranks()
        self.device = model.edge_embedder.weight.device
        self.bound = MemoryBound(training.loader.most_tokens)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ModelError("nothing to train: no parameter is trainable")

    def compute_gradient(
        self, step: Step, number: int, *, progress: float = 1.0
    ) -> float:
        """Set ``.grad`` to the gradient of a step over all processes; return its loss.

        The loss has the weights that the options have, at all times.

        Args:
            step: of the training set, this process's frames of it.
            number: of the step in the run; decides what is replayed.
            progress: the part of the energy's warm-up that is over, 0 to 1.
        """
        self.clear_gradient()
        loss = self._add_gradient(step, self.training, progress)
        for part in self.replayed:
            loss += self._add_gradient(part.find_step(number), part, progress)
        self.ranks.sum_gradients(self.parameters)
        (loss,) = self.ranks.sum([loss], self.device)
        return loss

    def clear_gradient(self) -> None:
        """Forget the gradient."""
        for parameter in self.parameters:
            parameter.grad = None

    def evaluate(
        self,
        loader: BatchLoader,
        model: PET | None = None,
        *,
        desc: str = "",
        hide: bool | None = None,
        keeper: PredictionKeeper | None = None,
    ) -> dict[str, float]:
        """Return errors (eV, Å), their sums in squares (``loss``) and absolute.

        They are of all processes' frames.

        Args:
            loader: of the set.
            model: None is the one that trains.
            desc: shown by the progress bar; none without it.
            hide: tqdm's ``disable``.
            keeper: takes the predictions of energies and what follows from these.
        """
        model = model or self.model
        objectives = self.training.objectives
        metrics = [Metrics() for _ in objectives]
        loss_sum = deviation_sum = 0.0
        steps: Any = loader.iterate_steps()
        if desc:
            steps = tqdm(
                steps, total=loader.n_steps, desc=desc, leave=False, disable=hide,
                unit="batch",
            )  # fmt: skip
        name_frame = describe_frame(loader.dataset)
        for step in steps:

            def compute(
                part: MicroBatch, step: Step = step
            ) -> tuple[MicroBatch, list[Outcome | None]]:
                found = self._compute(model, part, step, objectives, is_training=False)
                return part, found

            parts = self.predictor.divide(step)
            for part, outcomes in self.bound.run(parts, compute, name_frame):
                volumes = compute_volumes(part.batch)
                for k, (sums, outcome) in enumerate(
                    zip(metrics, outcomes, strict=True)
                ):
                    if outcome is None:
                        continue
                    sums.add(outcome.prediction, outcome.labels)
                    loss_sum += float(outcome.loss)
                    deviation_sum += objectives[k].measure(
                        outcome, volumes, step.totals
                    )
                    if keeper is not None and not objectives[k].prefix:
                        name = objectives[k].name
                        keeper.add(name, part, outcome.prediction, outcome.labels)
        found = self.ranks.sum([loss_sum, deviation_sum], self.device)
        for sums in metrics:
            sums.merge_over(self.ranks, self.device)
        values = _name_errors(objectives, metrics)
        for name, total in zip(("loss", "mae_sum"), found, strict=True):
            values[name] = total / max(1, loader.n_steps)
        return values

    def smoke_test(self) -> None:
        """Take one step's forward and backward, and throw it away.

        What it needs in memory decides how much later ones try at once, unless the
        options say it.

        Raises:
            DataError: if the loss or a gradient is not finite.
        """
        step = next(self.training.loader.iterate_steps(0))
        with measure_memory(self.device) as memory:
            loss = self.compute_gradient(step, 0)
        memory["bytes"] += self.predictor.count_bytes()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        is_finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        self.clear_gradient()
        if not gradients or not is_finite or not math.isfinite(loss):
            raise DataError(
                "the first training step gives no finite loss and gradient "
                f"(loss {loss}); check the labels and frames"
            )
        if self.bound.most_tokens is None and step.parts:
            largest = max(part.n_tokens for part in step.parts)
            self.bound.most_tokens = choose_bound(
                memory["bytes"], largest, self.device, n_ranks=self.ranks.local_size
            )

    def estimate_seconds(self, n_steps: int) -> float:
        """Return how long steps would take, by trying one and throwing it away."""
        step = next(self.training.loader.iterate_steps(0))
        for _ in range(2):  # the first one warms up
            started = time.monotonic()
            self.compute_gradient(step, 0)
            seconds = time.monotonic() - started
        self.clear_gradient()
        (total,) = self.ranks.sum([seconds], self.device)
        return n_steps * total / self.ranks.size

    def _add_gradient(self, step: Step, trained: TrainedSet, progress: float) -> float:
        """Add the gradient of this process's frames; return their part of the loss."""

        def compute(part: MicroBatch) -> float:
            outcomes = self._compute(
                self.model,
                part,
                step,
                trained.objectives,
                is_training=True,
                progress=progress,
            )
            found = [outcome for outcome in outcomes if outcome is not None]
            if not found:
                return 0.0
            total = torch.stack([outcome.share for outcome in found]).sum()
            if total.requires_grad:
                add_gradient(total, self.parameters)
            return float(torch.stack([outcome.loss for outcome in found]).sum())

        name_frame = describe_frame(trained.loader.dataset)
        parts = self.predictor.divide(step)
        return sum(self.bound.run(parts, compute, name_frame))

    def _compute(
        self,
        model: PET,
        part: MicroBatch,
        step: Step,
        objectives: Sequence[Objective],
        *,
        is_training: bool,
        progress: float = 1.0,
    ) -> list[Outcome | None]:
        """Return what a part gives for each objective, None where it is not for it."""
        volumes = compute_volumes(part.batch)
        concerned = [o for o in objectives if o.concerns(part)]
        tasks = [o.task for o in concerned if o.task is not None]
        direct = list(dict.fromkeys(name for o in concerned for name in o.direct))
        # one pass through the network for all
        outputs = self.predictor.predict(
            model, part.batch, tasks, direct, is_training=is_training
        )
        return [
            objective.compute(
                outputs, model, part, volumes, step.totals, progress=progress
            )
            if objective in concerned
            else None
            for objective in objectives
        ]


def _name_errors(
    objectives: Sequence[Objective], metrics: Sequence[Metrics]
) -> dict[str, float]:
    """Return the errors over all energies and of each, and those of direct heads."""
    pairs = list(zip(objectives, metrics, strict=True))
    values = merge_by_target({o.name: sums for o, sums in pairs if not o.prefix})
    for objective, sums in pairs:
        if objective.prefix:
            found = sums.to_dict()
            values |= {objective.prefix + name: found[name] for name in found}
    return values


def compute_volumes(batch: Batch) -> Tensor:
    """Return the volumes of the cells, [n_systems] in Å^3; zero without a cell."""
    return torch.det(batch.cells.to(torch.float64)).abs()

"""What a run learns, one protocol for all: energies, replayed domains, direct heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from pet_calc.config import LossOptions
from pet_calc.data.dataset import LabelTotals
from pet_calc.data.loader import BatchLoader, MicroBatch, Step
from pet_calc.data.systems import Labels
from pet_calc.model.derivatives import Outputs, Prediction
from pet_calc.model.pet import PET
from pet_calc.train.loss import (
    compute_consistency,
    compute_deviation,
    compute_loss,
    compute_share,
)
from pet_calc.train.task import Task


class Outcome(NamedTuple):
    """What some frames give for an objective."""

    share: Tensor
    """Of the step's loss, with the weights as they are at the time."""
    loss: Tensor
    """The same with the weights that the options have."""
    prediction: Prediction
    labels: Labels
    """With which the prediction is compared."""


class Objective(Protocol):
    """One thing that a model learns of the frames of a set."""

    name: str
    """Of the target, for the errors."""
    prefix: str
    """Before the names of its quantities in the errors."""
    quantities: tuple[str, ...]
    """What it predicts, such as ``energy``, ``forces``."""

    @property
    def task(self) -> Task | None:
        """The energy that it compares; None if it needs none."""
        ...

    @property
    def direct(self) -> Sequence[str]:
        """Names of other outputs that it compares."""
        ...

    def concerns(self, part: MicroBatch) -> bool:
        """Return whether it learns from these frames."""
        ...

    def compute(
        self,
        outputs: Outputs,
        model: PET,
        part: MicroBatch,
        volumes: Tensor,
        totals: LabelTotals,
        *,
        progress: float = 1.0,
    ) -> Outcome:
        """Return what a part of a step contributes to the step's loss.

        Args:
            outputs: of the model for the part: what all objectives compare that it
                concerns.
            model: as it is at the time.
            part: some frames of the step.
            volumes: [n_systems] in Å^3, zero without a cell.
            totals: of the step.
            progress: the part of the energy's warm-up that is over, 0 to 1.
        """
        ...

    def measure(self, outcome: Outcome, volumes: Tensor, totals: LabelTotals) -> float:
        """Return what the part adds to the sum of absolute errors of the step."""
        ...


@dataclass
class TrainedSet:
    """Frames that are trained on, and what is learned of them."""

    loader: BatchLoader
    objectives: Sequence[Objective]

    def find_step(self, number: int) -> Step:
        """Return the frames for a step of the run, whatever was asked for before.

        They depend on the number alone, so a resumed run sees the same.
        """
        sweep, k = divmod(number, self.loader.n_steps)
        return next(self.loader.iterate_steps(sweep, start=k))


class EnergyObjective:
    """An energy with its forces and stress, as labels have them."""

    prefix = ""
    direct = ()

    def __init__(
        self,
        task: Task,
        *,
        consistency: float = 0.0,
        composition: Tensor | None = None,
        weight: float = 1.0,
    ) -> None:
        """Say what is learned.

        Args:
            task: target, what is derived from it, and the loss.
            consistency: weight of what two orientations of a frame differ by.
            composition: [n_species] float64 in eV, energies per element to take off
                the labels; None takes the model's own.
            weight: factor of the loss.
        """
        self.task = task
        self.name = task.target
        derived = {"forces": task.has_forces, "stress": task.has_stress}
        self.quantities = ("energy", *(name for name in derived if derived[name]))
        self._consistency = consistency
        self._composition = composition
        self._weight = weight

    def concerns(self, part: MicroBatch) -> bool:
        """Return whether the frames have labels of this target."""
        return self.name in part.labels

    def compute(
        self,
        outputs: Outputs,
        model: PET,
        part: MicroBatch,
        volumes: Tensor,
        totals: LabelTotals,
        *,
        progress: float = 1.0,
    ) -> Outcome:
        """Return what a part of a step contributes to the step's loss."""
        task, prediction = self.task, outputs.energies[self.name]
        labels = self._subtract_composition(model, part)
        parts = compute_loss(prediction, labels, volumes, task.loss)

        def add_up(options: LossOptions) -> Tensor:
            share = compute_share(parts, labels, totals, options)
            if part.turns is not None:
                apart = compute_consistency(
                    prediction, labels, part, volumes, totals, options
                )
                share = share + self._consistency * apart
            return self._weight * share

        share = loss = add_up(task.loss)
        if progress < 1.0:
            share = add_up(task.warm_up(progress))
        return Outcome(share, loss.detach(), prediction, labels)

    def measure(self, outcome: Outcome, volumes: Tensor, totals: LabelTotals) -> float:
        """Return what the part adds to the sum of absolute errors of the step."""
        prediction, labels = outcome.prediction, outcome.labels
        return self._weight * compute_deviation(
            prediction, labels, volumes, totals, self.task.loss
        )

    def _subtract_composition(self, model: PET, part: MicroBatch) -> Labels:
        """Return labels whose energy lacks the composition part, as predictions do."""
        batch = part.batch
        if self._composition is None:
            per_atom = model.composition(batch, self.name).squeeze(1)
        else:
            species = model.species_to_species_index.index_select(0, batch.species)
            per_atom = self._composition.to(species.device).index_select(0, species)
        labels = part.labels[self.name]
        energy = labels.energy.index_add(0, batch.system_of_atom, -per_atom)
        return labels._replace(energy=energy)

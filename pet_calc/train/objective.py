"""What a run learns, one protocol for all: energies, replayed domains, direct heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from pet_calc.data.dataset import LabelTotals
from pet_calc.data.systems import Labels
from pet_calc.data.loader import BatchLoader, MicroBatch, Step
from pet_calc.model.derivatives import Prediction
from pet_calc.model.pet import PET
from pet_calc.train.loss import compute_consistency, compute_loss, compute_share
from pet_calc.train.steps import StepPredictor
from pet_calc.train.task import Task


class Outcome(NamedTuple):
    """What some frames give for an objective."""

    share: Tensor
    """Of the step's loss."""
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

    def concerns(self, part: MicroBatch) -> bool:
        """Return whether it learns from these frames."""
        ...

    def compute(
        self,
        predictor: StepPredictor,
        model: PET,
        part: MicroBatch,
        volumes: Tensor,
        totals: LabelTotals,
        *,
        is_training: bool,
    ) -> Outcome:
        """Return what a part of a step contributes to the step's loss.

        Args:
            predictor: of the run's energies.
            model: as it is at the time.
            part: some frames of the step.
            volumes: [n_systems] in Å^3, zero without a cell.
            totals: of the step.
            is_training: attach the results to the weights.
        """
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

    def __init__(
        self,
        task: Task,
        *,
        consistency: float = 0.0,
        composition: Tensor | None = None,
        weight: float = 1.0,
        is_for_all: bool = False,
    ) -> None:
        """Say what is learned.

        Args:
            task: target, what is derived from it, and the loss.
            consistency: weight of what two orientations of a frame differ by.
            composition: [n_species] float64 in eV, energies per element to take off
                the labels; None takes the model's own.
            weight: factor of the loss.
            is_for_all: whether it learns from all frames of its set, and not only from
                those of its target.
        """
        self.task = task
        self.name = task.target
        derived = {"forces": task.has_forces, "stress": task.has_stress}
        self.quantities = ("energy", *(name for name in derived if derived[name]))
        self._consistency = consistency
        self._composition = composition
        self._weight = weight
        self._is_for_all = is_for_all

    def concerns(self, part: MicroBatch) -> bool:
        """Return whether the frames have labels of this target."""
        return self._is_for_all or part.target == self.name

    def compute(
        self,
        predictor: StepPredictor,
        model: PET,
        part: MicroBatch,
        volumes: Tensor,
        totals: LabelTotals,
        *,
        is_training: bool,
    ) -> Outcome:
        """Return what a part of a step contributes to the step's loss."""
        task = self.task
        prediction = predictor.predict(model, part.batch, task, is_training=is_training)
        labels = self._subtract_composition(model, part)
        parts = compute_loss(prediction, labels, volumes, task.loss)
        share = compute_share(parts, labels, totals, task.loss)
        if part.turns is not None:
            apart = compute_consistency(prediction, part, volumes, totals, task.loss)
            share = share + self._consistency * apart
        return Outcome(self._weight * share, prediction, labels)

    def _subtract_composition(self, model: PET, part: MicroBatch) -> Labels:
        """Return labels whose energy lacks the composition part, as predictions do."""
        batch = part.batch
        if self._composition is None:
            per_atom = model.composition(batch, self.name).squeeze(1)
        else:
            species = model.species_to_species_index.index_select(0, batch.species)
            per_atom = self._composition.to(species.device).index_select(0, species)
        labels = part.labels
        energy = labels.energy.index_add(0, batch.system_of_atom, -per_atom)
        return labels._replace(energy=energy)

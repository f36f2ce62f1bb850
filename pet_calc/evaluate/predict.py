"""Run a model over many frames: errors where there are labels, and predictions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from pet_calc.calculator.at_once import DEFAULT_BATCH_TOKENS
from pet_calc.calculator.supported import check_frame_state
from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.data.loader import pack
from pet_calc.data.orientation import AS_JUDGED, FURTHER, turn_batch, turn_labels
from pet_calc.data.systems import Labels, System, build_system, collate, collate_labels
from pet_calc.engine.switch import Compile, ModelSwitch
from pet_calc.evaluate.metrics import Metrics, SpreadSums
from pet_calc.evaluate.predicted_atoms import add_predictions
from pet_calc.evaluate.reliability import Reliability
from pet_calc.evaluate.rotation import average, compute_spreads, turn_back
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty, sum_over_systems


class FramePrediction(NamedTuple):
    """What the model says about one frame, in eV and Å."""

    frame: LabeledFrame
    energy: float
    forces: np.ndarray
    """[n_atoms, 3]."""
    stress: np.ndarray | None
    """[3, 3], positive in tension; None unless periodic in all directions."""
    energy_uncertainty: float | None = None
    """Standard deviation of the energy; None of a model without an uncertainty."""
    energies_uncertainty: np.ndarray | None = None
    """[n_atoms], likewise of the atoms' energies."""

    def to_atoms(self, model: str = "unknown") -> Atoms:
        """Return the frame with all it had, and the predictions beside that.

        They are ``info['pet_energy']``, ``arrays['pet_forces']`` and, where there are,
        ``info['pet_stress']`` [3, 3], ``info['pet_energy_uncertainty']`` and
        ``arrays['pet_energies_uncertainty']``, in eV and Å: names that no reader takes
        for labels.

        Args:
            model: whose predictions they are, for ``info['pet_model']``.
        """
        values: dict[str, Any] = {"energy": self.energy, "forces": self.forces}
        if self.stress is not None:
            values["stress"] = self.stress
        for name in ("energy_uncertainty", "energies_uncertainty"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        frame = self.frame
        atoms = frame.to_atoms() if frame.atoms is None else frame.atoms
        return add_predictions(atoms, values, model)


@dataclass
class Errors:
    """Errors of predictions, as frames stand in their file and turned at random."""

    as_in_file: Metrics = field(default_factory=Metrics)
    turned: Metrics = field(default_factory=Metrics)
    """Each frame in each of its random orientations; empty without any."""
    spread: SpreadSums = field(default_factory=SpreadSums)
    """Over all orientations of each frame."""
    reliability: Reliability = field(default_factory=Reliability)
    """Of the judged energies; empty for a model without an uncertainty."""

    def merge(self, other: "Errors") -> None:
        """Add the errors of other frames."""
        self.as_in_file.merge(other.as_in_file)
        self.turned.merge(other.turned)
        self.spread.merge(other.spread)
        self.reliability.merge(other.reliability)

    def add_reliability(
        self, prediction: Prediction, labels: Labels, deviations: Tensor
    ) -> None:
        """Add the energies of a batch against their uncertainties, [n_systems] eV."""
        errors = (prediction.energy - labels.energy) / labels.n_atoms
        chosen = labels.has_energy
        self.reliability.add(
            errors[chosen].cpu().numpy(),
            (deviations / labels.n_atoms)[chosen].cpu().numpy(),
        )

    @property
    def judged(self) -> Metrics:
        """The errors to judge by: of turned frames, where there are any."""
        return self.turned if self.turned.n_frames else self.as_in_file


class PredictedBatch(NamedTuple):
    """The predictions of frames that were evaluated together, and their errors."""

    predictions: list[FramePrediction]
    """Of the frames as they stand in the file."""
    errors: Errors
    averaged: list[FramePrediction]
    """Means over all orientations of each frame; the same without random ones."""


class BatchPredictor:
    """Evaluates a model on frames, as many at once as a batch may hold."""

    def __init__(
        self,
        model: PET,
        target: str,
        *,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        compile: Compile = "auto",
        precision: str = "exact",
        n_orientations: int = 0,
        uncertainty: LastLayerUncertainty | None = None,
    ) -> None:
        """Set up.

        Args:
            model: on its device.
            target: energy target to use.
            batch_tokens: pairs and atoms evaluated at once.
            compile: whether to use the compiled engine, as for ``PETCalculator``; a
                batch counts as an evaluation.
            precision: ``exact`` or ``mixed``, likewise.
            n_orientations: random ones in which each frame is evaluated as well, for
                its errors and their spread.
            uncertainty: of the target, on the model's device. It is estimated of
                frames as they stand in the file, in one more pass where the engine
                runs.

        Raises:
            ConfigError: if the compiled engine was asked for and cannot run.
        """
        self._model = model
        self._batch_tokens = batch_tokens
        self._n_orientations = n_orientations
        self._uncertainty = uncertainty
        self._device = model.edge_embedder.weight.device
        self._switch = ModelSwitch(model, target, compile=compile, precision=precision)

    def predict(
        self,
        frames: Iterable[LabeledFrame],
        progress: Callable[[Any], Any] | None = None,
        *,
        first: int = 0,
    ) -> Iterator[PredictedBatch]:
        """Yield the predictions of one batch of frames after the other, in order.

        Frames are taken as they are needed, a batch at a time. Those in a sequence are
        looked over before the first batch, those of a stream as they come. Which
        frames share a batch depends on these frames alone.

        Args:
            frames: with or without labels.
            progress: wraps the iteration over frames.
            first: number of the first frame among all; a frame's random orientations
                are those of its number.

        Raises:
            DataError: if a frame has an element that the model does not know.
            ModelError: likewise for charge and spin multiplicity.
        """
        if isinstance(frames, Sequence):
            check_elements(frames, self._model.atomic_types)
            for frame in frames:
                check_frame_state(self._model, frame)
            shown: Iterable[LabeledFrame] = frames
        else:
            shown = check_each(self._model, frames)
        shown = progress(shown) if progress else shown
        all_systems = (build_system(frame, self._model.pair_cutoff) for frame in shown)
        for systems in pack(all_systems, self._batch_tokens, lambda s: s.n_tokens):
            # positions in float64, see CheckpointBackend
            batch = collate(systems, dtype=torch.float64, device=self._device)
            labels = collate_labels(systems, dtype=torch.float64, device=self._device)
            prediction = self._switch.predict(
                batch,
                with_stress=True,
                with_features=self._uncertainty is not None,
            )
            errors = Errors()
            errors.as_in_file.add(prediction, labels)
            judged = [prediction]
            predictions = averaged = _split(prediction, systems)
            if self._n_orientations:
                numbers = range(first, first + len(systems))
                mean, judged = self._turn(batch, labels, prediction, numbers, errors)
                averaged = _split(mean, systems)
            if self._uncertainty is not None:
                total, per_atom = self._estimate(batch, prediction)
                for each in judged:
                    errors.add_reliability(each, labels, total)
                predictions = _add_uncertainties(predictions, total, per_atom)
            first += len(systems)
            yield PredictedBatch(predictions, errors, averaged)

    def _estimate(self, batch: Batch, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Return the uncertainties of totals and of the atoms' energies, in eV."""
        assert self._uncertainty is not None
        assert prediction.features is not None  # asked for
        per_atom = prediction.features.to(torch.float64)
        total = self._uncertainty(sum_over_systems(per_atom, batch))
        return total, self._uncertainty(per_atom)

    def _turn(
        self,
        batch: Batch,
        labels: Labels,
        as_in_file: Prediction,
        numbers: Sequence[int],
        errors: Errors,
    ) -> tuple[Prediction, list[Prediction]]:
        """Evaluate a batch in random orientations and add its errors, in place.

        Returns the mean over these and the file's, and those in random orientations,
        all turned back.
        """
        found = [as_in_file]
        for k in range(self._n_orientations):
            orientation = AS_JUDGED if k == 0 else FURTHER
            matrices = torch.from_numpy(orientation.draw(k, numbers)).to(self._device)
            prediction = self._switch.predict(
                turn_batch(batch, matrices), with_stress=True
            )
            errors.turned.add(
                prediction, turn_labels(labels, matrices, batch.system_of_atom)
            )
            found.append(turn_back(prediction, matrices, batch.system_of_atom))
        for name, spreads in compute_spreads(found, batch, labels.n_atoms).items():
            errors.spread.add(name, spreads)
        return average(found), found[1:]


def predict_frames(
    model: PET,
    frames: Iterable[LabeledFrame],
    target: str,
    metrics: Metrics,
    *,
    progress: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Iterator[FramePrediction]:
    """Yield predictions frame by frame, adding their errors to ``metrics``.

    Settings and errors are those of ``BatchPredictor``.
    """
    predictor = BatchPredictor(model, target, **settings)
    for batch in predictor.predict(frames, progress):
        metrics.merge(batch.errors.as_in_file)
        yield from batch.predictions


def _split(prediction: Prediction, systems: Sequence[System]) -> list[FramePrediction]:
    """Return what a prediction says about each of its frames."""
    assert prediction.forces is not None  # asked for
    assert prediction.stress is not None
    sizes = [system.n_atoms for system in systems]
    forces = prediction.forces.cpu().to(torch.float64).split(sizes)
    stress = prediction.stress.cpu().to(torch.float64)
    energies = prediction.energy.tolist()
    return [
        FramePrediction(
            frame=system.frame,
            energy=energies[i],
            forces=forces[i].numpy(),
            stress=stress[i].numpy() if system.frame.pbc.all() else None,
        )
        for i, system in enumerate(systems)
    ]


def _add_uncertainties(
    predictions: list[FramePrediction], total: Tensor, per_atom: Tensor
) -> list[FramePrediction]:
    """Return the predictions with the uncertainties of their batch."""
    parts = per_atom.cpu().split([each.frame.n_atoms for each in predictions])
    return [
        each._replace(energy_uncertainty=value, energies_uncertainty=part.numpy())
        for each, value, part in zip(predictions, total.tolist(), parts, strict=True)
    ]


def check_each(model: PET, frames: Iterable[LabeledFrame]) -> Iterator[LabeledFrame]:
    """Yield frames that the model can answer for; raise at the first other one."""
    for frame in frames:
        check_elements([frame], model.atomic_types)
        check_frame_state(model, frame)
        yield frame

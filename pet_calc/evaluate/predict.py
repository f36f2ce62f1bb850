"""Run a model over many structures: errors where there are labels, and predictions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.data.graph import Graph, build_graph, collate, collate_labels
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.requests import check_charge_and_spin
from pet_calc.fast.switch import Compile, ModelSwitch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.pet import PET

# pairs and atoms that one batch may hold: about 1 GB for a mid-sized model
DEFAULT_BATCH_TOKENS = 20_000


class FramePrediction(NamedTuple):
    """What the model says about one frame, in eV and Å."""

    frame: LabeledFrame
    energy: float
    forces: np.ndarray
    """[n_atoms, 3]."""
    stress: np.ndarray | None
    """[3, 3], positive in tension; None unless periodic in all directions."""

    def to_atoms(self) -> Atoms:
        """Return the structure with the predictions as its results."""
        atoms = self.frame.to_atoms()
        results: dict[str, Any] = {"energy": self.energy, "forces": self.forces}
        if self.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(self.stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


class PredictedBatch(NamedTuple):
    """The predictions of frames that were evaluated together, and their errors."""

    predictions: list[FramePrediction]
    metrics: Metrics


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
    ) -> None:
        """Set up.

        Args:
            model: on its device.
            target: energy output to use.
            batch_tokens: pairs and atoms evaluated at once.
            compile: whether to use the compiled engine, as for ``PETCalculator``; a
                batch counts as an evaluation.
            precision: ``exact`` or ``mixed``, likewise.

        Raises:
            ConfigError: if the compiled engine was asked for and cannot run.
        """
        self._model = model
        self._batch_tokens = batch_tokens
        self._device = model.edge_embedder.weight.device
        self._switch = ModelSwitch(model, target, compile=compile, precision=precision)

    def predict(
        self,
        frames: Iterable[LabeledFrame],
        progress: Callable[[Any], Any] | None = None,
    ) -> Iterator[PredictedBatch]:
        """Yield the predictions of one batch of frames after the other, in order.

        Frames are taken as they are needed, a batch at a time. Those in a sequence are
        looked over before the first batch, those of a stream as they come. Which
        frames share a batch depends on these frames alone.

        Args:
            frames: with or without labels.
            progress: wraps the iteration over frames.

        Raises:
            DataError: if a frame has an element that the model does not know.
            ModelError: likewise for charge and spin multiplicity.
        """
        if isinstance(frames, Sequence):
            check_elements(frames, self._model.atomic_types)
            for frame in frames:
                _check_state(self._model, frame)
            shown: Iterable[LabeledFrame] = frames
        else:
            shown = _check_each(self._model, frames)
        shown = progress(shown) if progress else shown
        for graphs in _pack(shown, self._model.pair_cutoff, self._batch_tokens):
            # positions in float64, see ModelEngine
            batch = collate(graphs, dtype=torch.float64, device=self._device)
            labels = collate_labels(graphs, dtype=torch.float64, device=self._device)
            prediction = self._switch.predict(batch, with_stress=True)
            metrics = Metrics()
            metrics.add(prediction, labels)
            yield PredictedBatch(_split(prediction, graphs), metrics)


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
        metrics.merge(batch.metrics)
        yield from batch.predictions


def _split(prediction: Prediction, graphs: Sequence[Graph]) -> list[FramePrediction]:
    """Return what a prediction says about each of its frames."""
    assert prediction.forces is not None  # asked for
    assert prediction.stress is not None
    sizes = [graph.n_atoms for graph in graphs]
    forces = prediction.forces.cpu().to(torch.float64).split(sizes)
    stress = prediction.stress.cpu().to(torch.float64)
    energies = prediction.energy.tolist()
    return [
        FramePrediction(
            frame=graph.frame,
            energy=energies[i],
            forces=forces[i].numpy(),
            stress=stress[i].numpy() if graph.frame.pbc.all() else None,
        )
        for i, graph in enumerate(graphs)
    ]


def _check_each(model: PET, frames: Iterable[LabeledFrame]) -> Iterator[LabeledFrame]:
    """Yield frames that the model can answer for; raise at the first other one."""
    for frame in frames:
        check_elements([frame], model.atomic_types)
        _check_state(model, frame)
        yield frame


def _check_state(model: PET, frame: LabeledFrame) -> None:
    check_charge_and_spin(model, frame.charge, frame.spin_multiplicity, frame.source)


def _pack(
    frames: Iterable[LabeledFrame], cutoff: float, largest: int
) -> Iterator[list[Graph]]:
    """Yield runs of graphs of at most ``largest`` pairs and atoms, in order."""
    graphs: list[Graph] = []
    filled = 0
    for frame in frames:
        graph = build_graph(frame, cutoff)
        size = graph.n_pairs + graph.n_atoms
        if graphs and filled + size > largest:
            yield graphs
            graphs, filled = [], 0
        graphs.append(graph)
        filled += size
    if graphs:
        yield graphs

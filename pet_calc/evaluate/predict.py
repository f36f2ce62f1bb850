"""Run a model over many structures: errors where there are labels, and predictions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.data.graph import Graph, build_graph, collate, collate_labels
from pet_calc.errors import ConfigError
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.requests import check_charge_and_spin
from pet_calc.model.derivatives import predict
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


def predict_frames(
    model: PET,
    frames: Sequence[LabeledFrame],
    target: str,
    metrics: Metrics,
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    progress: Callable[[Any], Any] | None = None,
) -> Iterator[FramePrediction]:
    """Yield predictions frame by frame, adding their errors to ``metrics``.

    Args:
        model: on its device.
        frames: with or without labels.
        target: energy output to use.
        metrics: collects the errors of frames that have labels.
        batch_tokens: pairs and atoms evaluated at once.
        progress: wraps the iteration over frames.

    Raises:
        DataError: if a frame has an element that the model does not know.
        ModelError: likewise for charge and spin multiplicity.
    """
    check_elements(frames, model.atomic_types)
    for frame in frames:
        check_charge_and_spin(
            model, frame.charge, frame.spin_multiplicity, frame.source
        )
    device = model.edge_embedder.weight.device
    shown = progress(frames) if progress else frames
    for graphs in _pack(shown, model.pair_cutoff, batch_tokens):
        # positions in float64, see ModelEngine
        batch = collate(graphs, dtype=torch.float64, device=device)
        labels = collate_labels(graphs, dtype=torch.float64, device=device)
        prediction = predict(model, batch, target, with_stress=True)
        metrics.add(prediction, labels)
        assert prediction.forces is not None  # asked for above
        assert prediction.stress is not None
        sizes = labels.n_atoms.tolist()
        forces = prediction.forces.cpu().to(torch.float64).split(sizes)
        stress = prediction.stress.cpu().to(torch.float64)
        for i, graph in enumerate(graphs):
            yield FramePrediction(
                frame=graph.frame,
                energy=float(prediction.energy[i]),
                forces=forces[i].numpy(),
                stress=stress[i].numpy() if graph.frame.pbc.all() else None,
            )


def write_predictions(path: str | Path, predictions: Iterator[FramePrediction]) -> None:
    """Write predictions as extended XYZ while they come; complete or not at all.

    Raises:
        ConfigError: if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as file:
            for prediction in predictions:
                ase.io.write(file, prediction.to_atoms(), format="extxyz")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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

"""Predictions of frames beside their labels, kept for plots and tables of groups."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pet_calc.data.loader import MicroBatch
from pet_calc.data.read_dataset import Frames
from pet_calc.data.stored import StoredFrames
from pet_calc.data.systems import Labels
from pet_calc.model.derivatives import Prediction
from pet_calc.system.ranks import Ranks

Indices = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float32]

# of a set: 3.6 MB in a file, and more points than a plot can show one by one
MOST_FRAMES = 10_000
MOST_ATOMS = 100_000


@dataclass
class KeptPredictions:
    """Predictions of a target for frames of a set, beside labels; NaN where missing.

    Energies lack the composition, and vectors are those of the orientation in which
    the frames are judged.
    """

    index: Indices
    """[n_frames], ascending, in the set."""
    n_atoms: npt.NDArray[np.int32]
    """[n_frames]."""
    energy_label: Reals
    """[n_frames], eV/atom."""
    energy: Reals
    """[n_frames], eV/atom."""
    stress_label: Reals
    """[n_frames, 3, 3], eV/Å^3."""
    stress: Reals
    """[n_frames, 3, 3], eV/Å^3."""
    numbers: npt.NDArray[np.uint8]
    """[n_atoms of all frames], atomic numbers."""
    forces_label: Reals
    """[n_atoms of all frames, 3], eV/Å."""
    forces: Reals
    """[n_atoms of all frames, 3], eV/Å."""

    @property
    def frame_of_atom(self) -> Indices:
        """[n_atoms of all frames], place of the atom's frame in ``index``."""
        return np.repeat(np.arange(len(self.index)), self.n_atoms)

    def take(self, places: Indices) -> "KeptPredictions":
        """Return the frames at some places, in this order."""
        starts = np.concatenate([[0], np.cumsum(self.n_atoms)]).astype(np.int64)
        rows = [np.arange(starts[i], starts[i + 1]) for i in places.tolist()]
        atoms = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        values = {
            name: getattr(self, name)[atoms if name in _OF_ATOMS else places]
            for name in FIELDS
        }
        return KeptPredictions(**values)

    def has_same_labels(self, other: "KeptPredictions") -> bool:
        """Return whether both are of the same frames with the same labels."""
        return all(
            np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for name in ("index", "n_atoms", "numbers", *_LABELS)
            for mine, theirs in [(getattr(self, name), getattr(other, name))]
        )

    @classmethod
    def join(cls, parts: Sequence["KeptPredictions"]) -> "KeptPredictions":
        """Return the frames of all parts, in the order of their indices."""
        values = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in FIELDS
        }
        joined = cls(**values)
        return joined.take(np.argsort(joined.index, kind="stable"))


FIELDS = tuple(field.name for field in fields(KeptPredictions))
_OF_ATOMS = ("numbers", "forces_label", "forces")
_LABELS = ("energy_label", "stress_label", "forces_label")


class PredictionKeeper:
    """Takes predictions batch by batch: of chosen frames, and of the worst of all.

    What it holds does not grow with the number of frames that pass.
    """

    def __init__(self, chosen: Indices, n_worst: int = 0) -> None:
        """Set up.

        Args:
            chosen: ascending indices of the frames to keep.
            n_worst: of all frames, how many to keep as well.
        """
        self.chosen = chosen
        self._n_worst = n_worst
        self._parts: dict[str, list[KeptPredictions]] = {}
        self._worst: dict[str, list[tuple[float, int, KeptPredictions]]] = {}

    def add(
        self, target: str, part: MicroBatch, prediction: Prediction, labels: Labels
    ) -> None:
        """Take a batch; energies of predictions and labels both lack the composition.

        Args:
            target: that was predicted.
            part: the frames.
            prediction: of the target.
            labels: to compare with.
        """
        batch = _to_arrays(part, prediction, labels)
        is_chosen = np.isin(batch.index, self.chosen)
        if is_chosen.any():
            chosen = batch.take(np.flatnonzero(is_chosen))
            self._parts.setdefault(target, []).append(chosen)
        if not self._n_worst:
            return
        heap = self._worst.setdefault(target, [])
        errors = rank_frames(batch)
        for place in np.flatnonzero(np.isfinite(errors)).tolist():
            error = float(errors[place])
            if len(heap) < self._n_worst or error > heap[0][0]:
                frame = batch.take(np.array([place]))
                heapq.heappush(heap, (error, int(frame.index[0]), frame))
            if len(heap) > self._n_worst:
                heapq.heappop(heap)

    def list_worst(self, target: str) -> set[int]:
        """Return the numbers of the frames that are the worst so far."""
        return {number for _, number, _ in self._worst.get(target, [])}

    def collect(self, ranks: Ranks) -> "KeptSet":
        """Return what all processes have kept, in the first one; nothing in others."""
        found = ranks.gather((self._parts, self._worst))
        kept: dict[str, list[KeptPredictions]] = {}
        worst: dict[str, list[tuple[float, int, KeptPredictions]]] = {}
        for parts, heaps in found:
            for target, own in parts.items():
                kept.setdefault(target, []).extend(own)
            for target, heap in heaps.items():
                worst.setdefault(target, []).extend(heap)
        return KeptSet(
            {target: KeptPredictions.join(parts) for target, parts in kept.items()},
            {
                target: [
                    frame for _, _, frame in sorted(heap, key=lambda entry: -entry[0])
                ][: self._n_worst]
                for target, heap in worst.items()
            },
        )


@dataclass
class KeptSet:
    """What was kept of a set, by target."""

    kept: dict[str, KeptPredictions]
    """Of the chosen frames."""
    worst: dict[str, list[KeptPredictions]]
    """One frame each, the worst first."""


def choose_kept(
    frames: Frames, *, most_frames: int = MOST_FRAMES, most_atoms: int = MOST_ATOMS
) -> Indices:
    """Return evenly spread frames, ascending; all if these are few enough."""
    n_frames = len(frames)
    if n_frames == 0:
        return np.zeros(0, np.int64)
    if isinstance(frames, StoredFrames):
        n_atoms = float(frames.read_column("n_atoms").sum(dtype=np.float64))
    else:
        n_atoms = float(sum(frame.n_atoms for frame in frames))
    return spread_evenly(
        n_frames, n_atoms, most_frames=most_frames, most_atoms=most_atoms
    )


def spread_evenly(
    n_frames: int,
    n_atoms: float,
    *,
    most_frames: int = MOST_FRAMES,
    most_atoms: int = MOST_ATOMS,
) -> Indices:
    """Return evenly spread numbers of frames that have so many atoms in all."""
    if n_frames == 0:
        return np.zeros(0, np.int64)
    fitting = int(most_atoms / (n_atoms / n_frames))
    n_kept = max(1, min(n_frames, most_frames, fitting))
    spread = np.linspace(0, n_frames - 1, n_kept).round().astype(np.int64)
    return np.unique(spread)


def rank_frames(kept: KeptPredictions) -> npt.NDArray[np.float64]:
    """Return how wrong each frame is, [n_frames]; NaN without labels.

    It is the root mean square error of its forces, or without forces the error of its
    energy per atom.
    """
    squares = np.square((kept.forces - kept.forces_label).astype(np.float64))
    sums = np.zeros(len(kept.index))
    np.add.at(sums, kept.frame_of_atom, squares.mean(axis=1))
    errors = np.sqrt(sums / kept.n_atoms)
    of_energy = np.abs(kept.energy - kept.energy_label)
    return errors if np.isfinite(errors).any() else of_energy.astype(np.float64)


def _to_arrays(
    part: MicroBatch, prediction: Prediction, labels: Labels
) -> KeptPredictions:
    n_atoms = labels.n_atoms.cpu().numpy().astype(np.int32)
    n_rows = len(part.batch.species)

    def to_array(values: Tensor | None, shape: tuple[int, ...]) -> Any:
        if values is None:
            return np.full(shape, np.nan, dtype=np.float32)
        return values.detach().cpu().numpy().astype(np.float32)

    def to_labels(values: Tensor, is_there: Tensor) -> Any:
        found = values.detach().cpu().numpy().astype(np.float32)
        found[~is_there.cpu().numpy()] = np.nan
        return found

    systems = (len(n_atoms), 3, 3)
    return KeptPredictions(
        index=np.array(part.indices, dtype=np.int64),
        n_atoms=n_atoms,
        energy_label=to_labels(labels.energy / labels.n_atoms, labels.has_energy),
        energy=to_array(prediction.energy / labels.n_atoms, (len(n_atoms),)),
        stress_label=to_labels(labels.stress, labels.has_stress),
        stress=to_array(prediction.stress, systems),
        numbers=part.batch.species.cpu().numpy().astype(np.uint8),
        forces_label=to_labels(labels.forces, labels.has_forces),
        forces=to_array(prediction.forces, (n_rows, 3)),
    )

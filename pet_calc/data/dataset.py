"""Frames with their neighbour lists, and what a loss has to know of their labels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import LabeledFrame, Progress
from pet_calc.data.systems import System, build_system
from pet_calc.data.store import (
    HAS_DIRECT_FORCES,
    HAS_DIRECT_STRESS,
    HAS_ENERGY,
    HAS_FORCES,
    HAS_STRESS,
    FrameStore,
    write_array,
)
from pet_calc.data.stored import StoredFrames
from pet_calc.system.locks import hold_lock

# fewer frames are done before other processes have started; stored frames that a worker
# gets at a time
_FEW = 1000
# frames that a worker gets at a time: handing them over one by one costs too much
_CHUNK = 64


class LabelTotals(NamedTuple):
    """Sums of the frames' weights, over which losses are averaged."""

    energy: float
    """Over frames with an energy."""
    forces: float
    """Over atoms of frames with forces."""
    stress: float
    """Over frames with a stress."""
    direct_forces: float = 0.0
    """Over atoms of frames with forces for a direct head."""
    direct_stress: float = 0.0
    """Over frames with a stress for a direct head."""
    frames: float = 0.0
    """Over all frames."""
    atoms: float = 0.0
    """Over the atoms of all frames."""

    def double(self) -> "LabelTotals":
        """Return the totals of frames that are all there twice."""
        return LabelTotals(*(2 * value for value in self))


_LABELS = ("energy", "forces", "stress", "direct_forces", "direct_stress")


class SystemDataset:
    """Frames whose neighbour lists are computed once, on first use, and kept."""

    def __init__(self, frames: Sequence[LabeledFrame], cutoff: float) -> None:
        self.frames = frames
        self.cutoff = cutoff
        self._systems: list[System | None] = [None] * len(frames)
        self._tokens: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> System:
        system = self._systems[index]
        if system is None:
            system = build_system(self.frames[index], self.cutoff)
            self._systems[index] = system
        return system

    def prepare(self, progress: Progress | None = None, *, n_workers: int = 0) -> None:
        """Compute what is not computed yet.

        Args:
            progress: wraps the iteration over frames.
            n_workers: processes to compute many frames in; 0 does it here.
        """
        missing = [i for i, system in enumerate(self._systems) if system is None]
        shown: Iterable[int] = progress(missing) if progress else missing
        for index, system in zip(shown, self._compute(missing, n_workers), strict=True):
            self._systems[index] = system

    def select(self, indices: Sequence[int]) -> "SystemDataset":
        """Return some of the frames, with the neighbour lists that are there."""
        chosen = SystemDataset([self.frames[i] for i in indices], self.cutoff)
        chosen._systems = [self[i] for i in indices]
        return chosen

    def count_tokens(self) -> npt.NDArray[np.int64]:
        """Return pairs plus atoms of each frame, [n_frames]: what the model costs."""
        if self._tokens is None:
            sizes = [self[i].n_pairs + self[i].n_atoms for i in range(len(self))]
            self._tokens = np.array(sizes, dtype=np.int64)
        return self._tokens

    def measure(self, indices: Iterable[int]) -> LabelTotals:
        """Return what the losses of some frames are averaged over."""
        totals = dict.fromkeys(LabelTotals._fields, 0.0)
        for index in indices:
            frame = self.frames[index]
            totals["frames"] += frame.weight
            totals["atoms"] += frame.weight * frame.n_atoms
            for name in _LABELS:
                if getattr(frame, name) is not None:
                    n_rows = frame.n_atoms if name.endswith("forces") else 1
                    totals[name] += frame.weight * n_rows
        return LabelTotals(**totals)

    def _compute(self, indices: list[int], n_workers: int) -> Iterator[System]:
        if n_workers < 2 or len(indices) < _FEW:
            for index in indices:
                yield build_system(self.frames[index], self.cutoff)
            return
        frames = (self.frames[index] for index in indices)
        with ProcessPoolExecutor(n_workers) as pool:
            all_pairs = pool.map(
                _compute_pairs, frames, repeat(self.cutoff), chunksize=_CHUNK
            )
            for index, pairs in zip(indices, all_pairs, strict=True):
                yield System(self.frames[index], self.cutoff, *pairs)


class StreamedDataset(SystemDataset):
    """Stored frames, whose neighbour lists are made when they are asked for.

    Nothing of a frame is kept, so that memory does not grow with their number.
    """

    def __init__(self, frames: StoredFrames, cutoff: float) -> None:
        super().__init__((), cutoff)
        self.frames: StoredFrames = frames

    def __getitem__(self, index: int) -> System:
        return build_system(self.frames[index], self.cutoff)

    def prepare(self, progress: Progress | None = None, *, n_workers: int = 0) -> None:
        """Count pairs and atoms of each frame, see ``count_tokens``."""
        if self._tokens is None:
            self._tokens = count_stored_tokens(
                self.frames, self.cutoff, progress=progress, n_workers=n_workers
            )

    def count_tokens(self) -> npt.NDArray[np.int64]:
        """Return pairs plus atoms of each frame, [n_frames]: what the model costs."""
        self.prepare()
        assert self._tokens is not None
        return self._tokens

    def measure(self, indices: Iterable[int]) -> LabelTotals:
        """Return what the losses of some frames are averaged over."""
        chosen = np.fromiter(indices, dtype=np.int64)
        weights = self.frames.read_weights(chosen)
        flags = self.frames.read_column("flags", chosen)
        n_atoms = self.frames.read_column("n_atoms", chosen)
        return LabelTotals(
            energy=float(weights[(flags & HAS_ENERGY) > 0].sum()),
            forces=float((weights * n_atoms)[(flags & HAS_FORCES) > 0].sum()),
            stress=float(weights[(flags & HAS_STRESS) > 0].sum()),
            direct_forces=float(
                (weights * n_atoms)[(flags & HAS_DIRECT_FORCES) > 0].sum()
            ),
            direct_stress=float(weights[(flags & HAS_DIRECT_STRESS) > 0].sum()),
            frames=float(weights.sum()),
            atoms=float((weights * n_atoms).sum()),
        )


def make_dataset(frames: Sequence[LabeledFrame], cutoff: float) -> SystemDataset:
    """Return the frames with neighbour lists, kept only if the frames are as well."""
    if isinstance(frames, StoredFrames):
        return StreamedDataset(frames, cutoff)
    return SystemDataset(frames, cutoff)


def count_stored_tokens(
    frames: StoredFrames,
    cutoff: float,
    *,
    progress: Progress | None = None,
    n_workers: int = 0,
) -> npt.NDArray[np.int64]:
    """Return pairs plus atoms of stored frames, [n_frames].

    They are counted once for each store and cutoff, and kept beside it.
    """
    counts = np.empty(len(frames), dtype=np.int64)
    for number, store in enumerate(frames.stores):
        path = store.folder.with_name(f"{store.folder.name}.tokens-{cutoff:.6g}.npy")
        # of several processes one counts, and the others wait for it
        with hold_lock(path.with_suffix(".lock")):
            if not path.exists():
                starts = range(0, len(store), _FEW)
                shown = progress(starts) if progress else starts
                with _open_pool(n_workers) as run:
                    parts = run(_count, repeat(store.folder), shown, repeat(cutoff))
                    write_array(path, np.concatenate(list(parts)))
        is_here = frames.which == number
        counts[is_here] = np.load(path, mmap_mode="r")[frames.rows[is_here]]
    return counts


@contextmanager
def _open_pool(n_workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a ``map`` that works in this process, or in others."""
    if n_workers == 0:
        yield map
        return
    with ProcessPoolExecutor(n_workers) as pool:
        yield pool.map


def _count(folder: Path, start: int, cutoff: float) -> npt.NDArray[np.int64]:
    """Return pairs plus atoms of the next ``_FEW`` frames of a store."""
    store = _open_store(folder)
    frames = map(store.read, range(start, min(start + _FEW, len(store))))
    systems = (build_system(frame, cutoff) for frame in frames)
    return np.array([system.n_pairs + system.n_atoms for system in systems])


@lru_cache(maxsize=1)
def _open_store(folder: Path) -> FrameStore:
    return FrameStore(folder)


def _compute_pairs(frame: LabeledFrame, cutoff: float) -> tuple[Any, ...]:
    """Return the arrays of a system; the frame need not come back from a worker."""
    system = build_system(frame, cutoff)
    return system.centers, system.neighbors, system.cell_shifts, system.reverse

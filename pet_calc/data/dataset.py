"""Frames with their neighbour lists, and what a loss has to know of their labels."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import LabeledFrame, Progress
from pet_calc.data.graph import Graph, build_graph

# fewer frames are done before other processes have started
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


class GraphDataset:
    """Frames whose neighbour lists are computed once, on first use, and kept."""

    def __init__(self, frames: Sequence[LabeledFrame], cutoff: float) -> None:
        self.frames = frames
        self.cutoff = cutoff
        self._graphs: list[Graph | None] = [None] * len(frames)
        self._tokens: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Graph:
        graph = self._graphs[index]
        if graph is None:
            graph = build_graph(self.frames[index], self.cutoff)
            self._graphs[index] = graph
        return graph

    def prepare(self, progress: Progress | None = None, *, n_workers: int = 0) -> None:
        """Compute what is not computed yet.

        Args:
            progress: wraps the iteration over frames.
            n_workers: processes to compute many frames in; 0 does it here.
        """
        missing = [i for i, graph in enumerate(self._graphs) if graph is None]
        shown: Iterable[int] = progress(missing) if progress else missing
        for index, graph in zip(shown, self._compute(missing, n_workers), strict=True):
            self._graphs[index] = graph

    def select(self, indices: Sequence[int]) -> "GraphDataset":
        """Return some of the frames, with the neighbour lists that are there."""
        chosen = GraphDataset([self.frames[i] for i in indices], self.cutoff)
        chosen._graphs = [self[i] for i in indices]
        return chosen

    def count_tokens(self) -> npt.NDArray[np.int64]:
        """Return pairs plus atoms of each frame, [n_frames]: what the model costs."""
        if self._tokens is None:
            sizes = [self[i].n_pairs + self[i].n_atoms for i in range(len(self))]
            self._tokens = np.array(sizes, dtype=np.int64)
        return self._tokens

    def measure(self, indices: Iterable[int]) -> LabelTotals:
        """Return what the losses of some frames are averaged over."""
        energy = forces = stress = 0.0
        for index in indices:
            frame = self.frames[index]
            energy += frame.weight * (frame.energy is not None)
            forces += frame.weight * frame.n_atoms * (frame.forces is not None)
            stress += frame.weight * (frame.stress is not None)
        return LabelTotals(energy, forces, stress)

    def _compute(self, indices: list[int], n_workers: int) -> Iterator[Graph]:
        if n_workers < 2 or len(indices) < _FEW:
            for index in indices:
                yield build_graph(self.frames[index], self.cutoff)
            return
        frames = (self.frames[index] for index in indices)
        with ProcessPoolExecutor(n_workers) as pool:
            all_pairs = pool.map(
                _compute_pairs, frames, repeat(self.cutoff), chunksize=_CHUNK
            )
            for index, pairs in zip(indices, all_pairs, strict=True):
                yield Graph(self.frames[index], self.cutoff, *pairs)


def _compute_pairs(frame: LabeledFrame, cutoff: float) -> tuple[Any, ...]:
    """Return the arrays of a graph; the frame need not come back from a worker."""
    graph = build_graph(frame, cutoff)
    return graph.centers, graph.neighbors, graph.cell_shifts, graph.reverse

"""Serve frames in batches, the same ones for the same seed and epoch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pet_calc.data.frames import LabeledFrame, Progress
from pet_calc.data.graph import Graph, Labels, build_graph, collate, collate_labels
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch


class GraphDataset:
    """Frames whose neighbour lists are computed once, on first use, and kept."""

    def __init__(self, frames: Sequence[LabeledFrame], cutoff: float) -> None:
        self.frames = frames
        self.cutoff = cutoff
        self._graphs: list[Graph | None] = [None] * len(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Graph:
        graph = self._graphs[index]
        if graph is None:
            graph = build_graph(self.frames[index], self.cutoff)
            self._graphs[index] = graph
        return graph

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute what is not computed yet; ``progress`` wraps the iteration."""
        indices: Iterable[int] = range(len(self))
        for index in progress(indices) if progress else indices:
            self[index]

    def count_tokens(self) -> npt.NDArray[np.int64]:
        """Return pairs plus atoms of each frame, [n_frames]: what the model costs."""
        sizes = [self[i].n_pairs + self[i].n_atoms for i in range(len(self))]
        return np.array(sizes, dtype=np.int64)


class BatchLoader:
    """Batches of a data set, shuffled by (seed, epoch) and nothing else.

    A run that resumes in epoch 7 after 3 batches calls ``iterate(7, start=3)`` and
    sees what the uninterrupted one sees.
    """

    def __init__(
        self,
        dataset: GraphDataset,
        size: int,
        *,
        by: Literal["frames", "tokens"] = "frames",
        shuffle: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Set up; neighbour lists are computed on first use.

        Args:
            dataset: the frames.
            size: largest size of a batch, in frames or in tokens (pairs plus atoms).
            by: what ``size`` counts. Packing by tokens bounds memory where frames
                differ in size; a frame larger than ``size`` is a batch of its own.
            shuffle: whether each epoch has its own order.
            seed: of the order.
            dtype: of positions, forces and stress.
            device: where the tensors go.
        """
        if size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {size}")
        if by not in ("frames", "tokens"):
            raise ConfigError(f"batches are by 'frames' or 'tokens', not by {by!r}")
        self.dataset = dataset
        self.size = size
        self.by = by
        self.shuffle = shuffle
        self.seed = seed
        self.dtype = dtype
        self.device = device

    def plan(self, epoch: int = 0) -> list[list[int]]:
        """Return the frames of each batch of an epoch; each frame occurs once."""
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        if self.by == "frames":
            sizes = np.ones(len(order), dtype=np.int64)
        else:
            sizes = self.dataset.count_tokens()
        return pack_batches(order.tolist(), sizes, self.size)

    def iterate(
        self, epoch: int = 0, *, start: int = 0
    ) -> Iterator[tuple[Batch, Labels]]:
        """Yield the batches of an epoch, from batch ``start`` on."""
        for indices in self.plan(epoch)[start:]:
            graphs = [self.dataset[index] for index in indices]
            yield (
                collate(graphs, dtype=self.dtype, device=self.device),
                collate_labels(graphs, dtype=self.dtype, device=self.device),
            )

    def __iter__(self) -> Iterator[tuple[Batch, Labels]]:
        return self.iterate()


def pack_batches(
    order: Sequence[int], sizes: npt.NDArray[np.int64], largest: int
) -> list[list[int]]:
    """Cut ``order`` into runs whose ``sizes`` add up to at most ``largest``.

    Frames stay in order. One that is larger than ``largest`` gets a run of its own.
    """
    batches: list[list[int]] = []
    filled = 0
    for index in order:
        size = int(sizes[index])
        if not batches or filled + size > largest:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += size
    return batches

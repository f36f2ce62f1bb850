"""Serve frames in steps, the same ones for the same seed and epoch."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pet_calc.data.dataset import LabelTotals, SystemDataset
from pet_calc.data.orientation import (
    AS_JUDGED,
    Orientation,
    turn_batch,
    turn_labels,
)
from pet_calc.data.systems import (
    Labels,
    System,
    collate,
    collate_direct_labels,
    collate_labels,
)
from pet_calc.errors import ConfigError, PetCalcError
from pet_calc.model.batch import Batch
from pet_calc.system.ranks import ALONE, Ranks

Indices = npt.NDArray[np.int64]
Item = TypeVar("Item")
StepSize = Literal["frames", "tokens"]


class MicroBatch(NamedTuple):
    """What goes through the model at once: a part of a step, or all of it."""

    batch: Batch
    labels: dict[str, Labels]
    """By target; the same ones for all frames, as in ``LabeledFrame.labels``."""
    indices: tuple[int, ...]
    """Of the frames in the data set."""
    direct: dict[str, Labels]
    """Of direct heads that have labels of their own, by the energy that they go with;
    empty without any."""
    turns: Tensor | None = None
    """[n_systems, 3, 3], by which each system is turned, where every frame is there in
    two orientations, one after the other."""

    @property
    def n_frames(self) -> int:
        """Frames, those that are there twice counted once."""
        return len(self.indices) // (1 if self.turns is None else 2)

    @property
    def n_tokens(self) -> int:
        """Pairs plus atoms: what it costs."""
        return len(self.batch.centers) + len(self.batch.species)

    def divide(self) -> "list[MicroBatch]":
        """Return the batch once for each target, with the labels of this one alone."""
        return [
            self._replace(
                labels={name: labels},
                direct={k: v for k, v in self.direct.items() if k == name},
            )
            for name, labels in self.labels.items()
        ]

    def map_labels(self, change: Callable[[Labels], Labels]) -> "MicroBatch":
        """Return the batch with all its labels changed, those of direct heads too."""
        labels, direct = (
            {name: change(found) for name, found in table.items()}
            for table in (self.labels, self.direct)
        )
        return self._replace(labels=labels, direct=direct)


class Step(NamedTuple):
    """The frames between two updates of the weights, as far as they are this rank's."""

    parts: list[MicroBatch]
    """May be empty where there are more ranks than frames."""
    totals: LabelTotals
    """Of the frames of all ranks."""


class BatchLoader:
    """Steps of a data set, shuffled by (seed, epoch) and nothing else.

    A run that resumes in epoch 7 after 3 steps calls ``iterate_steps(7, start=3)`` and
    sees what the uninterrupted one sees.
    """

    def __init__(
        self,
        dataset: SystemDataset,
        size: int,
        *,
        by: StepSize = "frames",
        shuffle: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        most_tokens: int | None = None,
        ranks: Ranks = ALONE,
        n_workers: int = 0,
        orientation: Orientation | None = None,
        is_paired: bool = False,
        only: Indices | None = None,
    ) -> None:
        """Set up; neighbour lists are computed on first use.

        Args:
            dataset: the frames.
            size: of a step, in frames or in tokens (pairs plus atoms); a frame that is
                there twice counts once.
            by: what ``size`` counts. Steps by tokens cost the same each, where frames
                differ in size.
            shuffle: whether each epoch has its own order.
            seed: of the order.
            dtype: of positions, forces and stress.
            device: where the tensors go.
            most_tokens: that go through the model at once; a step that has more comes
                in several parts, a larger frame alone. None is no limit.
            ranks: the processes that share the work.
            n_workers: processes that prepare steps ahead; 0 does it here.
            orientation: how frames are turned; None leaves them as they are.
            is_paired: whether each frame is in its step in two orientations.
            only: indices of the frames to serve; None is all.
        """
        if size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {size}")
        if by not in ("frames", "tokens"):
            raise ConfigError(f"batches are by 'frames' or 'tokens', not by {by!r}")
        self.dataset = dataset
        self.size = size
        self.by: StepSize = by
        self.shuffle = shuffle
        self.seed = seed
        self.dtype = dtype
        self.device = torch.device(device)
        self.most_tokens = most_tokens
        self.ranks = ranks
        self.n_workers = n_workers
        self.orientation = orientation
        self.is_paired = is_paired
        self.only = np.arange(len(dataset)) if only is None else only
        self._sampler = _Plan()
        self._workers: DataLoader | None = None

    @property
    def n_steps(self) -> int:
        """Steps in an epoch, the same in each."""
        if self.by == "frames":
            return -(-len(self.only) // self.size)
        n_tokens = int(self.dataset.count_tokens()[self.only].sum())
        return min(-(-n_tokens // self.size), len(self.only))

    def judge(self, only: Indices) -> "BatchLoader":
        """Return a loader of some of the frames, in order, as models are judged.

        A frame stands there as in a loader that judges by all frames.
        """
        return BatchLoader(
            self.dataset,
            self.size,
            by=self.by,
            dtype=self.dtype,
            device=self.device,
            most_tokens=self.most_tokens,
            ranks=self.ranks,
            orientation=AS_JUDGED,
            only=only,
        )

    def plan(self, epoch: int = 0) -> list[Indices]:
        """Return the frames of each step of an epoch; each frame occurs once."""
        order = self.only
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        if self.by == "frames":
            return [order[i : i + self.size] for i in range(0, len(order), self.size)]
        return cut_evenly(order, self.dataset.count_tokens(), self.n_steps)

    def iterate_steps(self, epoch: int = 0, *, start: int = 0) -> Iterator[Step]:
        """Yield the steps of an epoch, from step ``start`` on."""
        plan = [(epoch, indices) for indices in self.plan(epoch)[start:]]
        maker = _StepMaker(
            self.dataset,
            self.ranks,
            self.dtype,
            self.most_tokens,
            self.orientation,
            self.is_paired,
        )
        if self.n_workers == 0:
            steps: Iterator[Step | PetCalcError] = starmap(maker.make, plan)
        else:
            if self._workers is None:
                self._workers = DataLoader(
                    maker,
                    batch_size=None,
                    sampler=self._sampler,
                    num_workers=self.n_workers,
                    collate_fn=_leave,
                    persistent_workers=True,
                )
            self._sampler.steps = plan
            steps = iter(self._workers)
        for step in steps:
            if isinstance(step, PetCalcError):
                raise step
            yield _move(step, self.device)

    def iterate(
        self, epoch: int = 0, *, start: int = 0
    ) -> Iterator[tuple[Batch, Labels]]:
        """Yield the parts of the steps of frames that have labels of one target."""
        for step in self.iterate_steps(epoch, start=start):
            for part in step.parts:
                (labels,) = part.labels.values()
                yield part.batch, labels

    def __iter__(self) -> Iterator[tuple[Batch, Labels]]:
        return self.iterate()


def pack(
    items: Iterable[Item], largest: int, measure: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yield runs of items whose sizes add up to at most ``largest``, in order.

    An item that is larger gets a run of its own. Items are taken as they are needed.
    """
    run: list[Item] = []
    filled = 0
    for item in items:
        size = measure(item)
        if run and filled + size > largest:
            yield run
            run, filled = [], 0
        run.append(item)
        filled += size
    if run:
        yield run


def _count_tokens(entry: tuple[int, System]) -> int:
    return entry[1].n_tokens


def cut_evenly(
    order: Indices, sizes: npt.NDArray[np.int64], n_steps: int
) -> list[Indices]:
    """Cut ``order`` into ``n_steps`` runs of nearly the same total size, none empty."""
    if n_steps == 0:
        return []
    ends = np.cumsum(sizes[order])
    wanted = ends[-1] * np.arange(1, n_steps) / n_steps
    cuts = np.searchsorted(ends, wanted, side="left") + 1
    # at least one frame each, and at least one left for each that follows
    steps = np.arange(1, n_steps)
    cuts = np.maximum.accumulate(np.maximum(cuts, steps) - steps) + steps
    cuts = np.minimum(cuts, len(order) - n_steps + steps)
    return np.split(order, cuts)


class _Plan:
    """A sampler whose steps are exchanged from epoch to epoch."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, Indices]] = []

    def __iter__(self) -> Iterator[tuple[int, Indices]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _StepMaker(Dataset):
    """Makes steps on the CPU, in this process or in a worker's."""

    def __init__(
        self,
        dataset: SystemDataset,
        ranks: Ranks,
        dtype: torch.dtype,
        most_tokens: int | None,
        orientation: Orientation | None,
        is_paired: bool,
    ) -> None:
        self.dataset = dataset
        self.is_paired = is_paired
        self.ranks = ranks
        self.dtype = dtype
        self.most_tokens = most_tokens
        self.orientation = orientation

    def __getitem__(self, entry: tuple[int, Indices]) -> Step | PetCalcError:
        try:
            return self.make(*entry)
        except PetCalcError as error:
            # a worker's error would arrive with the worker's traceback as its message
            return error

    def make(self, epoch: int, indices: Indices) -> Step:
        rank, n_ranks = self.ranks.rank, self.ranks.size
        # frames that have labels of the same targets go through the model together
        groups: dict[tuple[str, ...], list[tuple[int, System]]] = {}
        for index in indices[rank::n_ranks].tolist():
            system = self.dataset[index]
            groups.setdefault(tuple(system.frame.labels), []).append((index, system))
        parts = []
        for targets, entries in groups.items():
            n_copies = 2 if self.is_paired else 1
            largest = self.most_tokens or sys.maxsize
            for run in pack(entries, largest // n_copies, _count_tokens):
                chosen = [entry for entry in run for _ in range(n_copies)]
                systems = [system for _, system in chosen]
                direct = {
                    name: collate_direct_labels(systems, target=name, dtype=self.dtype)
                    for name in targets
                }
                part = MicroBatch(
                    # float64 also for a float32 model: only vectors are small
                    # enough to be rounded
                    collate(systems, dtype=torch.float64),
                    {
                        name: collate_labels(systems, target=name, dtype=self.dtype)
                        for name in targets
                    },
                    tuple(index for index, _ in chosen),
                    {
                        name: found
                        for name, found in direct.items()
                        if found is not None
                    },
                )
                parts.append(self._turn(part, epoch))
        totals = self.dataset.measure(indices)
        return Step(parts, totals.double() if self.is_paired else totals)

    def _turn(self, part: MicroBatch, epoch: int) -> MicroBatch:
        orientation = self.orientation
        if orientation is None:
            return part
        if self.is_paired:
            both = (orientation, orientation.find_second())
            draws = [each.draw(epoch, part.indices[::2]) for each in both]
            turns = torch.from_numpy(np.stack(draws, axis=1).reshape(-1, 3, 3))
        else:
            turns = torch.from_numpy(orientation.draw(epoch, part.indices))
        of_atom = part.batch.system_of_atom
        part = part.map_labels(lambda labels: turn_labels(labels, turns, of_atom))
        return part._replace(
            batch=turn_batch(part.batch, turns),
            turns=turns if self.is_paired else None,
        )


def _leave(step: Any) -> Any:
    return step


def _move(step: Step, device: torch.device) -> Step:
    if device.type == "cpu":
        return step
    parts = [
        part.map_labels(
            lambda labels: Labels(*(tensor.to(device) for tensor in labels))
        )._replace(
            batch=Batch(*(tensor.to(device) for tensor in part.batch)),
            turns=None if part.turns is None else part.turns.to(device),
        )
        for part in step.parts
    ]
    return step._replace(parts=parts)

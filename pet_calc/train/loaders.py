"""Make the batches of a run: how large, by how many processes, and whose share."""

import logging
import os

import torch

from pet_calc.config import RunOptions, TrainOptions
from pet_calc.data.dataset import SystemDataset, StreamedDataset, make_dataset
from pet_calc.data.frames import Progress
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import AS_JUDGED, TRAINING, Orientation
from pet_calc.system.ranks import Ranks
from pet_calc.train.datasets import RunFrames

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")


def build_datasets(frames: RunFrames, cutoff: float) -> dict[str, SystemDataset]:
    """Return training, validation and test set; those without frames are left out."""
    return {
        name: make_dataset(getattr(frames, name), cutoff)
        for name in PARTS
        if getattr(frames, name)
    }


def build_loaders(
    datasets: dict[str, SystemDataset],
    options: RunOptions,
    device: torch.device,
    ranks: Ranks,
    progress: Progress | None = None,
    stream: int = TRAINING,
) -> dict[str, BatchLoader]:
    """Return a loader of each set; that of the training set shuffles and turns.

    The frames of the others stand in an orientation of their own, the same in each
    epoch and run, whatever the training's ``augmentation`` is: the errors are those
    that a user meets.

    Neighbour lists of frames in memory are made here, shown by ``progress``; those of
    stored frames are made as they are needed, by other processes.

    Args:
        datasets: by name; ``train`` is what is trained on.
        options: of the run.
        device: where the batches go.
        ranks: the processes that share the work.
        progress: wraps the iteration over frames.
        stream: which of the run's random orientations the training set gets.
    """
    train = options.train
    # the replayed frames are more than there is time for already
    is_paired = train.consistency > 0 and stream == TRAINING
    n_workers = choose_workers(train, ranks)
    for dataset in datasets.values():
        # stored frames need not be looked at before, unless steps go by pairs
        if train.is_by_pairs or not isinstance(dataset, StreamedDataset):
            dataset.prepare(progress, n_workers=n_workers)
    size, by = train.frames_per_step, "frames"
    if train.is_by_pairs:
        by = "tokens"
        mean = float(datasets["train"].count_tokens().mean())
        size = train.pairs_per_batch or max(1, round(mean * train.frames_per_step))
        logger.info(
            "batches: of about %d pairs and atoms, %.1f structures on average",
            size,
            size / mean,
        )
    return {
        name: BatchLoader(
            dataset,
            max(1, size // 2) if name == "train" and is_paired else size,
            by=by,  # type: ignore[arg-type]
            shuffle=name == "train",
            seed=options.seed,
            dtype=torch.float64,
            device=device,
            most_tokens=train.max_pairs_per_batch,
            ranks=ranks,
            n_workers=n_workers if isinstance(dataset, StreamedDataset) else 0,
            orientation=choose_orientation(options, stream)
            if name == "train"
            else AS_JUDGED,
            is_paired=name == "train" and is_paired,
        )
        for name, dataset in datasets.items()
    }


def choose_orientation(options: RunOptions, stream: int) -> Orientation | None:
    """Return how frames that are trained on are turned, None for not at all."""
    kind = options.train.augmentation
    if kind == "none":
        return None
    return Orientation(kind, options.seed, stream)


def choose_workers(train: TrainOptions, ranks: Ranks) -> int:
    """Return how many processes compute neighbour lists, per process of the run."""
    if train.num_workers is not None:
        return train.num_workers
    n_cores = (os.cpu_count() or 1) // ranks.local_size
    return max(0, min(4, n_cores - 1))

"""Read the frames of a data set of the options, into memory or through a store."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pet_calc.config import replace
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.census import CensusCounter
from pet_calc.data.files import expand_paths
from pet_calc.data.frames import (
    NO_NAME,
    Indices,
    LabeledFrame,
    Progress,
    iterate_frames,
)
from pet_calc.data.label_options import build_label_source, build_label_sources
from pet_calc.data.labels import LabelSource
from pet_calc.data.records import ARRAY_BITS
from pet_calc.data.store import open_or_build_store
from pet_calc.data.stored import StoredFrames
from pet_calc.errors import DataError

# from this size of the files on; in memory frames and neighbour lists take several
# times as much
STORE_ABOVE_GB = 1.0
# of stored frames, which may be millions: more change no finding but their numbers
MOST_CHECKED = 20_000

logger = logging.getLogger(__name__)

Frames = Sequence[LabeledFrame]


@dataclass(frozen=True)
class StoreRule:
    """Whether frames go through a store, and where it lies."""

    root: Path
    """Folder of the stores; made when it is needed."""
    when: Literal["auto", "always", "never"] = "auto"
    """auto: from ``STORE_ABOVE_GB`` of files on."""

    def settle(self, files: Sequence[str]) -> "StoreRule":
        """Return the rule decided for some files; log why if the user did not say."""
        if self.when != "auto":
            return self
        size = sum(Path(file).stat().st_size for file in files) / 1e9
        if size < STORE_ABOVE_GB:
            return replace(self, when="never")
        logger.info(
            "data: %.1f GB in %d files; from %g GB on frames are not kept in memory "
            "but stored in %s (--store DIR: elsewhere; --store memory: keep them)",
            size,
            len(files),
            STORE_ABOVE_GB,
            self.root,
        )
        return replace(self, when="always")


def list_files(datasets: Sequence[DatasetOptions]) -> list[str]:
    """Return the files of data sets, globs expanded."""
    return [
        name
        for dataset in datasets
        for name, _ in expand_paths(list(dataset.read_from), dataset.index)
    ]


def join_datasets(datasets: Sequence[DatasetOptions]) -> list[DatasetOptions]:
    """Return the data sets, with one for those that differ in their targets only.

    These are the same frames of the same files, with labels of several targets.
    """
    joined: list[DatasetOptions] = []
    for dataset in datasets:
        place = next(
            (i for i, other in enumerate(joined) if _is_same_set(other, dataset)), None
        )
        if place is None:
            joined.append(dataset)
            continue
        other = joined[place]
        joined[place] = replace(other, targets=(*other.targets, *dataset.targets))
    return joined


def read_dataset(
    dataset: DatasetOptions,
    rule: StoreRule,
    *,
    main_target: str = "",
    progress: Progress | None = None,
) -> Frames:
    """Return the frames of a data set, with the labels of all of its energies.

    Args:
        dataset: what to read.
        rule: when frames are stored and not kept.
        main_target: energy with which the labels of direct heads go; empty is the
            first one.
        progress: wraps the iteration over frames.

    Raises:
        DataError: see ``iterate_frames``; also for a label that was asked for and is
            in no frame, and for frames that are not there.
    """
    labels = build_label_sources(dataset, main_target)
    if rule.settle(list_files([dataset])).when == "always":
        frames = _read_stored(dataset, labels, rule, progress)
    else:
        frames = list(_iterate(dataset, labels, dataset.weight, progress))
    frames = _drop_weightless(_choose(frames, dataset), dataset)
    _check_required(dataset, frames)
    return frames


def read_for_check(
    dataset: DatasetOptions, counter: CensusCounter | None = None
) -> list[LabeledFrame]:
    """Return the frames of a data set that are worth a closer look.

    Those of weight 0 are not. All others, or ``MOST_CHECKED`` drawn at random where the
    files are as large as those that training would store.

    Args:
        dataset: what to read.
        counter: counts all frames on the way.
    """
    size = sum(Path(file).stat().st_size for file in list_files([dataset])) / 1e9
    labels = {NO_NAME: build_label_source(dataset)}
    frames = _iterate(dataset, labels, dataset.weight, None)
    if counter is not None:
        frames = counter.watch(frames)
    frames = (frame for frame in frames if frame.weight > 0)
    if size < STORE_ABOVE_GB:
        return list(frames)
    return draw_frames(frames, MOST_CHECKED)


def draw_frames(
    frames: Iterable[LabeledFrame], n_frames: int, *, seed: int = 0
) -> list[LabeledFrame]:
    """Return frames of a stream of any length, each with the same probability.

    They keep their order. If there are no more than ``n_frames``, it is all of them.
    """
    random = np.random.default_rng(seed)
    drawn: list[tuple[int, LabeledFrame]] = []
    for i, frame in enumerate(frames):
        if i < n_frames:
            drawn.append((i, frame))
            continue
        place = int(random.integers(i + 1))
        if place < n_frames:
            drawn[place] = (i, frame)
    return [frame for _, frame in sorted(drawn, key=lambda entry: entry[0])]


def join_frames(parts: Sequence[Frames]) -> Frames:
    """Return the frames of all parts, which are all stored or all in memory."""
    stored = [part for part in parts if isinstance(part, StoredFrames)]
    if not stored:
        return [frame for part in parts for frame in part]
    assert len(stored) == len(parts)
    return StoredFrames.join(stored)


def take_frames(frames: Frames, indices: Any) -> Frames:
    """Return some of the frames, in the order of ``indices``."""
    if isinstance(frames, StoredFrames):
        return frames.take(np.asarray(indices, dtype=np.int64))
    return [frames[i] for i in indices]


def sample_stored(frames: Frames, n_frames: int) -> Frames:
    """Return at most ``n_frames`` of stored frames, in memory; all that are not stored.

    They are evenly spread, and with them comes a frame of each set of elements.
    """
    if not isinstance(frames, StoredFrames):
        return frames
    if len(frames) <= n_frames:
        return list(frames)
    spread = np.linspace(0, len(frames) - 1, n_frames).round().astype(np.int64)
    first = {
        tuple(kind["elements"]): int(indices[0])
        for kind, indices in frames.iterate_kinds()
    }
    return [frames[i] for i in sorted({*spread.tolist(), *first.values()})]


def list_targets(frames: Frames) -> list[str]:
    """Return the targets that frames have labels of, in the order of the frames."""
    if isinstance(frames, StoredFrames):
        return frames.names
    return list(dict.fromkeys(name for frame in frames for name in frame.labels))


def find_of_target(frames: Frames, name: str) -> Indices:
    """Return the indices of the frames that have labels of a target."""
    if isinstance(frames, StoredFrames):
        return np.flatnonzero(frames.has_target(name))
    return np.flatnonzero([name in frame.labels for frame in frames])


def select_target(frames: Frames, name: str) -> Frames:
    """Return the frames that have labels of a target, with these labels alone."""
    if isinstance(frames, StoredFrames):
        return frames.of_target(name)
    return [frame.of_target(name) for frame in frames if name in frame.labels]


def has_label(frames: Frames, label: str) -> bool:
    """Return whether any frame has forces, stress, direct_forces or direct_stress."""
    if isinstance(frames, StoredFrames):
        return any(
            bool((frames.read_flags(name) & ARRAY_BITS[label]).any())
            for name in frames.names
        )
    return any(
        getattr(labels, label) is not None
        for frame in frames
        for labels in frame.labels.values()
    )


def _is_same_set(one: DatasetOptions, other: DatasetOptions) -> bool:
    """Return whether data sets differ in their targets only, and have none in common.

    Two keys for one target are two sets of labels, each with frames of its own.
    """
    if {t.name for t in one.targets} & {t.name for t in other.targets}:
        return False
    same = (*DatasetOptions.model_fields.keys() - {"systems", "targets"}, "length_unit")
    if any(getattr(one, name) != getattr(other, name) for name in same):
        return False
    files = [
        [(Path(file).resolve(), index) for file, index in found]
        for found in (
            expand_paths(list(dataset.read_from), dataset.index)
            for dataset in (one, other)
        )
    ]
    return files[0] == files[1]


def _read_stored(
    dataset: DatasetOptions,
    labels: Mapping[str, LabelSource],
    rule: StoreRule,
    progress: Progress | None,
) -> Frames:
    files = expand_paths(list(dataset.read_from), dataset.index)
    first, *others = (
        {
            "keys": {**asdict(source.keys), "extras": {}},
            "units": asdict(source.units),
        }
        for source in labels.values()
    )
    # without an entry for others where there are none: so stores of one target keep
    # their names
    made_from = {"files": files, **first, **({"others": others} if others else {})}
    store = open_or_build_store(
        rule.root,
        Path(files[0][0]).stem,
        made_from,
        [file for file, _ in files],
        # the weight is no part of the store, which serves runs of other weights too
        lambda: _iterate(dataset, labels, 1.0, progress),
        n_targets=len(labels),
    )
    return StoredFrames.of_store(store, weight=dataset.weight, targets=list(labels))


def _iterate(
    dataset: DatasetOptions,
    labels: Mapping[str, LabelSource],
    weight: float,
    progress: Progress | None,
) -> Iterator[LabeledFrame]:
    frames = iterate_frames(
        list(dataset.read_from), labels, index=dataset.index, weight=weight
    )
    yield from progress(frames) if progress else frames


def _choose(frames: Frames, dataset: DatasetOptions) -> Frames:
    """Return the frames that ``indices`` of the options names; all without them."""
    indices = dataset.read_indices()
    if indices is None:
        return frames
    largest = max(indices, default=0)
    if largest >= len(frames):
        raise DataError(
            f"indices: frame {largest} asked for, but {', '.join(dataset.read_from)} "
            f"has {len(frames)} frames"
        )
    return take_frames(frames, indices)


def _drop_weightless(frames: Frames, dataset: DatasetOptions) -> Frames:
    """Return the frames without those of weight 0, which are to count nowhere."""
    if isinstance(frames, StoredFrames):
        weights = frames.read_weights(np.arange(len(frames)))
    else:
        weights = np.array([frame.weight for frame in frames])
    counted = np.flatnonzero(weights > 0)
    if len(counted) == len(frames):
        return frames
    files = ", ".join(dataset.read_from)
    if len(counted) == 0:
        raise DataError(
            f"{files}: every frame has weight 0; remove or mend the weights"
        )
    logger.info(
        "%s: %d of %d frames have weight 0 and count nowhere",
        files,
        len(frames) - len(counted),
        len(frames),
    )
    return take_frames(frames, counted)


def _check_required(dataset: DatasetOptions, frames: Frames) -> None:
    """Raise if a label that was asked for is in no frame."""
    files = ", ".join(dataset.read_from)
    for other in dataset.direct_targets:
        name = "direct_forces" if other.kind == "force" else "direct_stress"
        if not has_label(frames, name):
            raise DataError(
                f"{files}: no frame has labels for {other.name}; set its key, or "
                "remove the target"
            )
    for target in dataset.energy_targets:
        own = select_target(frames, target.name)
        asked = {
            "forces": (target.forces, "forces"),
            "stress": (target.stress, "stress"),
            "virial": (target.virial, "stress"),
        }
        for name, (asked_for, label) in asked.items():
            if asked_for.mode == "required" and not has_label(own, label):
                raise DataError(
                    f"{files}: {name} were asked for, but no frame has any; set the "
                    f"key, or `{name}: off`"
                )

"""Read the frames of a data set of the options, into memory or through a store."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pet_calc.config.data_options import DatasetOptions, TargetOptions
from pet_calc.data.census import CensusCounter
from pet_calc.data.files import expand_paths
from pet_calc.data.frames import LabeledFrame, Progress, iterate_frames
from pet_calc.data.label_options import (
    NO_ENERGY,
    build_label_keys,
    build_label_units,
    first_energy,
)
from pet_calc.data.store import ARRAY_BITS, open_or_build_store
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


def read_dataset(
    dataset: DatasetOptions,
    rule: StoreRule,
    *,
    main_target: str = "",
    progress: Progress | None = None,
) -> Frames:
    """Return the frames of a data set, once for each of its energies.

    Labels of direct heads come with the frames of the main target.

    Args:
        dataset: what to read.
        rule: when frames are stored and not kept.
        main_target: with whose frames the labels of direct heads come; empty is the
            first one.
        progress: wraps the iteration over frames.

    Raises:
        DataError: see ``iterate_frames``; also for a label that was asked for and is
            in no frame, and for frames that are not there.
    """
    is_stored = rule.settle(list_files([dataset])).when == "always"
    parts: list[Frames] = []
    for target in dataset.energy_targets or (NO_ENERGY,):
        is_main = target.name == main_target or not main_target or target is NO_ENERGY
        reading = Reading(
            dataset,
            target,
            main_target if target is NO_ENERGY else target.name,
            dataset.direct_targets if is_main else (),
        )
        if is_stored:
            frames = _read_stored(reading, rule, progress)
        else:
            frames = _read_into_memory(reading, progress)
        frames = _drop_weightless(_choose(frames, dataset), dataset)
        _check_required(reading, frames)
        parts.append(frames)
    return join_frames(parts)


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
    reading = Reading(dataset, first_energy(dataset))
    frames = _iterate(reading, dataset.weight, None)
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


def has_label(frames: Frames, label: str) -> bool:
    """Return whether any frame has forces, stress, direct_forces or direct_stress."""
    if isinstance(frames, StoredFrames):
        return bool((frames.read_column("flags") & ARRAY_BITS[label]).any())
    return any(getattr(frame, label) is not None for frame in frames)


@dataclass(frozen=True)
class Reading:
    """What is read of a data set at a time."""

    dataset: DatasetOptions
    target: TargetOptions
    """The energy."""
    name: str = ""
    """``LabeledFrame.target`` of the frames."""
    direct: tuple[TargetOptions, ...] = ()
    """Direct heads whose labels come along."""


def _read_into_memory(reading: Reading, progress: Progress | None) -> Frames:
    frames = list(_iterate(reading, reading.dataset.weight, progress))
    for frame in frames:
        frame.target = reading.name
    return frames


def _read_stored(
    reading: Reading, rule: StoreRule, progress: Progress | None
) -> Frames:
    dataset, target, direct = reading.dataset, reading.target, reading.direct
    files = expand_paths(list(dataset.read_from), dataset.index)
    keys = build_label_keys(dataset, target, direct=direct)
    units = build_label_units(dataset, target, direct=direct)
    store = open_or_build_store(
        rule.root,
        Path(files[0][0]).stem,
        {
            "files": files,
            "keys": {**asdict(keys), "extras": {}},
            "units": asdict(units),
        },
        [file for file, _ in files],
        # the weight is no part of the store, which serves runs of other weights too
        lambda: _iterate(reading, 1.0, progress),
    )
    return StoredFrames.of_store(store, weight=dataset.weight, target=reading.name)


def _iterate(
    reading: Reading, weight: float, progress: Progress | None
) -> Iterator[LabeledFrame]:
    dataset, target, direct = reading.dataset, reading.target, reading.direct
    frames = iterate_frames(
        list(dataset.read_from),
        keys=build_label_keys(dataset, target, direct=direct),
        units=build_label_units(dataset, target, direct=direct),
        index=dataset.index,
        weight=weight,
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


def _check_required(reading: Reading, frames: Frames) -> None:
    """Raise if a label that was asked for is in no frame."""
    dataset, target = reading.dataset, reading.target
    for other in reading.direct:
        name = "direct_forces" if other.kind == "force" else "direct_stress"
        if not has_label(frames, name):
            raise DataError(
                f"{', '.join(dataset.read_from)}: no frame has labels for "
                f"{other.name}; set its key, or remove the target"
            )
    has_stress = has_label(frames, "stress")
    asked = {
        "forces": (target.forces, has_label(frames, "forces")),
        "stress": (target.stress, has_stress),
        "virial": (target.virial, has_stress),
    }
    for name, (asked_for, is_there) in asked.items():
        if asked_for.mode == "required" and not is_there:
            raise DataError(
                f"{', '.join(dataset.read_from)}: {name} were asked for, but no frame "
                f"has any; set the key, or `{name}: off`"
            )

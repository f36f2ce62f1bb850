"""Read the frames of a run: training, validation and test set, as options say."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pet_calc.config import RunOptions, TargetOptions
from pet_calc.config.options import IN_MEMORY
from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import Indices, LabeledFrame, Progress, split_indices
from pet_calc.data.read_dataset import (
    Frames,
    StoreRule,
    join_frames,
    list_files,
    read_dataset,
    take_frames,
)
from pet_calc.data.stored import StoredFrames
from pet_calc.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

ISOLATED_ATOM = "IsolatedAtom"


@dataclass
class RunFrames:
    """The frames of a run, apart by their use."""

    train: Frames = ()
    validation: Frames = ()
    test: Frames = ()
    isolated: Frames = ()
    """Isolated atoms of the training files; they set energy offsets only."""

    def all(self) -> "AllFrames":
        """Return every frame, isolated atoms included."""
        return AllFrames([self.train, self.validation, self.test, self.isolated])


class AllFrames:
    """Frames of several parts, to iterate over as often as needed."""

    def __init__(self, parts: Sequence[Frames]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[LabeledFrame]:
        return chain.from_iterable(self._parts)


def read_run_frames(options: RunOptions, *, show_progress: bool = True) -> RunFrames:
    """Read and split the data, and log what was found where.

    Raises:
        DataError: for files, frames or labels that cannot be used.
        ConfigError: for targets that cannot be trained together.
    """
    main = choose_target(options).name
    sets = [options.training_set, options.validation_set, options.test_set]
    datasets = [d for part in sets if not isinstance(part, float) for d in part]
    rule = build_store_rule(options.data_store, Path(options.output))
    rule = rule.settle(list_files(datasets))
    read = partial(
        read_dataset,
        rule=rule,
        main_target=main,
        progress=_build_progress(show_progress),
    )
    isolated: list[LabeledFrame] = []
    train: list[Frames] = []
    for dataset in options.training_set:
        atoms, others = _take_isolated(read(dataset))
        if dataset.use_isolated_atoms:
            train.append(atoms)
        else:
            isolated += atoms
        train.append(others)
    frames = RunFrames(join_frames([part for part in train if part]), isolated=isolated)
    held_out = {"validation": options.validation_set, "test": options.test_set}
    fractions = {n: v for n, v in held_out.items() if isinstance(v, float)}
    if sum(fractions.values()) > 0:
        validation, test = (fractions.get(name, 0.0) for name in held_out)
        parts = split_indices(
            len(frames.train),
            (1.0 - validation - test, validation, test),
            seed=options.seed,
        )
        train_set = frames.train
        for name, part in zip(("train", *held_out), parts, strict=True):
            setattr(frames, name, take_frames(train_set, part))
    for name, value in held_out.items():
        if not isinstance(value, float):
            found = [_take_isolated(read(dataset))[1] for dataset in value]
            setattr(frames, name, join_frames(found))
    for name in ("train", "validation"):
        part = getattr(frames, name)
        missing = set(options.energy_targets)
        for frame in part:
            if not missing:
                break
            if frame.energy is not None:
                missing.discard(frame.target)
        for target in sorted(missing):
            raise DataError(
                f"the {name} set has no frame with an energy ({len(part)} frames) for "
                f"{target}; name the key with --energy-key or in the options "
                "file"
            )
    for name in ("train", *held_out):
        part = getattr(frames, name)
        if part:
            census = LabelCensus.from_frames(part).to_text()
            logger.info("%s set:\n%s", name, _indent(census))
    if frames.isolated:
        logger.info("isolated atoms: %d, for energy offsets only", len(frames.isolated))
    return frames


def build_store_rule(value: str | None, output: Path) -> StoreRule:
    """Return when frames are stored, from the option ``data_store``."""
    if value == IN_MEMORY:
        return StoreRule(output, "never")
    if value is None:
        return StoreRule(output / "store")
    return StoreRule(Path(value), "always")


def choose_target(options: RunOptions) -> TargetOptions:
    """Return the main target of a run: the first energy.

    Raises:
        ConfigError: if there is no energy, or a direct head comes with another one.
    """
    direct = options.direct_targets.values()
    energies = list(options.energy_targets.values())
    if not energies:
        raise ConfigError(
            f"training_set.targets: expected an energy beside "
            f"{', '.join(target.name for target in direct)}, got none; direct heads "
            "are trained with one (its `forces` and `stress` may be off)"
        )
    main = energies[0]
    for target in direct:
        if target.variant not in ("", main.variant):
            raise ConfigError(
                f"training_set.targets: expected {target.base_name} of {main.name}, "
                f"the first energy, got {target.name}; name that energy first"
            )
    for dataset in options.training_set:
        names = [target.name for target in dataset.energy_targets]
        if dataset.direct_targets and names and main.name not in names:
            raise ConfigError(
                f"training_set.targets: {dataset.direct_targets[0].name} stands with "
                f"{', '.join(names)}, but direct heads go with {main.name}, the first "
                "energy"
            )
    return main


def find_of_target(frames: Frames, name: str) -> Indices:
    """Return the indices of the frames that have labels of a target."""
    if isinstance(frames, StoredFrames):
        is_wanted = np.array([target == name for target in frames.targets])
        return np.flatnonzero(is_wanted[frames.which])
    return np.flatnonzero([frame.target == name for frame in frames])


def _build_progress(is_shown: bool) -> Progress:
    # tqdm's None: hidden where the output is no terminal
    hide = None if is_shown else True
    return lambda items: tqdm(
        items, desc="reading", unit="frame", leave=False, disable=hide
    )


def _take_isolated(frames: Frames) -> tuple[Frames, Frames]:
    """Return the isolated atoms among the frames, and the others."""
    if isinstance(frames, StoredFrames):
        is_isolated = np.zeros(len(frames), dtype=bool)
        for kind, indices in frames.iterate_kinds():
            is_isolated[indices] = kind["config_type"] == ISOLATED_ATOM
    else:
        is_isolated = np.array([f.config_type == ISOLATED_ATOM for f in frames])
    atoms, others = np.flatnonzero(is_isolated), np.flatnonzero(~is_isolated)
    return take_frames(frames, atoms), take_frames(frames, others)


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())

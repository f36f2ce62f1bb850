"""Read the frames of a run: training, validation and test set, as options say."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pet_calc.config import RunOptions, TargetOptions
from pet_calc.config.options import IN_MEMORY
from pet_calc.data.advice import explain_no_energy
from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import LabeledFrame, Progress, split_indices
from pet_calc.data.isolated import find_isolated
from pet_calc.data.read_dataset import (
    Frames,
    StoreRule,
    join_datasets,
    join_frames,
    list_files,
    list_targets,
    read_dataset,
    select_target,
    take_frames,
)
from pet_calc.errors import ConfigError, DataError
from pet_calc.system.paths import expand_path

logger = logging.getLogger(__name__)


@dataclass
class RunFrames:
    """The frames of a run, apart by their use."""

    train: Frames = ()
    validation: Frames = ()
    test: Frames = ()
    isolated: Frames = ()
    """Isolated atoms of the training files; they set energies per element only."""
    census: dict[str, dict[str, LabelCensus]] = field(default_factory=dict)
    """By set and target."""

    @property
    def n_frames(self) -> dict[str, int]:
        """Number of frames by use."""
        names = ("train", "validation", "test", "isolated")
        return {name: len(getattr(self, name)) for name in names}

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
    # isolated atoms that train too: never drawn for validation or test
    trained: list[Frames] = []
    for dataset in join_datasets(options.training_set):
        atoms, others = _take_isolated(read(dataset))
        if dataset.use_isolated_atoms:
            trained += [atoms] if atoms else []
        else:
            isolated += atoms
        train.append(others)
    frames = RunFrames(join_frames([part for part in train if part]), isolated=isolated)
    _check_not_only_atoms(frames, trained)
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
    frames.train = join_frames([part for part in (frames.train, *trained) if part])
    for name, value in held_out.items():
        if not isinstance(value, float):
            parts_read = [
                _take_isolated(read(dataset)) for dataset in join_datasets(value)
            ]
            n_atoms = sum(len(atoms) for atoms, _ in parts_read)
            if n_atoms:
                logger.info("%s set: %d isolated atoms left out", name, n_atoms)
            setattr(frames, name, join_frames([others for _, others in parts_read]))
    _check_energies(frames, options)
    for name in ("train", *held_out):
        part = getattr(frames, name)
        targets = list_targets(part)
        for target in targets:
            census = LabelCensus.from_frames(select_target(part, target))
            frames.census.setdefault(name, {})[target] = census
            of_target = f", {target}" if len(targets) > 1 else ""
            logger.info("%s set%s:\n%s", name, of_target, _indent(census.to_text()))
    if frames.isolated:
        logger.info(
            "isolated atoms: %d, for energies per element only "
            "(`use_isolated_atoms: true` in an options file trains on them, too)",
            len(frames.isolated),
        )
    return frames


def build_store_rule(value: str | None, output: Path) -> StoreRule:
    """Return when frames are stored, from the option ``data_store``."""
    if value == IN_MEMORY:
        return StoreRule(output, "never")
    if value is None:
        return StoreRule(output / "store")
    return StoreRule(Path(expand_path(value)), "always")


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


def _build_progress(is_shown: bool) -> Progress:
    # tqdm's None: hidden where the output is no terminal
    hide = None if is_shown else True
    return lambda items: tqdm(
        items, desc="reading", unit="frame", leave=False, disable=hide
    )


def _check_not_only_atoms(frames: RunFrames, trained: list[Frames]) -> None:
    """Raise if nothing is left to train on but isolated atoms."""
    if not frames.train and frames.isolated and not trained:
        raise DataError(
            f"all {len(frames.isolated)} frames are isolated atoms, which set energies "
            "per element only; add frames, or train on them with "
            "`use_isolated_atoms: true` in an options file"
        )


def _check_energies(frames: RunFrames, options: RunOptions) -> None:
    """Raise if a target has no energy to train or to judge by."""
    if not frames.validation:
        raise DataError(
            "the validation set has no frames, and the best model is chosen by it; "
            "name a file or a fraction above 0 (pet-calc finetune --val 0.1, or "
            "validation_set in an options file)"
        )
    for name in ("train", "validation"):
        part = getattr(frames, name)
        missing = set(options.energy_targets)
        keys: set[str] = set()
        for frame in part:
            if not missing:
                break
            keys.update(frame.keys)
            for target, labels in frame.labels.items():
                if labels.energy is not None:
                    missing.discard(target)
        for target in sorted(missing):
            what, advice = explain_no_energy(keys)
            raise DataError(
                f"the {name} set ({len(part)} frames), for {target}: {what}; {advice}"
            )


def _take_isolated(frames: Frames) -> tuple[Frames, Frames]:
    """Return the isolated atoms among the frames, and the others."""
    is_isolated = find_isolated(frames)
    atoms, others = np.flatnonzero(is_isolated), np.flatnonzero(~is_isolated)
    return take_frames(frames, atoms), take_frames(frames, others)


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())

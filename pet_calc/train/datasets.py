"""Read the frames of a run: training, validation and test set, as options say."""

import logging
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from pet_calc.config import DatasetOptions, RunOptions, TargetOptions
from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import LabeledFrame, read_frames, split_frames
from pet_calc.data.label_options import build_label_keys, build_label_units
from pet_calc.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

ISOLATED_ATOM = "IsolatedAtom"


@dataclass
class RunFrames:
    """The frames of a run, apart by their use."""

    train: list[LabeledFrame] = field(default_factory=list)
    validation: list[LabeledFrame] = field(default_factory=list)
    test: list[LabeledFrame] = field(default_factory=list)
    isolated: list[LabeledFrame] = field(default_factory=list)
    """Isolated atoms of the training files; they set energy offsets only."""

    def all(self) -> list[LabeledFrame]:
        """Return every frame, isolated atoms included."""
        return [*self.train, *self.validation, *self.test, *self.isolated]


def read_run_frames(options: RunOptions, *, show_progress: bool = True) -> RunFrames:
    """Read and split the data, and log what was found where.

    Raises:
        DataError: for files, frames or labels that cannot be used.
        ConfigError: if more than one target is asked for.
    """
    frames = RunFrames()
    for dataset in options.training_set:
        found = _read_dataset(dataset, show_progress)
        for frame in found:
            is_isolated = frame.config_type == ISOLATED_ATOM
            if is_isolated and not dataset.use_isolated_atoms:
                frames.isolated.append(frame)
            else:
                frames.train.append(frame)
    fractions = [
        value if isinstance(value, float) else 0.0
        for value in (options.validation_set, options.test_set)
    ]
    if sum(fractions) > 0:
        train, validation, test = split_frames(
            frames.train,
            (1.0 - sum(fractions), fractions[0], fractions[1]),
            seed=options.seed,
        )
        frames.train, frames.validation, frames.test = train, validation, test
    if not isinstance(options.validation_set, float):
        frames.validation = _read_held_out(options.validation_set, show_progress)
    if not isinstance(options.test_set, float):
        frames.test = _read_held_out(options.test_set, show_progress)
    for name in ("train", "validation"):
        part = getattr(frames, name)
        if not any(frame.energy is not None for frame in part):
            raise DataError(
                f"the {name} set has no frame with an energy ({len(part)} frames); "
                "name the key with --energy-key or in the options file"
            )
    for name in ("train", "validation", "test"):
        part = getattr(frames, name)
        if part:
            logger.info(
                "%s set:\n%s", name, _indent(LabelCensus.from_frames(part).to_text())
            )
    if frames.isolated:
        logger.info("isolated atoms: %d, for energy offsets only", len(frames.isolated))
    return frames


def choose_target(options: RunOptions) -> TargetOptions:
    """Return the one energy target of a run.

    Raises:
        ConfigError: if there are several, or it is not an energy.
    """
    targets = list(options.targets.values())
    energies = [target for target in targets if target.kind == "energy"]
    if len(targets) != 1 or len(energies) != 1:
        raise ConfigError(
            "training_set.targets: one energy target can be trained at a time, got "
            + ", ".join(target.name for target in targets)
        )
    return energies[0]


def _read_dataset(dataset: DatasetOptions, show_progress: bool) -> list[LabeledFrame]:
    def progress(items: Any) -> Any:
        # None: hidden where the output is no terminal
        hide = None if show_progress else True
        return tqdm(items, desc="reading", unit="frame", leave=False, disable=hide)

    frames = read_frames(
        list(dataset.read_from),
        keys=build_label_keys(dataset),
        units=build_label_units(dataset),
        index=dataset.index,
        weight=dataset.weight,
        progress=progress,
    )
    indices = dataset.read_indices()
    if indices is not None:
        largest = max(indices, default=0)
        if largest >= len(frames):
            raise DataError(
                f"indices: frame {largest} asked for, but {dataset.read_from} has "
                f"{len(frames)} frames"
            )
        frames = [frames[i] for i in indices]
    _check_required(dataset, frames)
    return frames


def _read_held_out(
    datasets: tuple[DatasetOptions, ...], show_progress: bool
) -> list[LabeledFrame]:
    frames = [f for d in datasets for f in _read_dataset(d, show_progress)]
    return [frame for frame in frames if frame.config_type != ISOLATED_ATOM]


def _check_required(dataset: DatasetOptions, frames: list[LabeledFrame]) -> None:
    """Raise if a label that was asked for is in no frame."""
    target = dataset.targets[0]
    files = ", ".join(dataset.read_from)
    has_stress = any(frame.stress is not None for frame in frames)
    asked = {
        "forces": (target.forces, any(f.forces is not None for f in frames)),
        "stress": (target.stress, has_stress),
        "virial": (target.virial, has_stress),
    }
    for name, (label, is_there) in asked.items():
        if label.mode == "required" and not is_there:
            raise DataError(
                f"{files}: {name} were asked for, but no frame has any; set the key, "
                f"or `{name}: off`"
            )


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())

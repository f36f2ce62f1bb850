"""The options of a run: the options file as a whole."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

from pet_calc.config.data_options import DatasetOptions, TargetOptions
from pet_calc.config.fields import Fraction, Options, replace
from pet_calc.config.finetune_options import FinetuneOptions
from pet_calc.config.flags import (
    DATA,
    DOMAIN,
    FILES,
    HELD_OUT,
    MACHINE,
    TRAINING,
    option,
)
from pet_calc.config.historic import update_loss
from pet_calc.config.messages import OptionError, at, expand, require_mapping, suggest
from pet_calc.config.model_block import build_hypers
from pet_calc.config.old_names import (
    NO_EFFECT_RUN,
    UNSUPPORTED_ARCHITECTURE,
    UNSUPPORTED_RUN,
    refuse_original_pet,
    take_unsupported,
    take_without_effect,
)
from pet_calc.config.replay import ReplayOptions
from pet_calc.config.train_options import TrainOptions
from pet_calc.model.hypers import PETHypers

IN_MEMORY = "memory"

Datasets = Annotated[tuple[DatasetOptions, ...], Strict(False)]


def _check_device(device: str) -> str:
    """Return torch's name of a device from torch's or metatrain's."""
    if device.startswith("multi-"):
        raise ValueError(
            f"{device} is not supported; write `device: cuda` and start one process "
            "per GPU with torchrun"
        )
    kind, _, number = device.partition(":")
    is_known = kind in ("auto", "cpu", "cuda") and (
        number.isdigit() if ":" in device else True
    )
    if not is_known:
        raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {device!r}")
    return device


class ArchitectureOptions(Options):
    """The model and its training; ``architecture:``."""

    name: Literal["pet"] = "pet"
    """The kind of model."""
    model: Annotated[PETHypers | None, BeforeValidator(build_hypers)] = None
    """Shape of a new model; null is the default shape, or that of the base."""
    training: TrainOptions = Field(default_factory=TrainOptions)
    """How the training goes."""
    atomic_types: Annotated[tuple[int, ...], Strict(False)] | None = None
    """Atomic numbers of a new model; null takes them from the data."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take what metatrain writes and pet-calc does not have."""
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        take_unsupported(values, UNSUPPORTED_ARCHITECTURE)
        return values

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = write(self).items()
        return {name: value for name, value in values if value is not None}


class RunOptions(Options):
    """Everything that decides a training run; the options file as a whole."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("architecture", "training"),
        "finetune": ("architecture", "training", "finetune"),
        "hypers": ("architecture", "model"),
        "atomic_types": ("architecture", "atomic_types"),
    }

    training_set: Datasets
    """Data to learn from."""
    validation_set: Fraction | Datasets = option(
        0.1, "--val", DATA, parameter="validation", **HELD_OUT
    )
    """Data that picks the best model, or a fraction of the training set."""
    test_set: Fraction | Datasets = option(
        0.0, "--test", DATA, shown="none", **HELD_OUT
    )
    """Data that is only evaluated at the end, or a fraction of the training set."""
    retain_set: Datasets = option((), "--retain", DOMAIN, **FILES)
    """Data of the base's level and domain, to measure what is forgotten."""
    replay_set: Datasets = option((), "--replay", DOMAIN, **FILES)
    """Data of the base's level and domain that is trained on as well."""
    architecture: ArchitectureOptions = Field(default_factory=ArchitectureOptions)
    """The model and its training."""
    device: Annotated[str, AfterValidator(_check_device)] = option(
        "auto", "--device", MACHINE
    )
    """auto, which takes a GPU if there is one, cpu, cuda or cuda:N."""
    base_precision: Literal[32, 64] = option(
        32,
        "--dtype",
        MACHINE,
        help="Kind of floating-point numbers",
        choices={"float32": 32, "float64": 64},
    )
    """Bits of a floating-point number."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = option(0, "--seed", TRAINING)
    """Seed of the weights, the split and the order of batches."""
    output: str = "."
    """Folder for checkpoints, logs and the resolved options."""
    data_store: str | None = option(
        None, "--store", MACHINE, metavar="DIR", shown="OUTPUT/store, from 1 GB on"
    )
    """Folder where frames are stored that do not fit in memory, reused by later runs;
    memory: never. null: in the output folder, for data sets of 1 GB and more."""
    final_eval: bool = True
    """Whether the best model is evaluated on all sets at the end."""
    final_validation: bool = True
    """Whether the best model's physics is checked at the end, on a validation frame."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take single data sets, and losses that depend on the targets there are."""
        values = require_mapping(value, "options")
        refuse_original_pet(values, cls.model_fields)
        take_unsupported(values, UNSUPPORTED_RUN)
        take_without_effect(values, NO_EFFECT_RUN)
        for name in ("training_set", "retain_set", "replay_set", "device"):
            if values.get(name, 0) is None:
                del values[name]
        if values.get("device") == "gpu":
            values["device"] = "cuda"
        if "training_set" not in values:
            return values
        training_set = _build_datasets(values["training_set"], "training_set")
        values["training_set"] = training_set
        for name in ("retain_set", "replay_set"):
            if name in values:
                values[name] = _build_datasets(values[name], name)
        for name in ("validation_set", "test_set"):
            if values.get(name, 0) is None:
                del values[name]
            elif name in values:
                values[name] = _build_held_out(values[name], name, training_set)
        targets = list(_find_targets(training_set))
        values["architecture"] = _update_loss(values.get("architecture"), targets)
        return values

    @model_validator(mode="after")
    def _check(self) -> "RunOptions":
        """Check that fractions leave something, and that replay has what it needs."""
        if not self.training_set:
            raise OptionError("training_set: expected at least one dataset, got none")
        sets = (self.validation_set, self.test_set)
        held_out = [size for size in sets if isinstance(size, float)]
        if sum(held_out) >= 1.0:
            raise OptionError(
                "validation_set: expected fractions that leave some of the training "
                f"set, got {held_out}"
            )
        replay = self.train.replay
        with at("architecture.training.replay"):
            if replay.labels == "base" and not self.replay_set:
                raise OptionError(
                    "labels: expected a replay_set to label, got none; generated "
                    "frames are labelled by the base in any case"
                )
            for name in ("weight", "batch_size"):
                default = ReplayOptions.model_fields[name].default
                if getattr(replay, name) != default and not self.has_replay:
                    raise OptionError(
                        f"{name}: has no effect without a replay_set or generated "
                        "frames"
                    )
        return self

    @property
    def train(self) -> TrainOptions:
        """How the training goes."""
        return self.architecture.training

    @property
    def finetune(self) -> FinetuneOptions:
        """What is trained, and from which base."""
        return self.architecture.training.finetune

    @property
    def hypers(self) -> PETHypers | None:
        """Shape of a new model; None is the default shape, or that of the base."""
        return self.architecture.model

    @property
    def atomic_types(self) -> tuple[int, ...] | None:
        """Atomic numbers of a new model; None takes them from the data."""
        return self.architecture.atomic_types

    @property
    def has_replay(self) -> bool:
        """Whether frames of the base's domain are trained on as well."""
        return bool(self.replay_set) or self.train.replay.generate > 0

    @property
    def targets(self) -> dict[str, TargetOptions]:
        """The targets of all training sets by name, as first described."""
        return _find_targets(self.training_set)

    @property
    def energy_targets(self) -> dict[str, TargetOptions]:
        """The targets that are energies, by name."""
        return {n: t for n, t in self.targets.items() if t.kind == "energy"}

    @property
    def main_energy(self) -> str:
        """Name of the first energy, with which direct heads go; empty without any."""
        return next(iter(self.energy_targets), "")

    @property
    def direct_targets(self) -> dict[str, TargetOptions]:
        """The targets of direct heads by kind, ``force`` and ``stress``.

        Raises:
            ConfigError: if there are two of one kind.
        """
        found: dict[str, TargetOptions] = {}
        for name, target in self.targets.items():
            if target.kind == "energy":
                continue
            if target.kind in found:
                raise OptionError(
                    f"training_set.targets: expected one direct {target.kind}, got "
                    f"{found[target.kind].name} and {name}"
                )
            found[target.kind] = target
        return found

    def with_base(self, base: str) -> "RunOptions":
        """Return a copy that starts from ``base``, all weights if no method is set."""
        finetune = self.finetune
        method = "full" if finetune.method == "scratch" else finetune.method
        started = replace(finetune, method=method, read_from=base)
        return replace(self, finetune=started)

    def check_ready(self) -> None:
        """Raise if a method, or what is to be remembered, needs a base without one."""
        method = self.finetune.method
        for name in ("retain_set", "replay_set"):
            if method == "scratch" and getattr(self, name):
                raise OptionError(
                    f"{name}: there is nothing to forget without a base; name one "
                    "with -c CHECKPOINT, or remove the set"
                )
        if method == "scratch" and self.train.replay.generate:
            raise OptionError(
                "architecture.training.replay.generate: needs a base to label the "
                "frames; name one with -c CHECKPOINT"
            )
        if method != "scratch" and self.finetune.base is None:
            raise OptionError(
                f"architecture.training.finetune.read_from: method {method} needs a "
                "base checkpoint, got none; name it here or with -c CHECKPOINT"
            )


def _build_datasets(value: Any, name: str) -> tuple[DatasetOptions, ...]:
    """Return the datasets of a path, a block, or a list of both."""
    if not isinstance(value, list | tuple):
        return (_build_dataset(value, name),)
    if value == []:
        raise OptionError(f"{name}: expected at least one dataset, got none")
    return tuple(_build_dataset(item, f"{name}[{i}]") for i, item in enumerate(value))


def _build_dataset(value: Any, name: str) -> DatasetOptions:
    if isinstance(value, DatasetOptions):
        return value
    values = require_mapping(expand(value, "systems"), name)
    with at(name):
        return DatasetOptions(**values)


def _build_held_out(
    value: Any, name: str, training_set: tuple[DatasetOptions, ...]
) -> float | tuple[DatasetOptions, ...]:
    """Return a fraction, or datasets; only ``indices`` means other training frames."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, Mapping) or set(value) != {"indices"}:
        return _build_datasets(value, name)
    if len(training_set) != 1:
        raise OptionError(
            f"{name}.indices: expected a single training set to take frames from, got "
            f"{len(training_set)}"
        )
    with at(name):
        return (replace(training_set[0], indices=value["indices"]),)


def _find_targets(datasets: tuple[DatasetOptions, ...]) -> dict[str, TargetOptions]:
    targets: dict[str, TargetOptions] = {}
    for dataset in datasets:
        for target in dataset.targets:
            targets.setdefault(target.name, target)
    return targets


def _update_loss(value: Any, targets: list[str]) -> Any:
    """Return the block ``architecture`` with a loss per target."""
    training = value.get("training") if isinstance(value, Mapping) else None
    if not isinstance(training, Mapping) or training.get("loss") is None:
        return value
    loss = training["loss"]
    with at("architecture.training"):
        if isinstance(loss, str):
            term = {"type": loss}
            loss = {name: {**term, "forces": term, "stress": term} for name in targets}
        loss = update_loss(loss, targets)
        for name in require_mapping(loss, "loss"):
            if name not in targets:
                raise OptionError(
                    f"loss.{name}: expected a target of the training set; "
                    f"{suggest(name, targets)}"
                )
    return {**value, "training": {**training, "loss": loss}}

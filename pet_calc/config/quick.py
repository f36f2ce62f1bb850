"""Options of a fine-tuning run from a few words, as the command line gives them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.config.options import (
    Augmentation,
    BaselineOptions,
    FinetuneOptions,
    LossOptions,
    LossTerm,
    RunOptions,
    TrainOptions,
)
from pet_calc.config.replay import ReplayOptions
from pet_calc.errors import ConfigError
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import ENERGY

DEFAULT_VALIDATION = 0.1


@dataclass(frozen=True)
class LabelFlags:
    """Where labels lie and in which units; None looks the usual names up."""

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virial_key: str | None = None
    charge_key: str | None = None
    spin_key: str | None = None
    energy_unit: str | None = None
    length_unit: str = "angstrom"
    forces_unit: str | None = None
    stress_unit: str | None = None
    virial_unit: str | None = None
    stress_sign: Literal[1, -1] = 1
    """Of stress and virial."""
    level: str = ""
    """Level of theory, stored in the model."""

    def build_target(self, name: str) -> TargetOptions:
        """Return the target that these labels are for."""
        return TargetOptions(
            name=name,
            key=self.energy_key,
            unit=self.energy_unit,
            forces=_build_label(self.forces_key, self.forces_unit),
            stress=_build_label(
                self.stress_key,
                self.stress_unit,
                self.stress_sign,
                other_key=self.virial_key,
            ),
            virial=_build_label(
                self.virial_key,
                self.virial_unit,
                self.stress_sign,
                other_key=self.stress_key,
            ),
            description=self.level,
        )

    def build_dataset(
        self, files: tuple[str, ...], name: str = ENERGY, weight: float = 1.0
    ) -> DatasetOptions:
        """Return the data set of some files for one target."""
        return DatasetOptions(
            read_from=files,
            length_unit=self.length_unit,
            targets=(self.build_target(name),),
            weight=weight,
            charge_key=self.charge_key,
            spin_multiplicity_key=self.spin_key,
        )


@dataclass(frozen=True)
class FinetuneFlags:
    """The flags of ``pet-calc finetune``; defaults are those of the options file."""

    method: Literal["full", "heads", "lora"] = "lora"
    rank: int = LoRAConfig.rank
    alpha: float | None = None
    """None is twice the rank."""
    lora_targets: tuple[str, ...] = LoRAConfig.targets
    head_mode: Literal["auto", "train", "freeze", "lora"] = "auto"
    target: str = ENERGY
    validation: str | None = None
    """A fraction, a file or a glob; None is a tenth of the data."""
    test: str | None = None
    """As ``validation``; None is no test set."""
    augmentation: Augmentation = TrainOptions.augmentation
    consistency: float = TrainOptions.consistency
    epochs: int | None = None
    batch_size: int | Literal["auto"] = TrainOptions.batch_size
    pairs_per_batch: int | None = None
    num_workers: int | None = None
    compile: Literal["auto"] | bool = TrainOptions.compile
    activation_checkpointing: bool = False
    mixed_precision: bool = False
    learning_rate: float | None = None
    loss_weights: tuple[float, float, float] | None = None
    """Of energy, forces and stress."""
    offsets: Literal["fit", "keep", "isolated_atoms"] = "fit"
    ema: float | None = None
    inherit_head: str | None = None
    """Output of the base whose heads a new target starts from."""
    keep_head: bool = False
    direct_heads: Literal["train", "drop"] = "train"
    new_elements: str | None = None
    """None refuses them; ``nearest``, or pairs such as ``Ge=Si,Sn=Si``."""
    retain: tuple[str, ...] = ()
    """Files or globs of the base's domain, with its labels in eV and Å."""
    replay: tuple[str, ...] = ()
    """Likewise."""
    replay_labels: Literal["file", "base"] = "file"
    replay_generate: int = 0
    replay_weight: float = ReplayOptions.weight
    replay_batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    labels: LabelFlags = field(default_factory=LabelFlags)
    store: str | None = None
    """Folder of stored frames, see ``RunOptions.data_store``."""
    file_weights: tuple[tuple[str, float], ...] = ()
    """Weight in the loss of the frames of some training files; the others have 1."""


def build_finetune_options(
    data: tuple[str, ...], base: str, output: str | Path, flags: FinetuneFlags
) -> RunOptions:
    """Return the options of a fine-tuning run.

    Args:
        data: files or globs with the training structures.
        base: checkpoint to start from.
        output: folder of the run.
        flags: everything else.
    """

    def build_part(value: str | None, default: float) -> float | tuple[DatasetOptions]:
        if value is None:
            return default
        fraction = _parse_fraction(value)
        if fraction is not None:
            return fraction
        return (flags.labels.build_dataset((value,), flags.target),)

    loss: dict[str, LossOptions] = {}
    if flags.loss_weights is not None:
        energy, forces, stress = (LossTerm(weight=w) for w in flags.loss_weights)
        loss[flags.target] = LossOptions(energy, forces, stress)
    alpha = 2.0 * flags.rank if flags.alpha is None else flags.alpha
    return RunOptions(
        training_set=_build_training_set(data, flags),
        validation_set=build_part(flags.validation, DEFAULT_VALIDATION),
        test_set=build_part(flags.test, 0.0),
        retain_set=(DatasetOptions(flags.retain),) if flags.retain else (),
        replay_set=(DatasetOptions(flags.replay),) if flags.replay else (),
        finetune=FinetuneOptions(
            method=flags.method,
            base=base,
            lora=LoRAConfig(flags.rank, alpha, flags.lora_targets),
            head_mode=flags.head_mode,
            inherit_heads=(
                {flags.target: flags.inherit_head} if flags.inherit_head else {}
            ),
            keep_head=flags.keep_head,
            direct_heads=flags.direct_heads,
            new_elements=_parse_new_elements(flags.new_elements),
        ),
        train=TrainOptions(
            num_epochs=flags.epochs,
            augmentation=flags.augmentation,
            consistency=flags.consistency,
            batch_size=flags.batch_size,
            pairs_per_batch=flags.pairs_per_batch,
            num_workers=flags.num_workers,
            compile=flags.compile,
            activation_checkpointing=flags.activation_checkpointing,
            mixed_precision=flags.mixed_precision,
            learning_rate=flags.learning_rate,
            ema_decay=flags.ema,
            loss=loss,
            atomic_baseline=BaselineOptions(mode=flags.offsets),
            replay=ReplayOptions(
                labels=flags.replay_labels,
                generate=flags.replay_generate,
                weight=flags.replay_weight,
                batch_size=flags.replay_batch_size,
            ),
        ),
        device=flags.device,
        base_precision=64 if flags.dtype == "float64" else 32,
        seed=flags.seed,
        output=str(output),
        data_store=flags.store,
    )


def _parse_new_elements(
    value: str | None,
) -> Literal["refuse", "nearest"] | dict[str, str]:
    if value is None:
        return "refuse"
    if value == "nearest":
        return "nearest"
    pairs = [pair.split("=") for pair in value.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ConfigError(
            f"--allow-new-elements: expected pairs such as Ge=Si,Sn=Si or nothing, got "
            f"{value}; files come before this option"
        )
    return {new: known for new, known in pairs}


def _build_label(
    key: str | None,
    unit: str | None,
    sign: Literal[1, -1] = 1,
    other_key: str | None = None,
) -> LabelOptions:
    """Return a label; one whose counterpart is named by a key is not looked for."""
    if key is None and other_key is not None:
        return LabelOptions(mode="off")
    mode: Literal["required", "auto"] = "auto" if key is None else "required"
    return LabelOptions(key=key, unit=unit, sign=sign, mode=mode)


def _build_training_set(
    data: tuple[str, ...], flags: FinetuneFlags
) -> tuple[DatasetOptions, ...]:
    """Return one data set of the files of weight 1, and one of each other weight."""
    weights = dict(flags.file_weights)
    unknown = sorted(set(weights) - set(data))
    if unknown:
        raise ConfigError(
            f"--weight: expected one of the files of the training data "
            f"({', '.join(data)}), got {unknown[0]}"
        )
    groups: dict[float, list[str]] = {}
    for file in data:
        groups.setdefault(weights.get(file, 1.0), []).append(file)
    return tuple(
        flags.labels.build_dataset(tuple(files), flags.target, weight)
        for weight, files in groups.items()
    )


def _parse_fraction(value: str) -> float | None:
    """Return the fraction, or None for the name of a file."""
    try:
        fraction = float(value)
    except ValueError:
        return None
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(
            f"validation or test set: expected a fraction from 0 to 1 or a file, "
            f"got {value}"
        )
    return fraction

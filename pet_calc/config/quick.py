"""Options of a fine-tuning run from a few words, as the command line gives them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pet_calc.config.options import (
    BaselineOptions,
    DatasetOptions,
    FinetuneOptions,
    LabelOptions,
    LossOptions,
    LossTerm,
    RunOptions,
    TargetOptions,
    TrainOptions,
)
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
    energy_unit: str | None = None
    length_unit: str = "angstrom"
    stress_unit: str | None = None
    stress_sign: Literal[1, -1] = 1
    level: str = ""
    """Level of theory, stored in the model."""

    def build_target(self, name: str) -> TargetOptions:
        """Return the target that these labels are for."""
        return TargetOptions(
            name=name,
            key=self.energy_key,
            unit=self.energy_unit,
            forces=LabelOptions(
                key=self.forces_key, mode="required" if self.forces_key else "auto"
            ),
            stress=LabelOptions(
                key=self.stress_key,
                unit=self.stress_unit,
                sign=self.stress_sign,
                mode="required" if self.stress_key else "auto",
            ),
            virial=LabelOptions(sign=self.stress_sign),
            description=self.level,
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
    epochs: int | None = None
    batch_size: int = TrainOptions.batch_size
    learning_rate: float | None = None
    loss_weights: tuple[float, float, float] | None = None
    """Of energy, forces and stress."""
    offsets: Literal["fit", "keep", "isolated_atoms"] = "fit"
    ema: float | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    labels: LabelFlags = field(default_factory=LabelFlags)


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
    target = flags.labels.build_target(flags.target)

    def build_dataset(files: tuple[str, ...]) -> DatasetOptions:
        return DatasetOptions(
            read_from=files, length_unit=flags.labels.length_unit, targets=(target,)
        )

    def build_part(value: str | None, default: float) -> float | tuple[DatasetOptions]:
        if value is None:
            return default
        fraction = _parse_fraction(value)
        return (build_dataset((value,)),) if fraction is None else fraction

    loss: dict[str, LossOptions] = {}
    if flags.loss_weights is not None:
        energy, forces, stress = (LossTerm(weight=w) for w in flags.loss_weights)
        loss[flags.target] = LossOptions(energy, forces, stress)
    alpha = 2.0 * flags.rank if flags.alpha is None else flags.alpha
    return RunOptions(
        training_set=(build_dataset(data),),
        validation_set=build_part(flags.validation, DEFAULT_VALIDATION),
        test_set=build_part(flags.test, 0.0),
        finetune=FinetuneOptions(
            method=flags.method,
            base=base,
            lora=LoRAConfig(flags.rank, alpha, flags.lora_targets),
            head_mode=flags.head_mode,
        ),
        train=TrainOptions(
            num_epochs=flags.epochs,
            batch_size=flags.batch_size,
            learning_rate=flags.learning_rate,
            ema_decay=flags.ema,
            loss=loss,
            atomic_baseline=BaselineOptions(mode=flags.offsets),
        ),
        device=flags.device,
        base_precision=64 if flags.dtype == "float64" else 32,
        seed=flags.seed,
        output=str(output),
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

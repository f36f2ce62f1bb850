"""The options of a training; the block ``architecture: training:``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pet_calc.config.fields import Count, Fraction, NotNegative, Options, Positive
from pet_calc.config.finetune_options import FinetuneOptions
from pet_calc.config.flags import MACHINE, TRAINING, option
from pet_calc.config.historic import update_training
from pet_calc.config.loss_options import CompositionOptions, LossOptions
from pet_calc.config.messages import OptionError
from pet_calc.config.old_names import (
    LORA_KEYS,
    NO_EFFECT_TRAINING,
    UNSUPPORTED_TRAINING,
    refuse_original_pet,
    take_unsupported,
    take_without_effect,
)
from pet_calc.config.replay import ReplayOptions

DEFAULT_BATCH = 16

Augmentation = Literal["O3", "rotations", "inversions", "none"]


class TrainOptions(Options):
    """How the training goes; ``architecture: training:``."""

    finetune: FinetuneOptions = Field(default_factory=FinetuneOptions)
    """What is trained, and from which base."""
    num_epochs: Count | None = option(
        None, "--epochs", TRAINING, shown="200, or 3,000 steps"
    )
    """Passes over the training set; null chooses by method, at least 3,000 steps."""
    batch_size: Count | Literal["auto"] = option(
        DEFAULT_BATCH, "--batch-size", TRAINING
    )
    """Frames per step, over all processes; auto: of 16 average ones' pairs. That is
    for data that differ in size."""
    pairs_per_batch: Count | None = option(
        None, "--pairs-per-batch", TRAINING, is_rare=True
    )
    """Neighbour pairs and atoms per optimiser step, instead of batch_size."""
    max_pairs_per_batch: Count | None = None
    """Neighbour pairs and atoms that go through the model at once, where a step has
    more; the gradient is the same. null finds out by trying."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = option(
        None, "--lr", TRAINING, parameter="learning_rate", shown="by method and size"
    )
    """Peak learning rate; null chooses by method and model size."""
    augmentation: Augmentation = option("O3", "--augmentation", TRAINING)
    """How each frame is turned at random, anew in each epoch. O3 is any rotation,
    with and without inversion; none learns the orientations of the files only."""
    consistency: NotNegative = option(0.0, "--consistency", TRAINING)
    """Weight of what predictions in two orientations differ by. Each frame is then
    in its step twice, with half as many in a step of the same cost. 2 halves what
    turning changes, and costs a few percent of accuracy in the same time."""
    warmup_fraction: Fraction = 0.1
    """Part of the steps in which the rate rises; then it falls as a cosine."""
    energy_warmup: Fraction = 0.75
    """Part of the steps in which the weight of an energy rises from that of its forces
    to its own, where that is more; 0 has it whole from the start."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay, in learning rates."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam or muon, which learns in fewer steps what is new; not for method lora."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay per step of Adam's mean of squared gradients; null is 0.95 for lora,
    else 0.999."""
    grad_clip_norm: Positive = 1.0
    """Largest norm of the gradient; .inf for no limit."""
    ema_decay: Fraction | None = option(None, "--ema", TRAINING, is_rare=True)
    """Decay per step of the averaged weights in use; null chooses, 0 is none."""
    early_stopping_patience: Count | None = None
    """Epochs without a better validation after which to stop; null for never."""
    compile: Literal["auto"] | bool = option(
        "auto",
        "--compile",
        MACHINE,
        parameter="compile_choice",
        choices={"auto": "auto", "yes": True, "no": False},
    )
    """Use the engine compiled for this machine (CPU); auto: if it is there, or the run
    takes more than two minutes."""
    activation_checkpointing: bool = option(
        False, "--activation-checkpointing", MACHINE
    )
    """Compute layers again for the gradient: less memory, more time, the same numbers.
    By PyTorch, not by the compiled engine."""
    mixed_precision: bool = option(False, "--mixed-precision", MACHINE)
    """Matrix products of training in bfloat16, which new GPUs do faster. Validation is
    exact. By PyTorch, not by the compiled engine."""
    loss: dict[str, LossOptions] = option(
        dict,
        "--loss-weights",
        TRAINING,
        help="Weights of energy per atom, forces, virial per atom",
        metavar="E F S",
        shown="10 1 1",
        n_values=3,
    )
    """Loss by target; a target that is not named has the defaults."""
    composition: CompositionOptions = Field(default_factory=CompositionOptions)
    """Energies per element: fit, keep, isolated_atoms, or a table such as `{energy: {H:
    -13.6, O: -430.0}}`."""
    scale_targets: bool = True
    """Whether a new target is divided by its spread."""
    best_model_metric: Literal["mae_sum", "mae_prod", "rmse_prod", "loss"] = "mae_sum"
    """Which validation number picks the best model. mae_sum: mean absolute errors by
    the roots of the loss's weights; loss: squared ones, by the weights."""
    log_interval: Count = 1
    """Epochs between lines in the log."""
    checkpoint_interval: Count = 10
    """Epochs between checkpoints to resume from; the last and best are always kept."""
    num_workers: Annotated[int, Field(ge=0)] | None = option(
        None, "--num-workers", MACHINE, shown="by cores"
    )
    """Processes that compute neighbour lists; null chooses, 0 uses no others."""
    uncertainty: bool = option(False, "--uncertainty", TRAINING)
    """Give the best model an uncertainty, from the training set's last-layer features.
    It is calibrated on the validation set, in one more pass over both."""
    replay: ReplayOptions = Field(default_factory=ReplayOptions)
    """Frames of the base's domain that are trained on as well."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the historic names and those of metatrain."""
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        refuse_original_pet(values, [*cls.model_fields, *LORA_KEYS])
        if isinstance(values.get("per_structure_targets"), list):
            # of direct heads it says nothing: their errors know no size of a frame
            values["per_structure_targets"] = [
                name
                for name in values["per_structure_targets"]
                if not str(name).startswith("non_conservative_")
            ]
        take_unsupported(values, UNSUPPORTED_TRAINING)
        take_without_effect(values, NO_EFFECT_TRAINING)
        update_training(values)
        # metatrain's ways to say plain Adam and the default loss
        for key in ("weight_decay", "loss"):
            if values.get(key, 0) is None:
                del values[key]
        return values

    @model_validator(mode="after")
    def _check(self) -> "TrainOptions":
        """Check that the options agree."""
        if self.consistency > 0 and self.augmentation == "none":
            raise OptionError(
                "consistency: compares two orientations of a frame, which "
                "augmentation none does not give; write O3 there"
            )
        for name, reason in (
            ("activation_checkpointing", "keeps its layers"),
            ("mixed_precision", "trains in one precision"),
        ):
            if getattr(self, name) and self.compile is True:
                raise OptionError(
                    f"{name}: expected this or compile: true, got both; the compiled "
                    f"engine {reason}"
                )
        if self.optimizer == "muon" and self.finetune.method == "lora":
            raise OptionError(
                "optimizer: expected adam with method lora, got muon, which is for "
                "whole matrices"
            )
        return self

    @property
    def is_by_pairs(self) -> bool:
        """Whether steps have a number of pairs, and not of frames."""
        return self.pairs_per_batch is not None or self.batch_size == "auto"

    @property
    def frames_per_step(self) -> int:
        """Frames in a step, in an average one where it goes by pairs."""
        return DEFAULT_BATCH if self.batch_size == "auto" else self.batch_size

    def loss_of(self, target: str) -> LossOptions:
        """Return the loss of a target, the default one if it has no own."""
        return self.loss.get(target, LossOptions())

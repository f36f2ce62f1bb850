"""The options of a run, checked when they are made.

A field's name is its key in an options file, in the block that the class's docstring
names. Defaults stand here and nowhere else. A frozen object's wrong value raises
``ConfigError`` naming the field.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from pet_calc.config.data_options import DatasetOptions, TargetOptions
from pet_calc.config.fields import check_fields, check_positive, check_range, suggest
from pet_calc.config.replay import ReplayOptions
from pet_calc.errors import ConfigError
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import PETHypers

_DEFAULT_BATCH = 16

IN_MEMORY = "memory"

Augmentation = Literal["O3", "rotations", "inversions", "none"]

HEAD_MODULES = ("node_heads", "edge_heads", "node_last_layers", "edge_last_layers")


@dataclass(frozen=True)
class LossTerm:
    """How one kind of error enters the loss."""

    type: Literal["mse", "mae", "huber"] = "mse"
    """Squared error, absolute error, or squared up to delta and absolute beyond."""
    weight: float = 1.0
    """Factor of this term."""
    delta: float = 1.0
    """Where the Huber loss turns from squared to absolute."""

    def __post_init__(self) -> None:
        """Check types and signs."""
        check_fields(self)
        check_range(self, "weight", 0.0, float("inf"))
        check_positive(self, "delta")


@dataclass(frozen=True)
class LossOptions:
    """The loss of one target; an entry of ``architecture: training: loss:``."""

    value: LossTerm = field(default_factory=LossTerm)
    """The target itself: the energy per atom, or what the head predicts."""
    forces: LossTerm = field(default_factory=LossTerm)
    """Forces derived from an energy."""
    stress: LossTerm = field(default_factory=LossTerm)
    """Stress derived from an energy."""

    def __post_init__(self) -> None:
        """Check types."""
        check_fields(self)


@dataclass(frozen=True)
class BaselineOptions:
    """Energies per element, E0; ``architecture: training: atomic_baseline:``."""

    mode: Literal["fit", "keep", "isolated_atoms"] = "fit"
    """fit: to the residuals of the base; keep: the base's; or from isolated atoms."""
    tables: dict[str, dict[str, float] | float] = field(default_factory=dict)
    """Per target: energies by symbol, or one for all, in the unit of the labels."""

    def __post_init__(self) -> None:
        """Check types."""
        check_fields(self)


@dataclass(frozen=True)
class FinetuneOptions:
    """What is trained, and from which base; ``architecture: training: finetune:``."""

    method: Literal["scratch", "full", "heads", "lora"] = "scratch"
    """scratch: no base; full: all weights; heads: heads only; lora: low-rank layers."""
    base: str | None = None
    """Checkpoint to start from, written read_from; null waits for -c or --base."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Size and place of the low-rank layers, written config."""
    head_mode: Literal["auto", "train", "freeze", "lora"] = "auto"
    """The heads under lora; auto: train those new to the base, freeze the others."""
    inherit_heads: dict[str, str] = field(default_factory=dict)
    """New target to the target of the base whose head it starts from."""
    keep_head: bool = False
    """Whether heads of the base that are not trained stay in the model."""
    direct_heads: Literal["train", "drop"] = "train"
    """Direct force and stress heads of the base: train on the labels, or leave out."""
    new_elements: Literal["refuse", "nearest"] | dict[str, str] = "refuse"
    """Elements unknown to the base: refuse, or start as nearest or as in {Ge: Si}."""
    head_modules: tuple[str, ...] = HEAD_MODULES
    """The parts that method heads trains."""

    def __post_init__(self) -> None:
        """Check types, and that the method and base agree."""
        check_fields(self)
        if self.method == "scratch" and self.base is not None:
            raise ConfigError(
                f"read_from: expected no base for method scratch, got {self.base}; "
                "choose full, heads or lora"
            )
        if self.method == "full" and self.base is None:
            raise ConfigError("read_from: expected a base for method full, got none")
        if self.method in ("heads", "scratch") and self.new_elements != "refuse":
            raise ConfigError(
                f"new_elements: has no use with method {self.method}: "
                + (
                    "a new model takes its elements from the data"
                    if self.method == "scratch"
                    else "their embeddings would not train; choose lora or full"
                )
            )
        if self.method != "lora" and self.lora != LoRAConfig():
            raise ConfigError(f"config.rank: has no effect with method {self.method}")
        if self.method != "heads" and self.head_modules != HEAD_MODULES:
            raise ConfigError(
                f"config.head_modules: has no effect with method {self.method}"
            )
        for name in self.head_modules:
            if name not in HEAD_MODULES:
                raise ConfigError(
                    f"config.head_modules: expected parts of the heads, got {name}; "
                    f"{suggest(name, HEAD_MODULES)}"
                )


@dataclass(frozen=True)
class TrainOptions:
    """How the training goes; ``architecture: training:``."""

    num_epochs: int | None = None
    """Passes over the training set; null chooses by method."""
    batch_size: int | Literal["auto"] = _DEFAULT_BATCH
    """Structures per optimiser step, over all processes. auto: as many as have the
    neighbour pairs of 16 average ones, for data that differ in size."""
    pairs_per_batch: int | None = None
    """Neighbour pairs and atoms per optimiser step, instead of batch_size."""
    max_pairs_per_batch: int | None = None
    """Neighbour pairs and atoms that go through the model at once, where a step has
    more; the gradient is the same. null finds out by trying."""
    learning_rate: float | None = None
    """Peak learning rate; null chooses by method and model size."""
    augmentation: Augmentation = "O3"
    """How each structure is turned, anew in each epoch: O3 is any rotation, with and
    without inversion. none learns the orientations of the files only."""
    consistency: float = 0.0
    """Weight of what predictions in two orientations differ by: each structure is then
    in its step twice, with half as many in a step of the same cost. 2 halves what
    turning changes, and costs a few percent of accuracy in the same time."""
    warmup_fraction: float = 0.01
    """Part of the steps in which the rate rises; then it falls as a cosine."""
    weight_decay: float = 0.0
    """Decoupled weight decay, in learning rates."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam or muon, which learns in fewer steps what is new; not for method lora."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient; .inf for no limit."""
    ema_decay: float | None = None
    """Decay per step of the averaged weights in use; null chooses, 0 is none."""
    early_stopping_patience: int | None = None
    """Epochs without a better validation after which to stop; null for never."""
    compile: Literal["auto"] | bool = "auto"
    """Whether steps are computed by an engine compiled for this machine (CPU); auto: if
    it is there, or the run takes more than two minutes."""
    activation_checkpointing: bool = False
    """Whether layers are computed again for the gradient and not kept for it: less
    memory, more time, the same numbers; by PyTorch, not by the compiled engine."""
    mixed_precision: bool = False
    """Whether the matrix products of training steps are in bfloat16, which new GPUs do
    faster; validation is exact. By PyTorch, not by the compiled engine."""
    loss: dict[str, LossOptions] = field(default_factory=dict)
    """Loss by target; a target that is not named has the defaults."""
    atomic_baseline: BaselineOptions = field(default_factory=BaselineOptions)
    """Energies per element."""
    scale_targets: bool = True
    """Whether a new target is divided by its spread."""
    best_model_metric: Literal["mae_prod", "rmse_prod", "loss"] = "mae_prod"
    """Which validation number picks the best model."""
    log_interval: int = 1
    """Epochs between lines in the log."""
    checkpoint_interval: int = 10
    """Epochs between checkpoints to resume from; the last and best are always kept."""
    num_workers: int | None = None
    """Processes that compute neighbour lists; null chooses, 0 uses no others."""
    replay: ReplayOptions = field(default_factory=ReplayOptions)
    """Structures of the base's domain that are trained on as well."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_fields(self)
        check_positive(self, "num_epochs", "pairs_per_batch", "max_pairs_per_batch")
        if self.batch_size != "auto":
            check_positive(self, "batch_size")
        check_positive(self, "learning_rate", "grad_clip_norm", "log_interval")
        check_positive(self, "early_stopping_patience", "checkpoint_interval")
        check_range(self, "learning_rate", 0.0, 1.0)
        check_range(self, "warmup_fraction", 0.0, 1.0)
        check_range(self, "weight_decay", 0.0, float("inf"))
        check_range(self, "ema_decay", 0.0, 1.0)
        check_range(self, "consistency", 0.0, float("inf"))
        if self.consistency > 0 and self.augmentation == "none":
            raise ConfigError(
                "consistency: compares two orientations of a structure, which "
                "augmentation none does not give; write O3 there"
            )
        check_range(self, "num_workers", 0, float("inf"))
        for name, reason in (
            ("activation_checkpointing", "keeps its layers"),
            ("mixed_precision", "trains in one precision"),
        ):
            if getattr(self, name) and self.compile is True:
                raise ConfigError(
                    f"{name}: expected this or compile: true, got both; the compiled "
                    f"engine {reason}"
                )

    @property
    def is_by_pairs(self) -> bool:
        """Whether steps have a number of pairs, and not of structures."""
        return self.pairs_per_batch is not None or self.batch_size == "auto"

    @property
    def frames_per_step(self) -> int:
        """Structures in a step, in an average one where it goes by pairs."""
        return _DEFAULT_BATCH if self.batch_size == "auto" else self.batch_size

    def loss_of(self, target: str) -> LossOptions:
        """Return the loss of a target, the default one if it has no own."""
        return self.loss.get(target, LossOptions())


@dataclass(frozen=True)
class RunOptions:
    """Everything that decides a training run; the options file as a whole."""

    training_set: tuple[DatasetOptions, ...]
    """Data to learn from."""
    validation_set: float | tuple[DatasetOptions, ...] = 0.1
    """Data that picks the best model, or a fraction of the training set."""
    test_set: float | tuple[DatasetOptions, ...] = 0.0
    """Data that is only evaluated at the end, or a fraction of the training set."""
    retain_set: tuple[DatasetOptions, ...] = ()
    """Data of the base's level and domain, to measure what is forgotten."""
    replay_set: tuple[DatasetOptions, ...] = ()
    """Data of the base's level and domain that is trained on as well."""
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    """What is trained, and from which base."""
    train: TrainOptions = field(default_factory=TrainOptions)
    """How the training goes."""
    hypers: PETHypers | None = None
    """Shape of a new model; null is the default shape, or that of the base."""
    atomic_types: tuple[int, ...] | None = None
    """Atomic numbers of a new model; null takes them from the data."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    base_precision: Literal[32, 64] = 32
    """Bits of a floating-point number."""
    seed: int = 0
    """Seed of the weights, the split and the order of batches."""
    output: str = "."
    """Folder for checkpoints, logs and the resolved options."""
    data_store: str | None = None
    """Folder where frames are stored that do not fit in memory, reused by later runs.
    null: in the output folder, for data sets of 1 GB and more; memory: never."""
    final_eval: bool = True
    """Whether the best model is evaluated on all sets at the end."""

    def __post_init__(self) -> None:
        """Check types, and that fractions leave something to train on."""
        check_fields(self)
        check_range(self, "seed", 0, 2**63 - 1)
        if not self.training_set:
            raise ConfigError("training_set: expected at least one dataset, got none")
        for name in ("validation_set", "test_set"):
            if isinstance(getattr(self, name), float):
                check_range(self, name, 0.0, 1.0)
        sets = (self.validation_set, self.test_set)
        held_out = [size for size in sets if isinstance(size, float)]
        if sum(held_out) >= 1.0:
            raise ConfigError(
                "validation_set: expected fractions that leave some of the training "
                f"set, got {held_out}"
            )
        replay = self.train.replay
        if replay.labels == "base" and not self.replay_set:
            raise ConfigError(
                "replay.labels: expected a replay_set to label, got none; generated "
                "frames are labelled by the base in any case"
            )
        if replay.weight != ReplayOptions.weight and not self.has_replay:
            raise ConfigError(
                "replay.weight: has no effect without a replay_set or generated frames"
            )
        if replay.batch_size is not None and not self.has_replay:
            raise ConfigError(
                "replay.batch_size: has no effect without a replay_set or generated "
                "frames"
            )
        if self.train.optimizer == "muon" and self.finetune.method == "lora":
            raise ConfigError(
                "optimizer: expected adam with method lora, got muon, which is for "
                "whole matrices"
            )
        _check_device(self.device)

    @property
    def has_replay(self) -> bool:
        """Whether structures of the base's domain are trained on as well."""
        return bool(self.replay_set) or self.train.replay.generate > 0

    @property
    def targets(self) -> dict[str, TargetOptions]:
        """The targets of all training sets by name, as first described."""
        targets: dict[str, TargetOptions] = {}
        for dataset in self.training_set:
            for target in dataset.targets:
                targets.setdefault(target.name, target)
        return targets

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
        """The targets of non-conservative heads by kind, ``force`` and ``stress``.

        Raises:
            ConfigError: if there are two of one kind.
        """
        found: dict[str, TargetOptions] = {}
        for name, target in self.targets.items():
            if target.kind == "energy":
                continue
            if target.kind in found:
                raise ConfigError(
                    f"training_set.targets: expected one direct {target.kind}, got "
                    f"{found[target.kind].name} and {name}"
                )
            found[target.kind] = target
        return found

    def with_base(self, base: str) -> "RunOptions":
        """Return a copy that starts from ``base``, all weights if no method is set."""
        method = self.finetune.method
        return replace(
            self,
            finetune=replace(
                self.finetune,
                method="full" if method == "scratch" else method,
                base=base,
            ),
        )

    def check_ready(self) -> None:
        """Raise if a method, or what is to be remembered, needs a base without one."""
        for name in ("retain_set", "replay_set"):
            if self.finetune.method == "scratch" and getattr(self, name):
                raise ConfigError(
                    f"{name}: there is nothing to forget without a base; name one "
                    "with -c CHECKPOINT, or remove the set"
                )
        if self.finetune.method == "scratch" and self.train.replay.generate:
            raise ConfigError(
                "architecture.training.replay.generate: needs a base to label the "
                "frames; name one with -c CHECKPOINT"
            )
        if self.finetune.method != "scratch" and self.finetune.base is None:
            raise ConfigError(
                f"architecture.training.finetune.read_from: method "
                f"{self.finetune.method} needs a base checkpoint, got none; "
                "name it here or with -c CHECKPOINT"
            )


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    is_known = kind in ("auto", "cpu", "cuda") and (
        number.isdigit() if ":" in device else True
    )
    if not is_known:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")

"""Options of other PET programs that pet-calc does not have, and what to do instead.

metatrain's own options keep their names here. What is listed as unsupported passes
only at metatrain's default, so that a file never means something else than it says.
"""

import logging
from collections.abc import Iterable
from typing import Any

from pet_calc.config.messages import OptionError, show, suggest

logger = logging.getLogger(__name__)

LORA_KEYS = ("USE_LORA_PEFT", "LORA_RANK", "LORA_ALPHA")
"""The historic spelling of LoRA, which is still read."""

# name: (values that pass, what to do instead)
Unsupported = dict[str, tuple[tuple[Any, ...], str]]

UNSUPPORTED_TRAINING: Unsupported = {
    "fixed_scaling_weights": ((None, {}), "scales are measured, see scale_targets"),
    "per_structure_targets": ((None, []), "energies enter the loss per atom"),
    "max_atoms_per_batch": ((None,), "use batch_size and max_pairs_per_batch"),
    "min_atoms_per_batch": ((None, 0), "no batch is dropped"),
    "batch_atom_bounds": (
        (None, [None, None]),
        "no batch is dropped; max_pairs_per_batch bounds memory",
    ),
}
UNSUPPORTED_LOSS: Unsupported = {
    "reduction": ((None, "mean"), "change the weight"),
    "sliding_factor": ((None,), "remove it"),
}
UNSUPPORTED_RUN: Unsupported = {
    "wandb": ((None, {}), "logs are CSV and JSON lines in the output folder"),
}
UNSUPPORTED_ARCHITECTURE: Unsupported = {
    "preset": ((None, "default"), "write its values under model and training"),
}
UNSUPPORTED_TARGET: Unsupported = {
    "num_subtargets": ((None, 1), "only energies, forces and stress are learned"),
    "reader": ((None, "ase"), "files are read by ASE"),
}

# These change what is printed, or nothing; any value passes and one line says so.
NO_EFFECT_TRAINING = (
    "distributed",  # torchrun decides
    "distributed_port",
    "log_mae",
    "log_separate_blocks",
    "scheduler_factor",  # the rate falls as a cosine
    "scheduler_patience",
)
NO_EFFECT_RUN = ("print_stats",)

_SCHEDULE = "num_epochs and warmup_fraction (the rate falls as a cosine)"
_ORIGINAL_PET = {
    "ATOMIC_BATCH_SIZE": "batch_size",
    "BATCH_SIZE": "batch_size",
    "CHECKPOINT_INTERVAL": "checkpoint_interval",
    "CUTOFF_DELTA": "architecture.model.cutoff_width",
    "DTYPE": "base_precision",
    "ENERGY_WEIGHT": "loss: {energy: {weight: ...}}",
    "EPOCH_NUM": "num_epochs",
    "EPOCH_NUM_ATOMIC": "num_epochs",
    "EPOCHS_WARMUP": "warmup_fraction",
    "EPOCHS_WARMUP_ATOMIC": "warmup_fraction",
    "FORCE_WEIGHT": "loss: {energy: {forces: {weight: ...}}}",
    "GRADIENT_CLIPPING_MAX_NORM": "grad_clip_norm",
    "INITIAL_LR": "learning_rate",
    "MODEL_TO_START_WITH": "finetune: {read_from: ...}",
    "N_GNN_LAYERS": "architecture.model.num_gnn_layers",
    "N_TRANS_LAYERS": "architecture.model.num_attention_layers",
    "RANDOM_SEED": "seed",
    "R_CUT": "architecture.model.cutoff",
    "SCHEDULER_STEP_SIZE": _SCHEDULE,
    "SCHEDULER_STEP_SIZE_ATOMIC": _SCHEDULE,
    "STRUCTURAL_BATCH_SIZE": "batch_size",
    "TRANSFORMER_D_MODEL": "architecture.model.d_pet",
}


def refuse_original_pet(values: Iterable[str], known: Iterable[str]) -> None:
    """Raise for a key in capitals, the spelling of the original PET program."""
    known = list(known)
    for key in values:
        if not key.isupper() or key in known:
            continue
        if key in _ORIGINAL_PET:
            advice = f"use {_ORIGINAL_PET[key]}"
        else:
            advice = suggest(key.lower(), [name for name in known if name.islower()])
        raise OptionError(
            f"{key}: an option of the original PET program that is not known here; "
            f"{advice} (of that spelling, {', '.join(LORA_KEYS)} are read)"
        )


def take_unsupported(values: dict[str, Any], unsupported: Unsupported) -> None:
    """Remove the listed options, and raise for one that is not at its default."""
    for key, (passing, advice) in unsupported.items():
        value = values.pop(key, None)
        if not any(value == p and type(value) is type(p) for p in passing):
            raise OptionError(f"{key}: {show(value)} is not supported; {advice}")


def take_without_effect(values: dict[str, Any], names: Iterable[str]) -> None:
    """Remove the listed options and log that they change nothing."""
    for key in names:
        if key in values:
            logger.info("option %s=%s has no effect in pet-calc", key, values.pop(key))

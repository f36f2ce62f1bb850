"""Model files, pet-calc's own and metatrain's, read without running their pickles."""

from pet_calc.checkpoint.metatrain_write import save_metatrain_checkpoint
from pet_calc.checkpoint.native import (
    load_checkpoint,
    load_training_state,
    save_checkpoint,
)
from pet_calc.checkpoint.record import Checkpoint
from pet_calc.lora.fingerprint import compute_fingerprint

__all__ = [
    "Checkpoint",
    "compute_fingerprint",
    "load_checkpoint",
    "load_training_state",
    "save_checkpoint",
    "save_metatrain_checkpoint",
]

"""Load a model for use: a checkpoint, with an adapter if asked for, merged."""

from pathlib import Path

import torch

from pet_calc.checkpoint import Checkpoint, load_checkpoint
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.lora.adapter import apply_adapter
from pet_calc.lora.inject import has_lora, merge_lora
from pet_calc.model.pet import PET


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device of that name; ``auto`` or None takes a GPU if there is one."""
    if name not in (None, "auto"):
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_merged_model(
    checkpoint: str | Path | Checkpoint,
    *,
    adapter: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PET:
    """Return the model with all LoRA merged, frozen, in eval mode.

    Args:
        checkpoint: path of a pet-calc or metatrain checkpoint, or one in memory.
        adapter: LoRA adapter file to put on it.
        dtype: of the weights; None keeps the file's.
        device: where the model goes.

    Raises:
        CheckpointError: if a file cannot be read.
        LoRAError: if the adapter belongs to another base.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    model = checkpoint.build_model(dtype=dtype, device=device)
    if adapter is not None:
        name = Path(checkpoint.source).name if checkpoint.source else ""
        apply_adapter(model, load_adapter(adapter), base_name=name)
        model.to(device=device, dtype=dtype or checkpoint.dtype)
    if has_lora(model):
        merge_lora(model)
    return model.eval().requires_grad_(False)

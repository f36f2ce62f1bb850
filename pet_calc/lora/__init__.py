"""Low-rank corrections: inject, train, merge, and keep them as adapters."""

from pet_calc.lora.adapter import Adapter, apply_adapter, extract_adapter
from pet_calc.lora.bank import AdapterBank
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.lora.freeze import (
    format_trainable_table,
    freeze_for_heads,
    freeze_for_lora,
    trainable_table,
    unfreeze_all,
)
from pet_calc.lora.inject import (
    has_lora,
    inject_lora,
    lora_config_of,
    merge_lora,
    remove_lora,
)
from pet_calc.lora.layer import LoRAConfig, LoRALinear

__all__ = [
    "Adapter",
    "AdapterBank",
    "LoRAConfig",
    "LoRALinear",
    "apply_adapter",
    "compute_fingerprint",
    "extract_adapter",
    "format_trainable_table",
    "freeze_for_heads",
    "freeze_for_lora",
    "has_lora",
    "inject_lora",
    "lora_config_of",
    "merge_lora",
    "remove_lora",
    "trainable_table",
    "unfreeze_all",
]

"""Models by name: bundled ones, and the public PET collection on Hugging Face."""

from pet_calc.hub.find import find_model, pin_version
from pet_calc.hub.listing import ModelEntry, list_models

__all__ = ["ModelEntry", "find_model", "list_models", "pin_version"]

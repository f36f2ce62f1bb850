"""What the compiled engine can run: models, and files that were exported from them."""

from typing import Any

import torch

from pet_calc.checkpoint.to_ev import is_angstrom
from pet_calc.model.fold import FORMAT_VERSION
from pet_calc.model.pet import PET
from pet_calc.units import energy_factor

# widths of an attention head that the engine has loops for
HEAD_WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128)


def find_obstacle(model: PET, target: str) -> str | None:
    """Return what of the model the engine has no code for, None if nothing."""
    hypers = model.hypers
    weight = model.edge_embedder.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device}, the engine is for the CPU"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"the model is in {weight.dtype}"
    if hypers.transformer_type != "PreLN":
        return f"the model has the older {hypers.transformer_type} transformer"
    is_adaptive = hypers.num_neighbors_adaptive is not None
    if is_adaptive and hypers.adaptive_cutoff_method != "solver":
        return "the model has the older grid of adaptive radii"
    if hypers.d_pet // hypers.num_heads not in HEAD_WIDTHS:
        return f"attention heads are {hypers.d_pet // hypers.num_heads} wide"
    if model.targets[target].n_values != 1:
        return f"{target} has several values per atom"
    return None


def find_exported_obstacle(exported: Any, output: str) -> str | None:
    """Return why the engine cannot run an exported file's output, None if it can.

    Args:
        exported: the metatomic model, on the CPU.
        output: name of an energy output.
    """
    if not hasattr(exported.module, "describe_engine"):
        return "the file holds no weights for it; export the checkpoint with pet-calc"
    obstacle, shape, _ = exported.module.describe_engine(output)
    if obstacle:
        return str(obstacle)
    if shape["format_version"] != FORMAT_VERSION:
        return "another version of pet-calc exported the file; export it again"
    capabilities = exported.capabilities()
    unit = capabilities.outputs[output].unit
    if not is_angstrom(capabilities.length_unit) or energy_factor(unit) != 1.0:
        return f"the file is in {capabilities.length_unit} and {unit}, not in Å and eV"
    return None

"""Run a pet-calc command with another kind of LoRA, for the study in ``recipe.py``.

    python benchmarks/lora_variants.py dora train options.yaml -o run
    python benchmarks/lora_variants.py principal train options.yaml -o run

dora (arXiv:2402.09353): W = m (W0 + s B A) / ||W0 + s B A||, norms by row and without a
gradient, m trained; it begins as the norms of W0. principal (PiSSA, arXiv:2404.02948):
A and B begin as the first r singular vectors of W0, which keeps the rest; step 0 is the
base to rounding. Checkpoints of ``dora`` load with this program alone; neither run
leaves an adapter.
"""

import sys

import torch
from torch import nn

from pet_calc.cli.main import main as run_pet_calc
from pet_calc.lora.layer import LoRALinear
from pet_calc.train import results


def use_magnitudes():
    """Make every layer DoRA."""
    build = LoRALinear.__init__

    def build_with_magnitude(layer, *args, **kwargs):
        build(layer, *args, **kwargs)
        norms = layer.linear.weight.detach().norm(dim=1)
        # there it trains and is saved with A
        layer.lora_A.magnitude = nn.Parameter(norms)

    def compute_weight(layer):
        product = layer.lora_B.weight @ layer.lora_A.weight
        weight = layer.linear.weight + layer.scaling * product
        factor = layer.lora_A.magnitude / weight.detach().norm(dim=1)
        return factor.unsqueeze(1) * weight

    def forward(layer, x):
        return nn.functional.linear(x, layer.weight, layer.bias)

    LoRALinear.__init__ = build_with_magnitude
    LoRALinear.weight = property(compute_weight)
    LoRALinear.factors = property(lambda layer: None)
    LoRALinear.forward = forward
    LoRALinear.merged_weight = lambda layer, name="": layer.weight.detach()


def use_principal_directions():
    """Make A and B begin as the largest part of the weight, which loses it."""

    def reset(layer, generator):
        with torch.no_grad():
            weight = layer.linear.weight.double()
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            root = (values[: layer.rank] / layer.scaling).sqrt()
            layer.lora_A.weight.copy_(root.unsqueeze(1) * right[: layer.rank])
            layer.lora_B.weight.copy_(left[:, : layer.rank] * root)
            product = layer.lora_B.weight.double() @ layer.lora_A.weight.double()
            layer.linear.weight.copy_(weight - layer.scaling * product)

    LoRALinear.reset_parameters = reset


VARIANTS = {"dora": use_magnitudes, "principal": use_principal_directions}

if __name__ == "__main__":
    VARIANTS[sys.argv.pop(1)]()
    # an adapter file holds plain LoRA on the base as it is
    results.extract_adapter = results.save_adapter = lambda *args, **kwargs: None
    run_pet_calc()

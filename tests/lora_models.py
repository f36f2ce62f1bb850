"""Tiny models with corrections, and adapters, that the LoRA tests share."""

import torch
from helpers import build_batch, build_model, build_structures

from pet_calc.lora import (
    LoRAConfig,
    compute_fingerprint,
    extract_adapter,
    inject_lora,
)
from pet_calc.lora.freeze import find_heads
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec

PBE0 = TargetSpec.for_energy("energy/pbe0", description="PBE0-D3")


def randomise_lora(model, seed=7, size=0.3):
    """Give A and B random values, as if trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                noise = torch.randn(
                    parameter.shape, generator=generator, dtype=torch.float64
                )
                parameter.copy_(size * noise)
    return model


def build_lora_model(config=None, *, seed=7, **options):
    """A tiny PET with random corrections."""
    model = build_model(**options)
    inject_lora(model, config or LoRAConfig(rank=2, alpha=4.0))
    return randomise_lora(model, seed)


def build_tuned(config=None, *, seed=7, new_target=None, base=None):
    """A "fine-tuned" tiny PET and its adapter: corrections, heads and tables differ."""
    model = build_model() if base is None else base
    fingerprint = compute_fingerprint(model.state_dict())
    name = "energy"
    if new_target is not None:
        model.add_target(new_target, inherit_from="energy")
        name = new_target.name
    inject_lora(model, config or LoRAConfig(rank=2, alpha=4.0))
    randomise_lora(model, seed)
    with torch.no_grad():
        for head in find_heads(model, [name]):
            for parameter in head.parameters():
                parameter *= 1.0 + 0.01 * seed
        model.baseline.tables[name].composition += float(seed)
        model.baseline.tables[name].scale *= 1.5
    adapter = extract_adapter(
        model, base_fingerprint=fingerprint, base_name="tiny", targets=[name]
    )
    return model, adapter


def evaluate(model, target="energy"):
    """Energies, forces and stress of the usual structures, as one flat tensor."""
    batch = build_batch(build_structures(), model)
    result = predict(model, batch, target, with_forces=True, with_stress=True)
    dtype = torch.float64
    parts = (result.energy, result.forces.to(dtype), result.stress.to(dtype))
    return torch.cat([part.flatten() for part in parts])

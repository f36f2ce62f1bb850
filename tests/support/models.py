"""Tiny models, plain and with corrections, that many tests share."""

import torch
from support.structures import build_batch, build_structures

from pet_calc.lora import (
    LoRAConfig,
    compute_fingerprint,
    extract_adapter,
    inject_lora,
)
from pet_calc.lora.freeze import find_heads
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty

ATOMIC_TYPES = [1, 6, 8, 13, 14]


TINY = {
    "cutoff": 4.0,
    "d_pet": 8,
    "d_head": 8,
    "d_node": 16,
    "d_feedforward": 8,
    "num_heads": 2,
    "num_attention_layers": 1,
}


def build_model(targets=None, *, seed=0, dtype=torch.float64, **hypers):
    """A tiny PET with random weights and composition; nothing is zero or one in it."""
    specs = targets or [TargetSpec.for_energy()]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PET(PETHypers(**{**TINY, **hypers}), ATOMIC_TYPES, specs)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter += 0.2 * noise
        for name, table in model.baseline.tables.items():
            table.scale += 2.0
            if model.targets[name].is_energy:
                noise = torch.randn(table.composition.shape, generator=generator)
                table.composition += 10.0 * noise.to(torch.float64)
        if model.zbl is not None:
            model.zbl.covalent_radii += 0.6
    return model


def build_random_uncertainty(model, seed=0):
    """An uncertainty of an energy, without an ensemble, of no frames at all."""
    n = 2 * model.hypers.num_readout_layers * model.hypers.d_head
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn((n, n), generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(random @ random.T / n + 0.1 * torch.eye(n))
    return LastLayerUncertainty(factor, 0.3 + seed, torch.zeros((0, n)))


ENERGIES = [TargetSpec.for_energy("energy/pbe"), TargetSpec.for_energy("energy/scan")]


DIRECT = [
    TargetSpec.for_energy(),
    TargetSpec("non_conservative_forces", "force", "eV/A", "atom", components=[3]),
    TargetSpec("non_conservative_stress", "pressure", "eV/A^3", components=[3, 3]),
]


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


EVERY_LINEAR = LoRAConfig(rank=2, alpha=4.0, targets=("all-linear",))


def build_lora_model(config=None, *, seed=7, **options):
    """A tiny PET with random corrections."""
    model = build_model(**options)
    inject_lora(model, config or EVERY_LINEAR)
    return randomise_lora(model, seed)


def build_tuned(config=None, *, seed=7, new_target=None, base=None):
    """A "fine-tuned" tiny PET and its adapter: corrections, heads and tables differ."""
    model = build_model() if base is None else base
    fingerprint = compute_fingerprint(model.state_dict())
    name = "energy"
    if new_target is not None:
        model.add_target(new_target, inherit_from="energy")
        name = new_target.name
    inject_lora(model, config or EVERY_LINEAR)
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

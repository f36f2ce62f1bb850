"""Forces, stress and second derivatives against finite differences."""

import numpy as np
import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.derivatives import predict

# fourth-order central differences: with h = 2e-4 Å the method's error h^4 E^(5)/30 is
# below 1e-10 even for the steep cutoff functions, and rounding gives 1e-16 |E| / h
STEP = 2e-4
WEIGHTS = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
CLOSE = {"rtol": 1e-7, "atol": 1e-8}
VARIANTS = {
    "default": {},
    "residual_cosine": {
        "featurizer_type": "residual",
        "cutoff_function": "Cosine",
        "transformer_type": "PostLN",
        "normalization": "LayerNorm",
        "activation": "SiLU",
        "d_node": 8,
    },
    "solver": {"num_neighbors_adaptive": 6.0},
    "grid": {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
    "zbl": {"zbl": True},
}


def compute_slopes(model, deform, n_ways):
    """Return dE/dx [n_ways], where ``deform(way, x)`` gives a structure."""
    structures = [deform(k, n * STEP) for k in range(n_ways) for n in WEIGHTS]
    # without composition, whose constant only adds rounding
    energies = predict(
        model,
        build_batch(structures, model),
        with_forces=False,
        with_composition=False,
    ).energy
    weights = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)
    return energies.view(n_ways, len(WEIGHTS)) @ weights / STEP


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("index", [0, 2, 3])
def test_forces_are_the_slope_of_the_energy(name, index):
    model = build_model(**VARIANTS[name])
    atoms = build_structures()[index]
    forces = predict(model, build_batch([atoms], model)).forces

    def displace(way, x):
        other = atoms.copy()
        other.positions[way // 3, way % 3] += x
        return other

    slopes = compute_slopes(model, displace, 3 * len(atoms))
    torch.testing.assert_close(forces.view(-1), -slopes, **CLOSE)
    # one atom feels no force: it and its images move together
    assert (forces.abs().max() > 0.1) == (len(atoms) > 1)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("index", [1, 3])
def test_stress_is_the_slope_in_strain_over_the_volume(name, index):
    model = build_model(**VARIANTS[name])
    atoms = build_structures()[index]
    stress = predict(model, build_batch([atoms], model), with_stress=True).stress[0]

    def strain(way, x):
        deformation = np.eye(3)
        deformation[way // 3, way % 3] += x
        other = atoms.copy()
        other.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        return other

    slopes = compute_slopes(model, strain, 9).view(3, 3) / atoms.get_volume()
    # PET is not rotation invariant, so the raw slope is not symmetric; ours is
    torch.testing.assert_close(stress, 0.5 * (slopes + slopes.T), **CLOSE)
    assert stress.abs().max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_both_attention_paths_give_the_same_forces(name):
    model = build_model(**VARIANTS[name])
    batch = build_batch(build_structures(), model)
    fused = predict(model, batch, with_stress=True)
    plain = predict(model, batch, with_stress=True, is_training=True)
    for field in ("energy", "forces", "stress"):
        torch.testing.assert_close(
            getattr(plain, field), getattr(fused, field), rtol=1e-11, atol=1e-11
        )
    assert plain.forces.requires_grad
    assert not fused.forces.requires_grad


@pytest.mark.parametrize("name", VARIANTS)
def test_a_force_loss_has_the_right_gradient_in_the_weights(name):
    model = build_model(**VARIANTS[name])
    structures = build_structures()[:4]
    batch = build_batch(structures, model)

    def compute_loss():
        prediction = predict(
            model, batch, with_stress=True, with_composition=False, is_training=True
        )
        return (
            prediction.forces.pow(2).sum()
            + prediction.stress.pow(2).sum()
            + 0.1 * prediction.energy.pow(2).sum()
        )

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(
        compute_loss(), list(parameters.values()), allow_unused=True
    )
    # one random direction through all weights at once tests all of them
    generator = torch.Generator().manual_seed(3)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for p in parameters.values()
    ]
    expected = sum(
        float((g * d).sum())
        for g, d in zip(gradients, direction, strict=True)
        if g is not None
    )
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters.values(), direction, strict=True):
                p += sign * 1e-5 * d
        losses.append(float(compute_loss().detach()))
        with torch.no_grad():
            for p, d in zip(parameters.values(), direction, strict=True):
                p -= sign * 1e-5 * d
    slope = (losses[0] - losses[1]) / 2e-5
    assert slope == pytest.approx(expected, rel=1e-5)
    # only the species that no structure has may be without a gradient
    unused = [n for n, g in zip(parameters, gradients, strict=True) if g is None]
    assert not unused


def test_prediction_without_forces_or_stress_has_none():
    model = build_model()
    batch = build_batch(build_structures(), model)
    prediction = predict(model, batch, with_forces=False)
    assert prediction.forces is None
    assert prediction.stress is None
    full = predict(model, batch)
    torch.testing.assert_close(prediction.energy, full.energy, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        full.energy,
        torch.zeros(5)
        .double()
        .index_add(0, batch.system_of_atom, full.atomic_energies),
    )

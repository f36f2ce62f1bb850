"""Uncertainty from features: formula, ensemble, forces."""

import pytest
import torch
from ase import Atoms
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.derivatives import predict
from pet_calc.model.uncertainty import (
    LastLayerUncertainty,
    compute_features,
    compute_force_uncertainty,
    sum_over_systems,
)

N_FEATURES = 16


def build_uncertainty(n_members=6, n_features=N_FEATURES):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, n_features, generator=generator, dtype=torch.float64)
    covariance = rows.T @ rows + 1e-3 * torch.eye(n_features, dtype=torch.float64)
    members = torch.randn(n_members, n_features, generator=generator)
    return LastLayerUncertainty(torch.linalg.cholesky(covariance), 1.3, members)


def test_it_is_the_scale_times_the_root_of_the_inverse_form():
    own = build_uncertainty()
    features = torch.randn(3, N_FEATURES, dtype=torch.float64)
    covariance = own.cholesky @ own.cholesky.T
    forms = (features @ torch.linalg.inv(covariance) * features).sum(dim=1)
    torch.testing.assert_close(own(features), 1.3 * forms.sqrt())


def test_an_ensemble_drawn_with_that_variance_scatters_by_it():
    plain = build_uncertainty()
    noise = torch.randn(
        N_FEATURES,
        4000,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    draws = torch.linalg.solve_triangular(plain.cholesky.T, noise, upper=True)
    own = LastLayerUncertainty(plain.cholesky, 1.3, 1.3 * draws.T)
    features = torch.randn(5, N_FEATURES, dtype=torch.float64)
    scatter = own.deviate(features).std(dim=1)
    # 4000 draws know a standard deviation to 1.1 %
    torch.testing.assert_close(scatter, own(features), rtol=0.05, atol=0)


def test_the_ensemble_is_centred_on_the_prediction():
    deviations = build_uncertainty().deviate(torch.randn(4, N_FEATURES))
    torch.testing.assert_close(
        deviations.sum(dim=1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_casting_leaves_the_tables_in_float64():
    own = build_uncertainty().to(torch.float32)
    assert {b.dtype for b in own.buffers()} == {torch.float64}


def test_scripted_equals_eager():
    own = build_uncertainty()
    scripted = torch.jit.script(own)
    features = torch.randn(3, N_FEATURES)
    assert torch.equal(scripted(features), own(features))
    assert torch.equal(scripted.deviate(features), own.deviate(features))


@pytest.mark.parametrize("variant", [{}, {"num_neighbors_adaptive": 6.0}])
def test_forces_scatter_as_those_of_models_with_the_members_last_layers(variant):
    model = build_model(**variant)
    table = model.baseline.tables["energy"]
    # the members' weights are in eV, behind the scale
    table.scale.fill_(1.0)
    own = build_uncertainty()
    batch = build_batch(build_structures(), model)
    forces = []
    node, edge = (
        next(iter(group["energy"][0].values()))
        for group in (model.node_last_layers, model.edge_last_layers)
    )
    before = torch.cat([node.weight, edge.weight], dim=1).detach()
    for member in own.members:
        row = before + member
        node.weight.data, edge.weight.data = row[:, :8], row[:, 8:]
        forces.append(predict(model, batch).forces)
    node.weight.data, edge.weight.data = before[:, :8], before[:, 8:]
    expected = torch.stack(forces).std(dim=0)
    for largest in (1, 10**6):
        found = compute_force_uncertainty(
            model, batch, "energy", own, largest_pass=largest
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_lone_atom_has_an_uncertain_energy_and_certain_forces():
    model = build_model()
    own = build_uncertainty()
    batch = build_batch([Atoms("O", [[0.0, 0.0, 0.0]])], model)
    features = compute_features(model, batch, "energy")
    assert float(own(sum_over_systems(features, batch))) > 0
    forces = compute_force_uncertainty(model, batch, "energy", own)
    assert torch.equal(forces, torch.zeros(1, 3, dtype=torch.float64))


def test_features_of_float32_models_are_taken_in_float64():
    model = build_model(dtype=torch.float32)
    batch = build_batch(build_structures(), model)
    features = compute_features(model, batch, "energy")
    assert features.dtype == torch.float32
    assert build_uncertainty()(features).dtype == torch.float64

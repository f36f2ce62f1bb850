"""The declared interaction range, by experiment.

A program that splits space gives each rank its own atoms and all others within the
range. The range is right if the energies of a rank's own atoms are then exact; forces
follow, because each rank's gradient on the foreign atoms is sent back and added.
"""

import numpy as np
import pytest
import torch
from ase import Atoms
from support.models import build_model
from support.structures import build_batch

from pet_calc.model.derivatives import compute_forces, predict
from pet_calc.model.edges import compute_edge_vectors

CUTOFF, WIDTH = 3.0, 0.5
ADAPTIVE = {
    "fixed": {},
    "solver": {"num_neighbors_adaptive": 16.0},
    "crowded": {"num_neighbors_adaptive": 2.5},
    "grid": {"num_neighbors_adaptive": 16.0, "adaptive_cutoff_method": "grid"},
}
CASES = [
    pytest.param(
        featurizer, n_layers, adaptive, id=f"{featurizer}-{n_layers}-{adaptive}"
    )
    for featurizer in ("feedforward", "residual")
    for n_layers in (1, 2, 3)
    for adaptive in ADAPTIVE
]


def build(featurizer, n_layers, adaptive):
    return build_model(
        cutoff=CUTOFF,
        cutoff_width=WIDTH,
        featurizer_type=featurizer,
        num_gnn_layers=n_layers,
        **ADAPTIVE[adaptive],
    )


def build_cluster(length=36.0, seed=0):
    """A crooked wire about 1.5 Å thick, one atom per 0.9 Å."""
    rng = np.random.default_rng(seed)
    x = np.arange(0.0, length, 0.9)
    positions = np.column_stack([x, *rng.uniform(-0.9, 0.9, (2, len(x)))])
    return Atoms(numbers=rng.choice([1, 6, 8], len(x)), positions=positions)


def build_chain(spacing):
    """Hydrogen and oxygen in turn, far enough apart to see only the next one."""
    x = spacing * np.arange(14)
    return Atoms("HO" * 7, np.column_stack([x, 0.02 * x, 0 * x]))


def compute_atomic_energies(model, atoms):
    return predict(
        model, build_batch([atoms], model), with_forces=False
    ).atomic_energies


@pytest.mark.parametrize(("featurizer", "n_layers", "adaptive"), CASES)
def test_atoms_beyond_the_declared_range_do_not_notice(featurizer, n_layers, adaptive):
    model = build(featurizer, n_layers, adaptive)
    atoms = build_cluster()
    before = compute_atomic_energies(model, atoms)
    rng = np.random.default_rng(1)
    for step in (0.05, 0.6):
        moved = atoms.copy()
        moved.positions[0] += step * rng.standard_normal(3)
        change = (compute_atomic_energies(model, moved) - before).abs().numpy()
        distances = np.minimum(
            *(
                np.linalg.norm(a.positions - a.positions[0], axis=1)
                for a in (atoms, moved)
            )
        )
        outside = distances > model.interaction_range
        assert outside.any()
        # padding to another block length may still reorder sums
        assert change[outside].max() < 1e-12
        assert change[1] > 1e-6


# not with few wanted neighbours: a chain has too few to make the radii small
@pytest.mark.parametrize(
    ("featurizer", "n_layers", "adaptive"),
    [case for case in CASES if case.values[2] != "crowded"],
)
def test_no_shorter_range_by_a_whole_cutoff_would_do(featurizer, n_layers, adaptive):
    model = build(featurizer, n_layers, adaptive)
    # an adaptive radius matters only where the cutoff function is neither 0 nor 1
    atoms = build_chain({"fixed": 2.4, "solver": 2.7, "grid": 2.5}[adaptive])
    before = compute_atomic_energies(model, atoms)
    moved = atoms.copy()
    moved.positions[0, 0] += 0.1
    change = (compute_atomic_energies(model, moved) - before).abs().numpy()
    distances = atoms.positions[:, 0] - moved.positions[0, 0]
    reached = distances[change > 1e-12].max()
    assert model.interaction_range - CUTOFF < reached <= model.interaction_range


@pytest.mark.parametrize(("featurizer", "n_layers", "adaptive"), CASES)
def test_two_ranks_with_the_declared_range_have_exact_forces(
    featurizer, n_layers, adaptive
):
    model = build(featurizer, n_layers, adaptive)
    atoms = build_cluster()
    whole = predict(model, build_batch([atoms], model))
    energies, forces = compute_on_two_ranks(model, atoms, model.interaction_range)
    torch.testing.assert_close(energies, whole.atomic_energies, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(forces, whole.forces, rtol=0.0, atol=1e-11)


def test_the_range_that_forgets_the_last_exchange_gives_wrong_forces():
    # layers * cutoff is what other exports of feedforward models declare
    model = build("feedforward", 2, "fixed")
    atoms = build_cluster()
    whole = predict(model, build_batch([atoms], model))
    _, forces = compute_on_two_ranks(model, atoms, 2 * CUTOFF)
    assert (forces - whole.forces).abs().max() > 1e-6


def compute_on_two_ranks(model, atoms, reach):
    """Atomic energies and forces, each half of the wire computed by its own rank."""
    energies = torch.zeros(len(atoms), dtype=torch.float64)
    forces = torch.zeros((len(atoms), 3), dtype=torch.float64)
    is_left = atoms.positions[:, 0] < atoms.positions[:, 0].mean()
    for is_own in (is_left, ~is_left):
        to_own = atoms.get_all_distances()[:, is_own].min(axis=1)
        index = np.flatnonzero(to_own <= reach)
        assert len(index) < len(atoms)
        batch = build_batch([atoms[index]], model)
        vectors = compute_edge_vectors(batch).requires_grad_(True)
        own = torch.from_numpy(is_own[index])
        values = model(batch, vectors, ["energy"])["energy"].squeeze(1)
        (gradient,) = torch.autograd.grad(values[own].sum(), vectors)
        values = values.detach() + model.composition(batch, "energy").squeeze(1)
        energies[torch.from_numpy(index)[own]] = values[own]
        forces[torch.from_numpy(index)] += compute_forces(gradient, batch)
    return energies, forces

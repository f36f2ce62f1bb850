"""Reverse pairs, edge vectors, and the places in the attention blocks."""

import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.edges import (
    EdgeSelector,
    compute_edge_vectors,
)
from pet_calc.model.hypers import PETHypers


def select(batch, cutoff=3.0, n_wanted=None):
    hypers = PETHypers(cutoff=cutoff, num_neighbors_adaptive=n_wanted)
    selector = EdgeSelector(hypers)
    vectors = compute_edge_vectors(batch)
    index = selector(batch, vectors)
    return index, selector.measure(batch, vectors, index)


def test_reverse_of_the_reverse_is_the_pair_and_its_vector_is_opposite():
    batch = build_batch(build_structures(), build_model())
    n_pairs = batch.centers.shape[0]
    assert torch.equal(batch.reverse[batch.reverse], torch.arange(n_pairs))
    assert torch.equal(batch.centers[batch.reverse], batch.neighbors)
    vectors = compute_edge_vectors(batch)
    torch.testing.assert_close(vectors[batch.reverse], -vectors)


@pytest.mark.parametrize("n_wanted", [None, 5.0])
def test_selected_edges_are_short_paired_and_have_a_place_of_their_own(n_wanted):
    batch = build_batch(build_structures(), build_model(), skin=1.0)
    index, edges = select(batch, n_wanted=n_wanted)
    n_atoms, n_edges = batch.species.shape[0], index.centers.shape[0]
    assert 0 < n_edges < batch.centers.shape[0]
    assert edges.distances.max() <= 3.0
    assert torch.equal(index.centers[index.reverse], index.neighbors)
    torch.testing.assert_close(
        edges.cutoff_factors[index.reverse], edges.cutoff_factors
    )
    n_slots = index.slot_tokens.shape[1]
    assert n_slots == 1 + torch.bincount(index.centers).max()
    assert torch.equal(index.token_slots[n_atoms:] // n_slots, index.centers)


@pytest.mark.parametrize("n_wanted", [None, 5.0])
def test_each_token_has_a_place_of_its_own_and_each_filled_place_a_token(n_wanted):
    batch = build_batch(build_structures(), build_model(), skin=1.0)
    index, _ = select(batch, n_wanted=n_wanted)
    n_tokens = batch.species.shape[0] + index.centers.shape[0]
    tokens = index.slot_tokens.flatten()
    assert torch.equal(tokens[index.token_slots], torch.arange(n_tokens))
    assert int(index.is_filled.sum()) == n_tokens
    assert index.is_filled.flatten()[index.token_slots].all()
    assert (tokens[~index.is_filled.flatten()] == 0).all()


def test_fewer_wanted_neighbours_select_fewer_edges():
    batch = build_batch(build_structures(), build_model())
    counts = [select(batch, n_wanted=n)[0].kept.shape[0] for n in (2.0, 5.0, 50.0)]
    assert counts[0] < counts[1] < counts[2]


def test_vectors_follow_positions_and_cells():
    batch = build_batch(build_structures()[1:4], build_model())
    positions = batch.positions.clone().requires_grad_(True)
    cells = batch.cells.clone().requires_grad_(True)
    vectors = compute_edge_vectors(batch._replace(positions=positions, cells=cells))
    weights = torch.randn(
        vectors.shape, generator=torch.Generator().manual_seed(0), dtype=vectors.dtype
    )
    of_positions, of_cells = torch.autograd.grad(
        (vectors * weights).sum(), (positions, cells)
    )
    expected = torch.zeros_like(positions).index_add(0, batch.neighbors, weights)
    expected = expected.index_add(0, batch.centers, -weights)
    torch.testing.assert_close(of_positions, expected)
    products = batch.cell_shifts.to(weights.dtype).unsqueeze(2) * weights.unsqueeze(1)
    expected = torch.zeros_like(cells).index_add(
        0, batch.system_of_atom[batch.centers], products
    )
    torch.testing.assert_close(of_cells, expected)

"""Ranks that exchange tokens against one pass over the whole structure."""

import pytest
import torch
from support.models import build_model
from support.parts import cut, run_parts
from support.structures import build_batch, build_structures

from pet_calc.engine.engine import Engine
from pet_calc.model.edges import compute_edge_vectors

ADAPTIVE = {"num_neighbors_adaptive": 6.0}
DEEP = {"num_gnn_layers": 3, "num_attention_layers": 2}
VARIANTS = {
    "feedforward": {},
    "one layer": {"num_gnn_layers": 1},
    "deep": DEEP,
    "narrow node": {"d_node": 8, "normalization": "LayerNorm", "activation": "SiLU"},
    "residual": {"featurizer_type": "residual", **DEEP},
    "adaptive": {**ADAPTIVE, "num_gnn_layers": 2},
    "residual, adaptive": {"featurizer_type": "residual", **ADAPTIVE},
    "clamped": {"num_neighbors_adaptive": 1e-3, "cutoff_width_adaptive": 0.3},
    "conditioned": {"system_conditioning": True},
    "cosine": {"cutoff_function": "Cosine"},
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


def compute_whole(model, batch, **options):
    engine = Engine.from_model(model, "energy", **options)
    vectors = compute_edge_vectors(batch).to(engine._origin.dtype)
    return engine.compute(batch, vectors)


def share_out(batch, n_ranks, seed=1):
    """Each atom with any rank: nearly all edges cross a border."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_ranks, (len(batch.species),), generator=generator)


def check(found, expected, tolerance):
    for value, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        assert float((value - other).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_give_the_numbers_of_one(name, dtype):
    model = build_model(dtype=dtype, **VARIANTS[name])
    # cells smaller than the cutoff, too: an atom and its images on one rank
    batch = build_batch(build_structures(), model, skin=0.5)
    expected = compute_whole(model, batch)
    for n_ranks in (2, 3):
        parts = cut(batch, share_out(batch, n_ranks))
        assert all(len(part.rows) > 20 for part in parts)
        check(run_parts(model, batch, parts), expected, TOLERANCES[dtype])


def test_one_rank_alone_gives_the_same_bits():
    model = build_model(**ADAPTIVE)
    batch = build_batch(build_structures(), model)
    expected = compute_whole(model, batch)
    parts = cut(batch, torch.zeros(len(batch.species), dtype=torch.int64))
    for value, other in zip(run_parts(model, batch, parts), expected, strict=True):
        assert torch.equal(value, other)


def test_products_in_bfloat16():
    model = build_model(dtype=torch.float32)
    batch = build_batch(build_structures(), model)
    expected = compute_whole(model, batch, is_mixed=True)
    parts = cut(batch, share_out(batch, 3))
    found = run_parts(model, batch, parts, is_mixed=True)
    # a last digit of float32 decides how a number is rounded to bfloat16
    check(found, expected, 2e-3)


def test_a_rank_without_atoms_and_one_without_neighbours():
    model = build_model(**ADAPTIVE)
    batch = build_batch(build_structures(), model)
    owner = share_out(batch, 2)
    owner[owner == 1] = 2  # nobody is on 1
    owner[-1] = 3  # an atom that has no neighbours
    parts = cut(batch, owner)
    assert [len(part.ranks) for part in parts] == [1, 0, 1, 0]
    check(run_parts(model, batch, parts), compute_whole(model, batch), 1e-12)


def test_a_pair_that_rounding_puts_on_either_side_of_the_cutoff():
    model = build_model(cutoff=4.0)
    batch = build_batch(build_structures()[:1], model, skin=0.5)
    vectors = compute_edge_vectors(batch)
    p = int(vectors.norm(dim=1).argmax())
    r = int(batch.reverse[p])
    inside = vectors[p] * (4.0 - 1e-14) / vectors[p].norm()
    vectors[p], vectors[r] = inside, -inside * (1 + 1e-14)
    assert vectors[p].norm() < 4.0 < vectors[r].norm()
    owner = torch.zeros(len(batch.species), dtype=torch.int64)
    owner[batch.centers[r]] = 1
    expected = Engine.from_model(model, "energy").compute(batch, vectors)
    check(run_parts(model, batch, cut(batch, owner), vectors), expected, 1e-12)


def test_lists_that_do_not_fit_are_an_error_that_names_both_ranks():
    model = build_model()
    batch = build_batch(build_structures()[1:2], model)
    parts = cut(batch, share_out(batch, 2))
    rows = parts[0].rows
    lengths = compute_edge_vectors(batch)[parts[0].pairs[rows]].norm(dim=1)
    turned = torch.arange(len(rows)).roll(1)
    assert (lengths - lengths[turned]).abs().max() > 1e-3
    swapped = parts[0].reverse.clone()
    swapped[rows[turned]] = parts[0].reverse[rows]
    parts[0] = parts[0]._replace(rows=rows[turned], reverse=swapped)
    with pytest.raises(RuntimeError, match=r"ranks (0 and 1|1 and 0)"):
        run_parts(model, batch, parts)


def test_a_number_of_pairs_that_does_not_fit_is_an_error_that_names_both_ranks():
    model = build_model()
    batch = build_batch(build_structures()[1:2], model)
    parts = cut(batch, share_out(batch, 2))
    kept = parts[0].rows[:-1]
    # the last pair of the border is now one of the rank's own
    reverse = parts[0].reverse.clone()
    reverse[parts[0].rows[-1]] = parts[0].rows[-1]
    parts[0] = parts[0]._replace(
        rows=kept, reverse=reverse, starts=torch.tensor([0, len(kept)])
    )
    with pytest.raises(RuntimeError, match=r"bytes, got .*ranks (0 and 1|1 and 0)"):
        run_parts(model, batch, parts)


def test_a_rank_that_fails_stops_the_others():
    model = build_model()
    batch = build_batch(build_structures()[1:2], model)
    parts = cut(batch, share_out(batch, 3))
    parts[1] = parts[1]._replace(centers=parts[1].centers + 1000)
    with pytest.raises(RuntimeError, match="centers"):
        run_parts(model, batch, parts)


def test_crossings_are_checked():
    model = build_model()
    batch = build_batch(build_structures()[1:2], model)
    parts = cut(batch, share_out(batch, 2))
    parts[0] = parts[0]._replace(rows=parts[0].rows.flip(0))
    with pytest.raises(RuntimeError, match="crossings"):
        run_parts(model, batch, parts)

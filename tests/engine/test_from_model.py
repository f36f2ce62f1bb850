"""The compiled engine against the model that it is made from."""

import copy
import pickle

import ase.build
import pytest
import torch
from ase import Atoms
from support.models import EVERY_LINEAR, build_model
from support.structures import build_batch, build_bulk, build_structures

from pet_calc.data.systems import build_batch as build_system_batch
from pet_calc.engine.engine import Engine
from pet_calc.engine.supported import HEAD_WIDTHS, find_obstacle
from pet_calc.lora import inject_lora
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import TargetSpec

ADAPTIVE = {"num_neighbors_adaptive": 6.0}
VARIANTS = {
    "default": {},
    "narrow node": {"d_node": 8},
    "layer norm": {"normalization": "LayerNorm"},
    "silu": {"activation": "SiLU"},
    "residual": {"featurizer_type": "residual", "num_gnn_layers": 3},
    "residual, narrow node": {"featurizer_type": "residual", "d_node": 8},
    "deep": {"num_gnn_layers": 3, "num_attention_layers": 2},
    "shallow": {"num_gnn_layers": 1},
    "cosine": {"cutoff_function": "Cosine"},
    "temperature": {"attention_temperature": 1.7},
    "solver": {**ADAPTIVE, "adaptive_cutoff_method": "solver"},
    "crowded": {**ADAPTIVE, "cutoff_width_adaptive": 0.3, "cutoff": 5.0},
    "narrow": {**ADAPTIVE, "cutoff_width_adaptive": 0.05, "cutoff": 5.0},
    "conditioned": {"system_conditioning": True},
    "zbl": {"zbl": True},
}
# sums in another order: of the largest value
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


def compare(model, batch, tolerance, **options):
    """Check energies, forces and stress; return the engine's prediction."""
    engine = Engine.from_model(model, "energy", **options)
    wanted = {"with_stress": True, "with_composition": False, "with_features": True}
    found = engine.predict(batch, **wanted)
    expected = predict(model, batch, "energy", **wanted)
    for name in ("energy", "atomic_energies", "forces", "stress", "features"):
        value, other = getattr(found, name), getattr(expected, name)
        assert value.dtype == other.dtype
        scale = float(other.abs().max())
        assert float((value - other).abs().max()) <= tolerance * scale, name
    return found


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_equals_the_model(name, dtype):
    model = build_model(dtype=dtype, **VARIANTS[name])
    batch = build_batch(build_structures(), model, skin=0.5)
    compare(model, batch, TOLERANCES[dtype])


def test_features_are_there_only_if_asked_for_and_change_nothing():
    model = build_model()
    batch = build_batch(build_structures(), model)
    engine = Engine.from_model(model, "energy")
    plain = engine.predict(batch)
    assert plain.features is None
    found = engine.predict(batch, with_features=True)
    assert found.features.shape == (len(batch.species), 2 * model.hypers.d_head)
    for name in ("energy", "atomic_energies", "forces"):
        assert torch.equal(getattr(found, name), getattr(plain, name))


@pytest.mark.parametrize("width", HEAD_WIDTHS)
def test_every_head_width_equals_the_model(width):
    model = build_model(d_pet=2 * width)
    compare(model, build_batch(build_structures(), model), TOLERANCES[torch.float64])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("width", [24, 40, 264])
def test_matrices_that_fill_no_whole_panels(width, dtype):
    # 264 inputs are more than a product sums at once
    model = build_model(
        d_pet=24, d_node=width, d_feedforward=2 * width, d_head=width // 2, dtype=dtype
    )
    compare(model, build_batch(build_structures(), model), TOLERANCES[dtype])


@pytest.mark.parametrize("n_atoms", [1, 2, 40])
def test_atoms_without_neighbours_and_blocks_of_any_length(n_atoms):
    model = build_model(cutoff=3.0)
    line = Atoms(
        f"O{n_atoms}", [[0.07 * k * k, 0.3 * (k % 2), 0] for k in range(n_atoms)]
    )
    compare(model, build_batch([line], model), TOLERANCES[torch.float64])


def test_sizes_may_change_from_call_to_call():
    model = build_model(**ADAPTIVE)
    engine = Engine.from_model(model, "energy")
    structures = build_structures()
    for chosen in (structures[:1], structures, structures[4:], structures[1:3]):
        batch = build_batch(chosen, model)
        found = engine.predict(batch).forces
        torch.testing.assert_close(
            found, predict(model, batch).forces, rtol=0, atol=1e-11
        )


def test_several_threads_give_the_same_numbers():
    model = build_model(**ADAPTIVE)
    bulk = ase.build.bulk("Si", "diamond", 5.4, cubic=True).repeat(3)
    bulk.rattle(0.1, seed=1)
    batch = build_system_batch(bulk, model.pair_cutoff, dtype=torch.float64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        compare(model, batch, TOLERANCES[torch.float64])
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit():
    # PETCalculator takes as many as others leave cores: results must not show it
    model = build_model(dtype=torch.float32, d_pet=32, d_node=64)
    batch = build_batch([*build_structures(), build_bulk().repeat(2)], model)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            found.append(
                Engine.from_model(model, "energy").predict(batch, with_stress=True)
            )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].energy, found[1].energy)
    assert torch.equal(found[0].forces, found[1].forces)


def test_another_output_of_the_model_is_computed():
    model = build_model([TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")])
    batch = build_batch(build_structures(), model)
    found = Engine.from_model(model, "energy/pbe").predict(batch)
    torch.testing.assert_close(
        found.energy, predict(model, batch, "energy/pbe").energy, rtol=1e-12, atol=0
    )


def test_bfloat16_products_are_off_by_their_rounding_and_no_more():
    model = build_model(dtype=torch.float32, d_pet=32, d_node=64)
    batch = build_batch(build_structures(), model)
    exact = predict(model, batch, with_features=True)
    engine = Engine.from_model(model, "energy", is_mixed=True)
    found = engine.predict(batch, with_features=True)
    for name in ("forces", "features"):
        value, other = getattr(found, name), getattr(exact, name)
        error = (value - other).abs().max() / other.abs().max()
        # a product of bfloat16 is rounded to 2^-9, and some 20 of them follow another
        assert 1e-5 < error < 0.1, name


def test_copies_and_pickles_compute_too():
    model = build_model()
    batch = build_batch(build_structures(), model)
    engine = Engine.from_model(model, "energy")
    expected = engine.predict(batch).energy
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert torch.equal(other.predict(batch).energy, expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_later_changes_of_the_weights_have_no_effect(dtype):
    model = build_model(dtype=dtype)
    batch = build_batch(build_structures(), model)
    engine = Engine.from_model(model, "energy")
    expected = engine.predict(batch).forces
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    assert torch.equal(engine.predict(batch).forces, expected)


def test_a_half_list_is_an_error():
    model = build_model()
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    kept = torch.ones(len(vectors), dtype=torch.bool)
    vectors[0] *= 10.0  # now i->j is out of reach, and j->i is not
    assert kept.all()
    with pytest.raises(RuntimeError, match="j->i is not"):
        Engine.from_model(model, "energy").compute(batch, vectors)


@pytest.mark.parametrize("hypers", [{}, ADAPTIVE], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_a_pair_that_rounding_puts_beyond_reach_one_way_is_no_edge(dtype, hypers):
    model = build_model(dtype=dtype, **hypers)
    engine = Engine.from_model(model, "energy")
    batch = build_batch([Atoms("O2", [[0, 0, 0], [3.5, 0, 0]])], model)
    both, one, none = (compute_edge_vectors(batch) for _ in range(3))
    both[0, 0], both[1, 0] = 4.0, -4.0  # the cutoff
    one[0, 0], one[1, 0] = 4.0, -4.0 * (1 + torch.finfo(dtype).eps)
    none[0, 0], none[1, 0] = 5.0, -5.0
    expected = engine.compute(batch, none)[0]
    for vectors in (both, one, one.flip(0)):
        energies, gradient = engine.compute(batch, vectors)
        # an edge there has no weight
        torch.testing.assert_close(energies, expected, rtol=1e-6, atol=0)
        assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("hypers", "message"),
    [
        ({"transformer_type": "PostLN"}, "PostLN"),
        ({"num_heads": 8}, "1 wide"),
        ({**ADAPTIVE, "adaptive_cutoff_method": "grid"}, "older grid"),
    ],
)
def test_what_the_engine_cannot_run_is_named(hypers, message):
    assert message in find_obstacle(build_model(**hypers), "energy")


def test_half_precision_is_named():
    assert find_obstacle(build_model(), "energy") is None
    assert "float16" in find_obstacle(build_model().half(), "energy")


def test_unmerged_lora_counts():
    model = build_model()
    batch = build_batch(build_structures(), model)
    before = predict(model, batch, with_composition=False).energy
    inject_lora(model, EVERY_LINEAR)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name.lower():
                weight += 0.3
    found = compare(model, batch, TOLERANCES[torch.float64])
    assert not torch.allclose(found.energy, before, rtol=1e-3)


def test_the_engine_leaves_the_rounding_of_others_alone():
    Engine.from_model(build_model(), "energy")
    # a library linked for engine arithmetic would flush such numbers to zero
    smallest = torch.tensor(1e-40, dtype=torch.float32)
    assert float(smallest * 0.5) > 0.0

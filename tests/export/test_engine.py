"""What a file tells the compiled engine, against the model that it was made from."""

import pytest
import torch
from metatomic.torch import load_atomistic_model
from support.models import ATOMIC_TYPES, DIRECT, build_model
from support.structures import build_batch, build_structures

from pet_calc.engine.engine import Engine
from pet_calc.export import export_model
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.fold import (
    describe_numbers,
    describe_shape,
    fold_model,
)
from pet_calc.model.hypers import TargetSpec


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Exports a model; returns what the loaded file wraps."""
    folder = tmp_path_factory.mktemp("files")

    def load(model):
        path = export_model(model, folder / "model.pt", check=False)
        return load_atomistic_model(path).module

    return load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_and_tables_are_those_of_the_model(load, dtype):
    targets = [TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")]
    model = build_model(targets, dtype=dtype, num_neighbors_adaptive=6.0)
    file = load(model)
    weights = dict(file.pet.named_parameters())
    for name in ("energy", "energy/pbe"):
        obstacle, shape, numbers = file.describe_engine(name)
        assert obstacle == ""
        assert shape.pop("has_zbl") == shape.pop("is_conditioned") == 0
        assert shape == describe_shape(model.hypers)
        assert numbers == describe_numbers(model.hypers, dtype)
        found = file.fold_weights(weights, name)
        index = found.pop("species")
        assert index[ATOMIC_TYPES].tolist() == list(range(len(ATOMIC_TYPES)))
        table = model.baseline.tables[name]
        assert torch.equal(found.pop("scale"), table.scale.squeeze(1))
        assert torch.equal(found.pop("composition"), table.composition.squeeze(1))
        expected = fold_model(model, name, torch.float64)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == torch.float64
            assert torch.equal(found[key], value)


def test_charge_and_repulsion_are_those_of_the_model(load):
    model = build_model(zbl=True, system_conditioning=True)
    file = load(model)
    _, shape, _ = file.describe_engine("energy")
    assert (shape["has_zbl"], shape["is_conditioned"]) == (1, 1)

    zero = torch.zeros(1, dtype=torch.int64)
    expected = model.system_conditioning(zero - 2, zero + 3, zero)
    assert torch.equal(file.embed_conditions(-2.0, 3.0), expected)
    with pytest.raises(torch.jit.Error, match="must be whole numbers"):
        file.embed_conditions(0.5, 1.0)

    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch).detach().requires_grad_(True)
    found = file.compute_repulsion(
        batch.species, batch.centers, batch.neighbors, vectors
    )
    species = model.species_to_species_index[batch.species]
    expected = model.compute_zbl(batch, vectors, species).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert float(found.detach().max()) > 0.1
    gradients = [torch.autograd.grad(e.sum(), vectors)[0] for e in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_an_engine_made_of_the_file_alone_says_what_the_model_says(load):
    model = build_model()
    file = load(model)
    own = Engine.from_model(model, "energy")  # loads the engine's library
    _, shape, numbers = file.describe_engine("energy")
    folded = file.fold_weights(dict(file.pet.named_parameters()), "energy")
    engine = torch.classes.pet_calc.Engine(folded, shape, numbers)
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    species = folded["species"][batch.species]
    energies, gradient = engine.run_pairs(
        species,
        batch.centers,
        batch.neighbors,
        batch.reverse,
        vectors,
        folded["scale"][species],
        None,
    )
    expected = own.compute(batch, vectors)
    assert torch.equal(energies, expected[0])
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize(
    ("hypers", "message"),
    [
        ({"transformer_type": "PostLN"}, "PostLN"),
        ({"num_heads": 8}, "1 wide"),
        (
            {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
            "older grid",
        ),
    ],
)
def test_what_the_engine_cannot_run_is_said(load, hypers, message):
    assert message in load(build_model(**hypers)).describe_engine("energy")[0]


def test_outputs_that_are_no_energies_are_not_for_the_engine(load):
    file = load(build_model(DIRECT))
    assert file.describe_engine("energy")[0] == ""
    assert file.describe_engine("non_conservative_force")[0] != ""


def test_the_weights_are_stored_once(load):
    model = build_model()
    file = load(model)
    found = [*file.parameters(), *file.buffers()]
    own = [*model.parameters(), *model.buffers()]
    # the composition energies are there twice, see export/composition.py
    n_composition = model.baseline.tables["energy"].composition.numel()
    assert sum(v.numel() for v in found) == sum(v.numel() for v in own) + n_composition

"""Inputs and weights that do not fit are refused in words, before any loop runs."""

import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.engine.build import TRAINER, load_engine
from pet_calc.engine.engine import Engine
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.fold import describe_numbers, describe_shape, fold_model

PAIRS = ("species", "centers", "neighbors", "reverse", "vectors", "scale", "addition")


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def weights(model):
    """What an engine is made of."""
    with torch.no_grad():
        folded = fold_model(model, "energy", torch.float64)
    return (
        folded,
        describe_shape(model.hypers),
        describe_numbers(model.hypers, torch.float64),
    )


@pytest.fixture
def inputs(model):
    """Those of ``run_pairs`` by name."""
    batch = build_batch(build_structures(), model)
    species = model.species_to_species_index[batch.species]
    values = (
        *(species, batch.centers, batch.neighbors, batch.reverse),
        compute_edge_vectors(batch),
        torch.ones(len(species), dtype=torch.float64),
        None,
    )
    return dict(zip(PAIRS, values, strict=True))


def change(values, index, value):
    changed = values.clone()
    changed[index] = value
    return changed


WRONG = {
    "short vectors": (
        "vectors",
        lambda x: x[:-1],
        r"vectors: expected the size .*, 3\]",
    ),
    "flat vectors": ("vectors", lambda x: x.flatten(), "vectors: expected the size"),
    "float32": (
        "vectors",
        lambda x: x.float(),
        "vectors: expected numbers of type Double",
    ),
    "strides": ("vectors", lambda x: x.t().contiguous().t(), "vectors: .*contiguous"),
    "int32": ("centers", lambda x: x.int(), "centers: expected numbers of type Long"),
    "short neighbors": ("neighbors", lambda x: x[1:], "neighbors: expected the size"),
    "short reverse": ("reverse", lambda x: x[1:], "reverse: expected the size"),
    "no atom": (
        "neighbors",
        lambda x: change(x, 3, 10**6),
        "neighbors: 1 of .* indices",
    ),
    "before it": ("centers", lambda x: change(x, 0, -1), "centers: 1 of .* indices"),
    "no pair": ("reverse", lambda x: change(x, 0, len(x)), "reverse: 1 of .* indices"),
    "an element": ("species", lambda x: change(x, 0, -1), "species: 1 of .* indices"),
    "order": ("centers", lambda x: x.flip(0), "centers: expected in order"),
    "scale": ("scale", lambda x: x[:-1], "scale: expected the size"),
    "addition": (
        "addition",
        lambda x: torch.ones(2, 16, dtype=torch.float64),
        "addition: expected the size",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_do_not_fit_are_named(weights, inputs, name):
    key, spoil, message = WRONG[name]
    load_engine()
    engine = torch.classes.pet_calc.Engine(*weights)
    engine.run_pairs(*inputs.values())
    inputs[key] = spoil(inputs[key])
    with pytest.raises(RuntimeError, match=message):
        engine.run_pairs(*inputs.values())


@pytest.mark.parametrize("name", ["short vectors", "no atom", "an element", "order"])
def test_inputs_of_a_training_step_are_checked_too(weights, inputs, name):
    key, spoil, message = WRONG[name]
    step = prepare_step(weights, inputs)
    energies, gradient = step.evaluate()
    with pytest.raises(RuntimeError, match="gradient of the energies: expected"):
        step.differentiate(energies[1:], gradient, ["message_table"])
    with pytest.raises(RuntimeError, match="gradient of the vectors' gradient: exp"):
        step.differentiate(energies, gradient[1:], ["message_table"])
    inputs[key] = spoil(inputs[key])
    with pytest.raises(RuntimeError, match=message):
        prepare_step(weights, inputs)


def prepare_step(weights, inputs):
    load_engine(TRAINER)
    classes = torch.classes.pet_calc_training
    folded, *description = weights
    return classes.TrainingStep(
        *(classes.Workspace(), classes.Layouts([]), folded, ["message_table"]),
        *(*description, *inputs.values()),
    )


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("gnn.0.compress.weight", lambda x: x[1:]),
        ("gnn.1.0.mixed.weight", lambda x: x[:-8]),
        ("gnn.0.0.mlp_in.bias", lambda x: x[1:]),
        ("gnn.1.pair_out.weight", lambda x: x[:, 1:]),
        ("node_head.0.last", lambda x: x[1:]),
        ("message_table", lambda x: x[:, 1:].contiguous()),
        ("gnn.0.basis", lambda x: x.float()),
    ],
)
def test_weights_that_do_not_fit_the_shape_are_refused(weights, name, spoil):
    folded, *description = weights
    load_engine()
    spoilt = {**folded, name: spoil(folded[name])}
    with pytest.raises(RuntimeError, match=r"engine: .*expected"):
        torch.classes.pet_calc.Engine(spoilt, *description)


def test_energies_of_a_model_with_a_wrong_dtype_are_not_computed(model):
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch).float()
    with pytest.raises(RuntimeError, match=r"vectors: expected numbers of type Double"):
        Engine.from_model(model, "energy").compute(batch, vectors)

"""Elements that a model gets later, and their removal."""

import pytest
import torch
from support.models import ATOMIC_TYPES, build_model
from support.structures import build_batch, build_structures

from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.elements import (
    add_elements,
    drop_elements,
    is_per_element,
    remove_elements,
)
from pet_calc.model.pet import PET

GE, N = 32, 7
SHAPES = [{}, {"featurizer_type": "residual", "zbl": True}]


def run(model, structures=None):
    batch = build_batch(structures or build_structures(), model)
    return predict(model, batch, with_stress=True, with_features=True)


@pytest.mark.parametrize("shape", SHAPES, ids=["feedforward", "residual with ZBL"])
def test_known_elements_say_bit_for_bit_the_same(shape):
    model = build_model(**shape)
    before = run(model)
    add_elements(model, {GE: [14], N: [6, 8]})
    assert model.atomic_types == [1, 6, 7, 8, 13, 14, 32]
    for one, other in zip(before, run(model), strict=True):
        assert torch.equal(one, other)


def test_a_new_element_says_what_its_source_says():
    model = build_model()
    silicon = build_structures()[1]
    germanium = silicon.copy()
    germanium.numbers[:] = GE
    add_elements(model, {GE: [14]})
    for one, other in zip(run(model, [silicon]), run(model, [germanium]), strict=True):
        assert torch.equal(one, other)


def test_several_sources_give_their_mean():
    model = build_model()
    before = model.edge_embedder.weight.detach().clone()
    add_elements(model, {N: [6, 8]})
    row = model.edge_embedder.weight[2]
    assert torch.allclose(row, before[1:3].mean(dim=0), atol=1e-15)
    # a scale that is the same for all stays so, whatever the rounding of a mean
    table = model.baseline.tables["energy"]
    table.scale.fill_(0.1)
    add_elements(model, {9: [1, 6, 8]})
    assert (table.scale == 0.1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=["feedforward", "residual with ZBL"])
def test_removal_brings_the_model_back(shape):
    model = build_model(**shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_elements(model, {GE: [14], N: [6]})
    extended = model.state_dict()
    assert any(len(extended[n]) == 7 for n in extended if is_per_element(n))
    dropped = drop_elements(extended, model.atomic_types, [N, GE])
    assert compute_fingerprint(dropped) == compute_fingerprint(before)
    remove_elements(model, [N, GE])
    assert model.atomic_types == ATOMIC_TYPES
    for state in (dropped, model.state_dict()):
        assert state.keys() == before.keys()
        for name, value in before.items():
            assert torch.equal(state[name], value), name


def test_an_extended_model_is_that_of_a_file_with_its_elements_and_is_scripted():
    model = build_model()
    add_elements(model, {GE: [14]})
    fresh = PET(model.hypers, model.atomic_types, list(model.targets.values())).double()
    fresh.load_state_dict(model.state_dict())
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    expected = model(batch, vectors, ["energy"])["energy"]
    assert torch.equal(fresh(batch, vectors, ["energy"])["energy"], expected)
    scripted = torch.jit.script(model)
    assert torch.allclose(scripted(batch, vectors, ["energy"])["energy"], expected)


def test_elements_that_cannot_be_added_are_refused():
    model = build_model()
    for sources in ({14: [6]}, {GE: [50]}, {GE: []}):
        with pytest.raises(ValueError, match="cannot be added"):
            add_elements(model, sources)
    assert model.atomic_types == ATOMIC_TYPES

"""The network in every variant: scripted, batched, on odd structures."""

import pytest
import torch
from ase import Atoms
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import TargetSpec

OLD = {
    "normalization": "LayerNorm",
    "activation": "SiLU",
    "transformer_type": "PostLN",
    "d_node": 8,
    "cutoff_function": "Cosine",
}
GRID = {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"}
VARIANTS = {
    "default": {},
    "old": {**OLD, "featurizer_type": "residual"},
    "old_feedforward": OLD,
    "residual": {"featurizer_type": "residual"},
    "post_norm_wide_node": {"transformer_type": "PostLN"},
    "layer_norm": {"normalization": "LayerNorm"},
    "silu": {"activation": "SiLU"},
    "cosine": {"cutoff_function": "Cosine"},
    "narrow_node": {"d_node": 8},
    "three_layers": {"num_gnn_layers": 3, "num_attention_layers": 2},
    "one_layer": {"num_gnn_layers": 1},
    "temperature": {"attention_temperature": 2.0},
    "solver": {"num_neighbors_adaptive": 6.0},
    "grid": {**GRID, "cutoff_width_adaptive": 0.5},
    "residual_solver": {"num_neighbors_adaptive": 6.0, "featurizer_type": "residual"},
    "conditioned": {"system_conditioning": True},
    "residual_conditioned": {
        "system_conditioning": True,
        "featurizer_type": "residual",
    },
    "zbl": {"zbl": True},
}
SEVERAL = [
    TargetSpec.for_energy(),
    TargetSpec.for_energy("energy/pbe"),
    TargetSpec("non_conservative_force", "force", "eV/A", "atom", components=[3]),
    TargetSpec("non_conservative_stress", "pressure", "eV/A^3", components=[3, 3]),
]


@pytest.mark.parametrize("name", VARIANTS)
def test_scripted_equals_eager(name):
    model = build_model(SEVERAL, **VARIANTS[name])
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    names = [spec.name for spec in SEVERAL]
    scripted = torch.jit.script(model)
    for is_twice_differentiable in (False, True):
        expected = model(batch, vectors, names, is_twice_differentiable)
        found = scripted(batch, vectors, names, is_twice_differentiable)
        assert set(found) == set(names)
        for key in names:
            torch.testing.assert_close(
                found[key], expected[key], rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_equals_its_structures_one_by_one(name):
    model = build_model(**VARIANTS[name])
    structures = build_structures()
    together = predict(model, build_batch(structures, model), with_stress=True)
    alone = [
        predict(model, build_batch([atoms], model), with_stress=True)
        for atoms in structures
    ]
    # longer blocks of padding reorder sums: roundings only
    close = {"rtol": 1e-12, "atol": 1e-12}
    for field in ("energy", "atomic_energies", "forces", "stress"):
        joined = torch.cat([getattr(p, field) for p in alone])
        torch.testing.assert_close(getattr(together, field), joined, **close)


@pytest.mark.parametrize("name", VARIANTS)
def test_pairs_beyond_the_cutoff_change_nothing(name):
    model = build_model(**VARIANTS[name])
    structures = build_structures()
    tight = build_batch(structures, model)
    loose = build_batch(structures, model, skin=1.0)
    assert loose.centers.shape[0] > tight.centers.shape[0]
    expected = predict(model, tight, with_stress=True)
    found = predict(model, loose, with_stress=True)
    for field in ("energy", "atomic_energies", "forces", "stress"):
        torch.testing.assert_close(
            getattr(found, field), getattr(expected, field), rtol=1e-12, atol=1e-12
        )


def test_each_variant_gives_another_energy():
    # a switch that does nothing would pass every other test here
    energies = []
    for hypers in VARIANTS.values():
        model = build_model(**hypers)
        batch = build_batch(build_structures()[:2], model)
        energies.append(float(predict(model, batch).energy.sum()))
    assert len({round(energy, 8) for energy in energies}) == len(energies)


def test_no_systems_and_no_atoms_give_empty_results():
    model = build_model()
    empty = build_batch([Atoms()], model)
    prediction = predict(model, empty, with_stress=True)
    assert prediction.energy.tolist() == [0.0]
    assert prediction.forces.shape == (0, 3)
    assert prediction.stress.tolist() == [[[0.0] * 3] * 3]


def test_an_isolated_atom_has_an_energy_and_no_force():
    model = build_model()
    prediction = predict(model, build_batch([Atoms("O")], model), with_stress=True)
    composition = float(model.baseline.tables["energy"].composition[2])
    assert abs(float(prediction.energy) - composition) > 1e-3
    assert prediction.forces.abs().max() == 0.0
    assert prediction.stress.abs().max() == 0.0


def test_an_empty_system_between_others_changes_nothing():
    model = build_model()
    first, second = build_structures()[:2]
    with_gap = predict(model, build_batch([first, Atoms(), second], model))
    without = predict(model, build_batch([first, second], model))
    torch.testing.assert_close(with_gap.energy[[0, 2]], without.energy)
    assert with_gap.energy[1] == 0.0
    torch.testing.assert_close(with_gap.forces, without.forces)


def test_float32_is_close_to_float64():
    double = build_model()
    single = build_model().to(torch.float32)
    structures = build_structures()
    expected = predict(double, build_batch(structures, double), with_stress=True)
    found = predict(single, build_batch(structures, single), with_stress=True)
    assert found.forces.dtype == torch.float32
    # 24 bits, some hundred operations: 1e-5 of the largest value
    for field in ("energy", "forces", "stress"):
        own, other = getattr(expected, field), getattr(found, field).to(torch.float64)
        assert (own - other).abs().max() < 1e-5 * own.abs().max()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("charges", 11, "charge outside -10 to 10"),
        ("charges", -11, "charge outside"),
        ("spin_multiplicities", 0, "multiplicity outside 1 to 10"),
        ("spin_multiplicities", 11, "multiplicity outside"),
    ],
)
def test_charge_and_spin_outside_the_tables_are_refused(name, value, message):
    model = build_model(system_conditioning=True)
    batch = build_batch(build_structures()[:1], model)
    with pytest.raises(ValueError, match=message):
        predict(model, batch._replace(**{name: torch.tensor([value])}))


def test_charge_and_spin_change_the_energy_of_their_system_only():
    model = build_model(system_conditioning=True)
    atoms = build_structures()[0]
    energies = []
    for charge, spin in ((0, 1), (1, 1), (-1, 1), (0, 3)):
        other = atoms.copy()
        other.info.update(charge=charge, spin=spin)
        energies.append(predict(model, build_batch([atoms, other], model)).energy)
    assert all(energy[0] == energies[0][0] for energy in energies)
    assert len({round(float(energy[1]), 9) for energy in energies}) == 4


def test_unknown_element_is_an_error():
    model = build_model()
    with pytest.raises((IndexError, RuntimeError)):
        predict(model, build_batch([Atoms("U")], model))


def test_a_new_target_can_inherit_the_heads_of_another():
    model = build_model()
    model.add_target(TargetSpec.for_energy("energy/new"), inherit_from="energy")
    batch = build_batch(build_structures(), model)
    old, new = predict(model, batch), predict(model, batch, "energy/new")
    assert torch.equal(old.energy, new.energy)
    model.remove_target("energy/new")
    assert not any("new" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="already"):
        model.add_target(TargetSpec.for_energy())
    with pytest.raises(ValueError, match="no target 'nothing'"):
        model.add_target(TargetSpec.for_energy("energy/x"), inherit_from="nothing")


def test_heads_of_several_targets_do_not_mix():
    both = build_model(SEVERAL)
    batch = build_batch(build_structures(), both)
    vectors = compute_edge_vectors(batch)
    names = [spec.name for spec in SEVERAL]
    together = both(batch, vectors, names)
    for name in names:
        alone = both(batch, vectors, [name])
        assert list(alone) == [name]
        assert torch.equal(alone[name], together[name])


def test_non_conservative_stress_is_symmetric_and_zero_without_a_volume():
    model = build_model(SEVERAL)
    batch = build_batch(build_structures(), model)
    name = "non_conservative_stress"
    values = model(batch, compute_edge_vectors(batch), [name])[name].view(-1, 3, 3)
    # the scale multiplies symmetric values, so they stay symmetric
    torch.testing.assert_close(values, values.transpose(1, 2), rtol=0.0, atol=0.0)
    is_periodic = torch.det(batch.cells).abs()[batch.system_of_atom] > 0
    assert values[~is_periodic].abs().max() == 0.0
    assert values[is_periodic].abs().max() > 0.0


def find_last_weights(model, name):
    """The last layers' weights in the order of the features, and the sum of biases."""
    pairs = zip(model.node_last_layers[name], model.edge_last_layers[name], strict=True)
    layers = [linear for pair in pairs for part in pair for linear in part.values()]
    weights = torch.cat([linear.weight for linear in layers], dim=1)
    return weights, [linear.bias for linear in layers]


@pytest.mark.parametrize("name", ["default", "residual", "three_layers", "solver"])
def test_last_weights_times_features_are_the_network_s_values(name):
    """But for the biases, of which those of edges count once an edge."""
    model = build_model(SEVERAL[:2], **VARIANTS[name])
    model.baseline.tables["energy/pbe"].scale.fill_(1.0)
    for layer in model.edge_last_layers["energy/pbe"]:
        for linear in layer.values():
            linear.bias.data.zero_()
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    values, features = model.evaluate_with_features(
        batch, vectors, ["energy", "energy/pbe"], ["energy/pbe"]
    )
    assert list(features) == ["energy/pbe"]
    weights, biases = find_last_weights(model, "energy/pbe")
    expected = features["energy/pbe"] @ weights.T + sum(biases)
    torch.testing.assert_close(values["energy/pbe"], expected, rtol=1e-12, atol=1e-12)
    plain = model(batch, vectors, ["energy", "energy/pbe"])
    for target, value in plain.items():
        assert torch.equal(values[target], value)


@pytest.mark.parametrize("name", ["default", "residual_solver"])
def test_scripted_features_equal_eager_ones(name):
    model = build_model(SEVERAL, **VARIANTS[name])
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    names = ["energy", "energy/pbe"]
    scripted = torch.jit.script(model)
    expected = model.evaluate_with_features(batch, vectors, names, names)
    found = scripted.evaluate_with_features(batch, vectors, names, names)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == names
        for target, value in other.items():
            torch.testing.assert_close(one[target], value, rtol=1e-12, atol=1e-12)

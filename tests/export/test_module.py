"""The module behind metatomic's interface, called as simulation programs call it."""

import numpy as np
import pytest
import torch
from ase import Atoms
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    System,
    register_autograd_neighbors,
)
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.export import build_atomistic_model
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import TargetSpec

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def build_system(exported, model, atoms, inputs=None, *, with_gradient=False):
    """The system that a simulation program would send, its pairs in a random order."""
    batch = build_batch([atoms], model, skin=0.5)
    system = System(
        types=batch.species.to(torch.int32),
        positions=batch.positions.requires_grad_(with_gradient),
        cell=batch.cells[0],
        pbc=torch.tensor(atoms.pbc),
    )
    columns = [batch.centers, batch.neighbors, *batch.cell_shifts.unbind(1)]
    order = torch.randperm(
        batch.centers.shape[0], generator=torch.Generator().manual_seed(0)
    )
    names = ["first_atom", "second_atom"] + [f"cell_shift_{x}" for x in "abc"]
    pairs = TensorBlock(
        values=compute_edge_vectors(batch).detach()[order].unsqueeze(2),
        samples=Labels(names, torch.stack(columns, 1)[order].to(torch.int32)),
        components=[Labels.range("xyz", 3)],
        properties=Labels.range("distance", 1),
    )
    register_autograd_neighbors(system, pairs, check_consistency=True)
    system.add_neighbor_list(exported.requested_neighbor_lists()[0], pairs)
    for name, value in (inputs or {}).items():
        block = TensorBlock(
            values=torch.tensor([[value]], dtype=torch.float64),
            samples=Labels.range("system", 1),
            components=[],
            properties=Labels.range(name, 1),
        )
        system.add_data(name, TensorMap(Labels.range("_", 1), [block]))
    return system


@pytest.fixture(scope="module", params=["eager", "scripted"])
def pair(request):
    """The model, and the same behind the interface."""
    model = build_model([TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")])
    exported = build_atomistic_model(model)
    return model, torch.jit.script(
        exported
    ) if request.param == "scripted" else exported


def run(exported, systems, kind="atom", selected=None, names=("energy",), check=True):
    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={name: ModelOutput(sample_kind=kind) for name in names},
        selected_atoms=selected,
    )
    return exported(systems, options, check_consistency=check)


def build_selection(rows):
    return Labels(["system", "atom"], torch.tensor(rows, dtype=torch.int32).view(-1, 2))


def test_many_systems_in_one_call(pair):
    model, exported = pair
    structures = build_structures()
    systems = [build_system(exported, model, atoms) for atoms in structures]
    for name in ("energy", "energy/pbe"):
        expected = predict(model, build_batch(structures, model), name)
        per_atom = run(exported, systems, names=[name])[name].block()
        torch.testing.assert_close(
            per_atom.values[:, 0], expected.atomic_energies, **CLOSE
        )
        labels = [
            [s, a] for s, atoms in enumerate(structures) for a in range(len(atoms))
        ]
        assert per_atom.samples.values.tolist() == labels
        total = run(exported, systems, "system", names=[name])[name].block()
        torch.testing.assert_close(total.values[:, 0], expected.energy, **CLOSE)
        assert total.samples.values.tolist() == [[s] for s in range(5)]


def test_several_outputs_in_one_call(pair):
    model, exported = pair
    systems = [build_system(exported, model, build_structures()[0])]
    names = ["energy", "energy/pbe"]
    both = run(exported, systems, names=names)
    assert list(both) == names
    for name in names:
        alone = run(exported, systems, names=[name])[name].block().values
        torch.testing.assert_close(both[name].block().values, alone, **CLOSE)


def test_any_other_output_keeps_the_names_of_its_axes():
    layout = {
        "components": ["axis"],
        "properties": ["n", "l"],
        "property_values": [[1, 0], [2, 1]],
    }
    spec = TargetSpec(
        "mtt::moments", "", "", components=[3], n_properties=2, layout=layout
    )
    plain = TargetSpec("mtt::dos", "", "", n_properties=4)
    model = build_model([spec, plain])
    exported = torch.jit.script(build_atomistic_model(model))
    atoms = build_structures()[0]
    systems = [build_system(exported, model, atoms)]
    batch = build_batch([atoms], model)
    names = ["mtt::moments", "mtt::dos"]
    expected = model(batch, compute_edge_vectors(batch), names)
    found = run(exported, systems, names=names)
    block = found["mtt::moments"].block()
    assert block.values.shape == (len(atoms), 3, 2)
    torch.testing.assert_close(block.values.view(-1, 6), expected["mtt::moments"])
    assert [axis.names for axis in block.components] == [["axis"]]
    assert block.properties.names == ["n", "l"]
    assert block.properties.values.tolist() == [[1, 0], [2, 1]]
    block = found["mtt::dos"].block()
    torch.testing.assert_close(block.values, expected["mtt::dos"])
    assert block.properties.names == ["dos"]


def test_selected_atoms_are_partial_sums(pair):
    model, exported = pair
    structures = build_structures()[:3]
    systems = [build_system(exported, model, atoms) for atoms in structures]
    expected = predict(model, build_batch(structures, model)).atomic_energies
    rows = [[2, 3], [0, 1], [0, 4], [2, 0]]  # in any order, one system without any
    starts = [0, len(structures[0]), len(structures[0]) + len(structures[1])]
    index = torch.tensor([starts[s] + a for s, a in rows])
    per_atom = run(exported, systems, selected=build_selection(rows))["energy"].block()
    torch.testing.assert_close(per_atom.values[:, 0], expected[index], **CLOSE)
    assert per_atom.samples.values.tolist() == rows
    total = run(exported, systems, "system", build_selection(rows))["energy"].block()
    assert total.samples.values.tolist() == [[0], [2]]
    sums = torch.stack([expected[index[1:3]].sum(), expected[index[[0, 3]]].sum()])
    torch.testing.assert_close(total.values[:, 0], sums, **CLOSE)


def test_an_empty_selection_gives_no_samples(pair):
    model, exported = pair
    systems = [build_system(exported, model, build_structures()[0])]
    for kind in ("atom", "system"):
        block = run(exported, systems, kind, build_selection([]))["energy"].block()
        assert block.values.shape == (0, 1)


def test_gradients_of_a_selection_add_up_to_the_forces(pair):
    # what every rank of a split simulation does
    model, exported = pair
    atoms = build_structures()[1]
    expected = predict(model, build_batch([atoms], model)).forces
    forces = torch.zeros_like(expected)
    for rows in ([[0, a] for a in range(3)], [[0, a] for a in range(3, len(atoms))]):
        system = build_system(exported, model, atoms, with_gradient=True)
        block = run(exported, [system], "system", build_selection(rows))
        (gradient,) = torch.autograd.grad(
            block["energy"].block().values.sum(), system.positions
        )
        forces -= gradient
    torch.testing.assert_close(forces, expected, rtol=1e-11, atol=1e-11)


def test_systems_without_atoms_or_pairs(pair):
    model, exported = pair
    structures = [Atoms(), Atoms("O"), build_structures()[0], Atoms()]
    systems = [build_system(exported, model, atoms) for atoms in structures]
    expected = predict(model, build_batch(structures, model)).energy
    found = run(exported, systems, "system")["energy"].block().values[:, 0]
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found[0] == found[3] == 0.0
    alone = run(exported, systems[:1], "atom")["energy"].block().values
    assert alone.shape == (0, 1)


def test_one_direction_of_a_pair_at_the_very_cutoff_is_forgiven(pair):
    model, exported = pair
    close = build_structures()[0]
    far = close + Atoms("O", [close.positions[0] + [0.0, 0.0, -model.pair_cutoff]])
    system = build_system(exported, model, far)
    expected = run(exported, [system], "system")["energy"].block().values
    broken = drop_pair(exported, system, 0, len(far) - 1)
    found = run(exported, [broken], "system", check=False)["energy"].block().values
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_missing_direction_of_a_closer_pair_is_an_error(pair):
    model, exported = pair
    system = build_system(exported, model, build_structures()[0])
    broken = drop_pair(exported, system, 0, 1)
    with pytest.raises((RuntimeError, torch.jit.Error), match="full neighbour list"):
        run(exported, [broken], check=False)


def drop_pair(exported, system, first, second):
    options = exported.requested_neighbor_lists()[0]
    pairs = system.get_neighbor_list(options)
    rows = pairs.samples.values
    kept = ~((rows[:, 0] == first) & (rows[:, 1] == second))
    assert kept.sum() == len(kept) - 1
    block = TensorBlock(
        values=pairs.values[kept],
        samples=Labels(pairs.samples.names, rows[kept]),
        components=pairs.components,
        properties=pairs.properties,
    )
    other = System(system.types, system.positions, system.cell, system.pbc)
    other.add_neighbor_list(options, block)
    return other


def test_no_systems_at_all(pair):
    block = run(pair[1], [], "system", check=False)["energy"].block()
    assert block.values.shape == (0, 1)


def test_positions_in_nanometres_are_converted():
    model = build_model()
    exported = build_atomistic_model(model)
    atoms = build_structures()[0]
    expected = predict(model, build_batch([atoms], model)).energy
    small = atoms.copy()
    small.positions *= 0.1
    # the pairs of the large structure, all in nm
    system = build_system(exported, model, atoms)
    system.positions = torch.from_numpy(small.positions)
    request = exported.requested_neighbor_lists()[0]
    system.get_neighbor_list(request).values[:] *= 0.1
    options = ModelEvaluationOptions(
        length_unit="nm", outputs={"energy": ModelOutput(unit="meV")}
    )
    found = exported([system], options, check_consistency=False)["energy"].block()
    torch.testing.assert_close(found.values[0], 1000 * expected, rtol=1e-10, atol=0.0)


def test_an_unknown_element_is_named(pair):
    exported = pair[1]
    system = System(
        types=torch.tensor([92], dtype=torch.int32),
        positions=torch.zeros((1, 3), dtype=torch.float64),
        cell=torch.zeros((3, 3), dtype=torch.float64),
        pbc=torch.zeros(3, dtype=torch.bool),
    )
    with pytest.raises((ValueError, torch.jit.Error), match="atomic type '92'"):
        run(exported, [system], check=False)


def test_charge_and_spin_default_to_a_neutral_singlet():
    model = build_model(system_conditioning=True)
    exported = torch.jit.script(build_atomistic_model(model))
    atoms = build_structures()[0]
    energies = []
    for inputs in ({}, {"charge": 0, "spin_multiplicity": 1}, {"charge": 2}):
        system = build_system(exported, model, atoms, inputs)
        energies.append(run(exported, [system], "system", check=False)["energy"])
    values = [energy.block().values.item() for energy in energies]
    assert values[0] == values[1] != values[2]
    atoms.info["charge"] = 2
    expected = predict(model, build_batch([atoms], model)).energy.item()
    assert values[2] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({"charge": 0.5}, "whole number"), ({"charge": 11}, "charge outside")],
)
def test_impossible_charges_are_refused(inputs, message):
    model = build_model(system_conditioning=True)
    exported = build_atomistic_model(model)
    system = build_system(exported, model, build_structures()[0], inputs)
    with pytest.raises(ValueError, match=message):
        run(exported, [system], check=False)


def test_tables_cast_by_force_stop_the_model():
    # C++'s module.to(dtype) casts integers too
    model = build_model()
    exported = build_atomistic_model(model)
    system = build_system(exported, model, build_structures()[0])
    table = exported.module.compositions["energy"]
    table.bits = table.bits.to(torch.float64)
    with pytest.raises(RuntimeError, match="cast to another dtype"):
        run(exported, [system], check=False)


def test_vectors_of_the_program_count_where_float32_positions_are_too_coarse():
    model = build_model(dtype=torch.float32)
    exported = build_atomistic_model(model)
    atoms = build_structures()[1]
    near = build_system(exported, model, atoms)
    far = build_system(exported, model, atoms)
    # what is left of positions so far away, with vectors measured in float64
    far.positions = far.positions + 1e7
    found = run(exported, [far], "system", check=False)["energy"].block().values
    expected = run(exported, [near], "system", check=False)["energy"].block().values
    assert torch.equal(found, expected)


def test_a_pair_at_the_cutoff_that_came_only_once_is_left_out():
    model = build_model()
    atoms = Atoms("O3", [[0, 0, 0], [0, 0, 1.3], [0, 4.0, 0]])
    exported = build_atomistic_model(model)
    expected = predict(model, build_batch([atoms], model)).energy
    system = build_system(exported, model, atoms)
    request = exported.requested_neighbor_lists()[0]
    block = system.get_neighbor_list(request)
    rows = block.samples.values
    is_half = (rows[:, 0] == 0) & (rows[:, 1] == 2)
    assert is_half.any()
    lame = System(system.types, system.positions, system.cell, system.pbc)
    lame.add_neighbor_list(
        request,
        TensorBlock(
            values=block.values[~is_half].detach(),
            samples=Labels(block.samples.names, rows[~is_half]),
            components=block.components,
            properties=block.properties,
        ),
    )
    found = run(exported, [lame], "system", check=False)["energy"].block().values
    torch.testing.assert_close(found[0], expected, **CLOSE)


def test_atoms_many_cells_away_keep_their_partners():
    model = build_model()
    exported = torch.jit.script(build_atomistic_model(model))
    atoms = build_structures()[1]
    expected = predict(model, build_batch([atoms], model)).energy
    turns = np.random.default_rng(0).integers(-(10**6), 10**6, (len(atoms), 3))
    atoms.positions += turns @ atoms.cell.array
    system = build_system(exported, model, atoms)
    found = run(exported, [system], "system", check=False)["energy"].block().values
    # positions of 5e6 Å are known to 1e-9
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)

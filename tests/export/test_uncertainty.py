"""The uncertainty that an exported file gives, as simulation programs ask for it."""

import ase.build
import numpy as np
import pytest
import torch
from metatensor.torch import Labels
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    System,
    load_atomistic_model,
)
from metatrain.utils.neighbor_lists import get_system_with_neighbor_lists
from support.llpr import build_uncertainty
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.errors import ExportError
from pet_calc.export import build_atomistic_model, export_model
from pet_calc.export.check import check_file
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.uncertainty import compute_features, sum_over_systems

TARGETS = ["energy", "energy/pbe"]
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module", params=["eager", "file"])
def pair(request, tmp_path_factory):
    """A model, its uncertainties, and both behind the interface."""
    model = build_model([TargetSpec.for_energy(name) for name in TARGETS])
    own = {name: build_uncertainty(model, name, k) for k, name in enumerate(TARGETS)}
    if request.param == "eager":
        return model, own, build_atomistic_model(model, uncertainties=own)
    path = tmp_path_factory.mktemp("file") / "m.pt"
    return (
        model,
        own,
        load_atomistic_model(export_model(model, path, uncertainties=own)),
    )


def run(exported, structures, names, kind="system", *, selected=None, grad=False):
    systems = []
    for atoms in structures:
        system = System(
            types=torch.tensor(atoms.numbers, dtype=torch.int32),
            positions=torch.tensor(atoms.positions).requires_grad_(grad),
            cell=torch.tensor(atoms.cell.array * atoms.pbc[:, None]),
            pbc=torch.tensor(atoms.pbc),
        )
        requests = exported.requested_neighbor_lists()
        systems.append(get_system_with_neighbor_lists(system, requests))
    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={name: ModelOutput(sample_kind=kind) for name in names},
        selected_atoms=selected,
    )
    maps = exported(systems, options, check_consistency=True)
    return {name: maps[name].block() for name in names}, systems


@pytest.mark.parametrize("target", TARGETS)
def test_uncertainty_and_ensemble_are_those_of_the_model(pair, target):
    model, own, exported = pair
    structures = build_structures()
    batch = build_batch(structures, model)
    per_atom = compute_features(model, batch, target)
    total = sum_over_systems(per_atom, batch)
    prediction = predict(model, batch, target)
    variant = target.removeprefix("energy")
    names = [f"energy_uncertainty{variant}", f"energy_ensemble{variant}", target]
    for kind, features, energies in (
        ("system", total, prediction.energy),
        ("atom", per_atom, prediction.atomic_energies),
    ):
        found, _ = run(exported, structures, names, kind)
        values = {name: block.values.detach() for name, block in found.items()}
        torch.testing.assert_close(
            values[names[0]][:, 0], own[target](features), **CLOSE
        )
        expected = energies.unsqueeze(1) + own[target].deviate(features)
        torch.testing.assert_close(values[names[1]], expected, **CLOSE)
        torch.testing.assert_close(values[target][:, 0], energies, **CLOSE)
        assert found[names[1]].properties.names == ["energy"]


def test_an_uncertainty_alone_can_be_asked_for(pair):
    _, _, exported = pair
    found, _ = run(exported, build_structures()[:1], ["energy_uncertainty"])
    assert list(found) == ["energy_uncertainty"]


def test_of_chosen_atoms_it_is_that_of_their_energy(pair):
    model, own, exported = pair
    structures = build_structures()[:1]
    chosen = Labels(["system", "atom"], torch.tensor([[0, 0], [0, 2]]))
    found, _ = run(exported, structures, ["energy_uncertainty"], selected=chosen)
    features = compute_features(model, build_batch(structures, model), "energy")
    expected = own["energy"](features[[0, 2]].sum(dim=0, keepdim=True))
    values = found["energy_uncertainty"].values[:, 0].detach()
    torch.testing.assert_close(values, expected, **CLOSE)


def test_each_member_has_forces_and_the_uncertainty_a_gradient(pair):
    _, _, exported = pair
    water = ase.build.molecule("H2O")
    names = ["energy_ensemble", "energy_uncertainty"]
    found, systems = run(exported, [water], names, grad=True)
    # the second member is not the prediction: two differ
    forces = [
        torch.autograd.grad(
            found["energy_ensemble"].values[0, k],
            systems[0].positions,
            retain_graph=True,
        )[0]
        for k in (0, 1)
    ]
    assert (forces[0] - forces[1]).abs().max() > 1e-6
    (slope,) = torch.autograd.grad(
        found["energy_uncertainty"].values.sum(), systems[0].positions
    )
    step = 1e-4
    values = []
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[0, 2] += sign * step
        block = run(exported, [moved], ["energy_uncertainty"])[0]["energy_uncertainty"]
        values.append(float(block.values))
    numeric = (values[0] - values[1]) / (2 * step)
    assert float(slope[0, 2]) == pytest.approx(numeric, rel=1e-5)


def test_the_tables_survive_a_cast_of_the_whole_file(tmp_path):
    """As torch-sim and others do; in float32 the factor would be another one."""
    model = build_model()
    own = {"energy": build_uncertainty(model)}
    path = export_model(model, tmp_path / "m.pt", uncertainties=own)
    module = load_atomistic_model(path).module
    features = torch.from_numpy(
        np.random.default_rng(0).normal(size=(3, own["energy"].cholesky.shape[0]))
    )
    module.to(torch.float32)
    found = module.estimate_uncertainty("energy", features)
    torch.testing.assert_close(found, own["energy"](features), rtol=1e-13, atol=0)


def test_the_engine_is_not_asked_for_an_uncertainty(pair):
    exported = pair[2]
    for name in ("energy_uncertainty", "energy_ensemble/pbe"):
        assert "computes no" in exported.module.describe_engine(name)[0]


def test_a_file_that_says_something_else_is_refused(tmp_path):
    model = build_model()
    own = build_uncertainty(model)
    path = export_model(
        model, tmp_path / "m.pt", uncertainties={"energy": own}, check=False
    )
    own.multiplier.mul_(2.0)
    with pytest.raises(ExportError, match="output energy_uncertainty differ"):
        check_file(path, model, path, {"energy": own})


def test_a_model_without_one_has_no_such_outputs(tmp_path):
    exported = build_atomistic_model(build_model())
    # metatomic adds the older name of features by itself
    assert list(exported.capabilities().outputs) == ["energy", "feature", "features"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_metatomic_s_own_calculator_warns_of_uncertain_atoms(tmp_path, dtype):
    from metatomic_ase import MetatomicCalculator

    model = build_model(dtype=dtype)
    own = build_uncertainty(model)
    path = export_model(model, tmp_path / "m.pt", uncertainties={"energy": own})
    water = ase.build.molecule("H2O")
    features = compute_features(model, build_batch([water], model), "energy")
    limit = float(own(features).max()) / 2
    water.calc = MetatomicCalculator(path, device="cpu", uncertainty_threshold=limit)
    with pytest.warns(UserWarning, match="uncertaint"):
        water.get_potential_energy()

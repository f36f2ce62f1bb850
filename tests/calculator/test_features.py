"""Features of systems and stresses of atoms, by every route."""

import ase.build
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from support.models import DIRECT, build_model
from support.peer import build_peer, evaluate_peer
from support.structures import build_batch, build_bulk, build_molecule, build_water

from pet_calc import PETCalculator
from pet_calc.calculator import from_export
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export import export_model
from pet_calc.model.derivatives import predict
from pet_calc.model.uncertainty import compute_features


@pytest.fixture(params=["model", "exported"])
def source(request, model, exported):
    return {"model": model, "exported": exported}[request.param]


@pytest.mark.parametrize("atoms", [build_bulk(), build_molecule()], ids=str)
def test_features_are_those_of_the_last_layer(source, model, atoms):
    calculator = PETCalculator(source)
    expected = compute_features(model, build_batch([atoms], model), "energy").numpy()
    found = calculator.get_features(atoms)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert found.dtype == np.float64
    summed = calculator.get_features(atoms, per_atom=False)
    np.testing.assert_allclose(summed, expected.sum(axis=0), atol=1e-10)
    # those of the last evaluation need no name
    calculator.get_potential_energy(atoms)
    np.testing.assert_array_equal(calculator.get_features(), found)
    assert set(calculator.results) == {
        "energy",
        "free_energy",
        "energies",
        "forces",
        *(["stress"] if atoms.pbc.all() else []),
    }


def test_trunk_and_last_layer_are_those_of_metatrain(tmp_path):
    import torch

    peer = build_peer(seed=2)
    path = tmp_path / "model.ckpt"
    torch.save(peer.get_checkpoint(), path)
    atoms = ase.build.bulk("CN", "zincblende", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=1)
    calculator = PETCalculator(path)
    names = {"trunk": "feature", "last_layer": "mtt::aux::energy_last_layer_features"}
    for kind, name in names.items():
        summed = evaluate_peer(peer, [atoms], [name])[name].numpy()
        found = calculator.get_features(atoms, kind=kind)
        assert found.shape[0] == len(atoms)
        if len(summed) == 1:
            found = found.sum(axis=0, keepdims=True)
        np.testing.assert_allclose(found, summed, atol=1e-10)


def test_what_has_no_features_says_so(model, exported, monkeypatch):
    atoms = build_molecule()
    with pytest.raises(ConfigError, match="expected one of last_layer, trunk"):
        PETCalculator(model).get_features(atoms, kind="heads")
    with pytest.raises(ConfigError, match="name the atoms"):
        PETCalculator(model).get_features()
    with pytest.raises(ModelError, match="take the checkpoint"):
        PETCalculator(exported).get_features(atoms, kind="trunk")
    monkeypatch.setattr(from_export, "find_script_obstacle", lambda *_: "older")
    foreign = PETCalculator(exported, compile=False)
    with pytest.raises(ModelError, match="export the checkpoint with this pet-calc"):
        foreign.get_features(atoms)
    with pytest.raises(PropertyNotImplementedError, match="export the checkpoint"):
        foreign.get_property("stresses", build_bulk())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("build", [build_bulk, build_water])
def test_stresses_of_the_atoms_sum_to_the_stress(source, build, compile):
    atoms = build()
    numbers = sorted(set(atoms.numbers.tolist()))
    atoms.calc = PETCalculator(source, compile=compile)
    stress = atoms.get_stress()
    assert "stresses" not in atoms.calc.results
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    np.testing.assert_allclose(stresses.sum(axis=0), stress, atol=1e-10)
    assert np.abs(stresses - stress / len(atoms)).max() > 1e-5, numbers
    # asked for at once, and of many
    other = PETCalculator(source, compile=compile)
    np.testing.assert_allclose(other.get_stresses(atoms), stresses, atol=1e-12)
    (found,) = other.evaluate([atoms], ["stresses"])
    np.testing.assert_allclose(found["stresses"], stresses, atol=1e-12)


def test_stresses_are_half_of_what_pairs_give(model):
    """Of one pair far from all else both atoms have the same."""
    atoms = ase.Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=np.eye(3) * 30, pbc=True)
    atoms.calc = PETCalculator(model)
    one, other = atoms.get_stresses()
    np.testing.assert_allclose(one, other, atol=1e-14)
    force = atoms.get_forces()[1, 2]
    expected = -0.5 * 1.2 * force / atoms.cell.volume
    assert one[2] == pytest.approx(expected, rel=1e-8)
    batch = build_batch([atoms], model)
    stress = predict(model, batch, with_stress=True).stress[0]
    assert 2 * one[2] == pytest.approx(float(stress[2, 2]), rel=1e-8)


def test_where_there_are_no_stresses_the_message_says_why(source, tmp_path):
    with pytest.raises(PropertyNotImplementedError, match="all three directions"):
        PETCalculator(source).get_stresses(build_molecule())
    direct = build_model(DIRECT)
    path = export_model(direct, tmp_path / "m.pt", check=False)
    for each in (direct, path):
        calculator = PETCalculator(each, non_conservative=True)
        with pytest.raises(PropertyNotImplementedError, match="whole system"):
            calculator.get_stresses(build_bulk())
        calculator.get_potential_energy(build_bulk())
        with pytest.raises(PropertyNotImplementedError, match="whole system"):
            calculator.get_stresses(build_bulk())
        calculator = PETCalculator(each, non_conservative="forces")
        stresses = calculator.get_stresses(build_bulk())
        stress = calculator.get_stress(build_bulk())
        np.testing.assert_allclose(stresses.sum(axis=0), stress, atol=1e-10)

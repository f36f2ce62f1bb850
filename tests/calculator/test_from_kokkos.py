"""``PETCalculator(backend="pet-kokkos")``: the same results, checks and errors."""

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGS
from support.kokkos import SUPPORTED, UNSUPPORTED, build_supported, import_kokkos
from support.models import DIRECT, ENERGIES, build_model, build_tuned
from support.odd_structures import REFUSED, SAME
from support.structures import (
    build_bulk,
    build_molecule,
    build_structures,
    build_triclinic,
    build_water,
    get_results,
    heat,
)

from pet_calc import PETCalculator
from pet_calc.calculator import from_kokkos
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.errors import ConfigError, DataError, ModelError
from pet_calc.export import export_model
from pet_calc.hub import find_model


@pytest.fixture
def kokkos():
    return import_kokkos()


def run_kokkos(model, **options):
    return PETCalculator(model, backend="pet-kokkos", **options)


def compare(found, expected):
    """Largest relative difference of the forces, as vectors of all atoms."""
    difference = np.linalg.norm(found["forces"] - expected["forces"])
    return difference / np.linalg.norm(expected["forces"])


@pytest.mark.parametrize("name", SUPPORTED)
def test_forces_are_those_of_our_own_routes(name, kokkos):
    model = build_supported(name)
    found, own = run_kokkos(model), PETCalculator(model, compile=False)
    # the same weights, computed in float64
    reference = PETCalculator(copy.deepcopy(model).double(), compile=False)
    for atoms in (build_molecule(), build_bulk(), build_water(), build_triclinic()):
        if model.system_conditioning is not None:
            atoms.info.update(charge=-1, spin=2)
        theirs, ours = get_results(found, atoms), get_results(reference, atoms)
        # roundings of float32, which random networks of this size magnify: ours to 8e-6
        allowed = max(1e-6, 1.5 * compare(get_results(own, atoms), ours))
        assert compare(theirs, ours) < allowed
        n_atoms = len(atoms)
        assert theirs["energy"] == pytest.approx(ours["energy"], abs=5e-6 * n_atoms)
        np.testing.assert_allclose(theirs["energies"], ours["energies"], atol=2e-5)
        assert theirs["energies"].sum() == pytest.approx(theirs["energy"], abs=1e-9)
        if atoms.pbc.all():
            scale = np.abs(ours["stress"]).max()
            error = np.abs(theirs["stress"] - ours["stress"]).max()
            assert error < 5e-6 * scale


@pytest.mark.parametrize(
    ("base", "build"),
    [("pet-gfn1-xs", build_water), ("pet-sevennet-xs", build_bulk)],
)
def test_forces_of_the_bundled_bases_are_as_near_as_float32_comes(base, build, kokkos):
    path = find_model(base)
    reference = PETCalculator(path, dtype="float64", compile=False)
    own = PETCalculator(path, compile=False)
    expected = get_results(reference, build())
    allowed = max(1e-6, 1.5 * compare(get_results(own, build()), expected))
    assert compare(get_results(run_kokkos(path), build()), expected) < allowed < 4e-6


@pytest.mark.parametrize("index", range(5))
def test_usual_structures_slabs_and_tiny_cells_among_them(index, kokkos):
    model = build_model(dtype=torch.float32, cutoff_function="Cosine")
    atoms = build_structures()[index]
    theirs = get_results(run_kokkos(model), atoms)
    ours = get_results(PETCalculator(copy.deepcopy(model).double()), atoms)
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(values, ours[name], rtol=0, atol=2e-5, err_msg=name)
    assert theirs["forces"].dtype == ours["forces"].dtype


@pytest.mark.parametrize("name", SAME)
def test_the_place_of_a_structure_does_not_matter(name, kokkos):
    calculator = run_kokkos(build_model(dtype=torch.float32))
    odd, plain = (get_results(calculator, make()) for make in SAME[name])
    for key in ("energy", "energies", "forces"):
        np.testing.assert_allclose(odd[key], plain[key], atol=5e-5, err_msg=key)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_open_direction_needs_no_cell_vector(axis, kokkos):
    """pet-kokkos itself takes a cell without volume for none."""
    calculator = run_kokkos(build_model(dtype=torch.float32))
    slab = build_bulk()
    slab.pbc[axis] = False
    expected = get_results(calculator, slab)
    for vector in (np.zeros(3), np.full(3, np.nan)):
        slab.cell[axis] = vector
        found = get_results(calculator, slab)
        np.testing.assert_allclose(found["forces"], expected["forces"], atol=5e-5)
    reference = PETCalculator(build_model(), compile=False)
    assert get_results(reference, slab)["forces"].shape == expected["forces"].shape


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_named(name, kokkos):
    atoms, error, message = REFUSED[name]
    calculator = run_kokkos(build_model(dtype=torch.float32))
    with pytest.raises(error, match=message):
        calculator.get_potential_energy(atoms)
    assert np.isfinite(calculator.get_potential_energy(build_molecule()))


def test_a_cell_that_is_absurdly_small_is_named(kokkos):
    calculator = run_kokkos(build_model(dtype=torch.float32))
    with pytest.raises(DataError, match="the cell is so small"):
        calculator.get_potential_energy(Atoms("Si", cell=[0.1] * 3, pbc=True))


@pytest.mark.parametrize("pbc", [False, True])
def test_no_atoms_have_no_energy(pbc, kokkos):
    calculator = run_kokkos(build_model(dtype=torch.float32))
    found = get_results(calculator, Atoms(cell=np.eye(3) * 5, pbc=pbc))
    assert found["energy"] == 0.0
    assert found["forces"].shape == (0, 3)
    assert ("stress" in found) == pbc


def test_a_molecule_has_no_stress(kokkos):
    atoms = build_molecule()
    atoms.calc = run_kokkos(build_model(dtype=torch.float32))
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three"):
        atoms.get_stress()


def test_energies_that_float32_cannot_hold_are_exact(kokkos):
    model = build_model(dtype=torch.float32)
    model.baseline.tables["energy"].composition += -34_567.891
    atoms = build_bulk().repeat(2)
    expected = get_results(PETCalculator(model, compile=False), atoms)["energy"]
    assert abs(expected) > 2e6
    found = get_results(run_kokkos(model), atoms)["energy"]
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_steps_and_jumps_leave_nothing_behind(skin, kokkos):
    """pet-kokkos keeps neighbours between steps: other atoms, cells, order follow."""
    model = build_model(dtype=torch.float32)
    kept = run_kokkos(model, skin=skin)
    reference = PETCalculator(model, compile=False)
    atoms = build_bulk()
    random = np.random.default_rng(0)
    for step in range(12):
        if step % 4 == 3:
            atoms = [build_molecule(), build_water(), build_bulk()][step // 4]
        atoms.rattle(0.02 if step % 2 else 0.4, rng=random)
        if atoms.pbc.all() and step % 5 == 0:
            atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
        theirs, ours = get_results(kept, atoms), get_results(reference, atoms)
        np.testing.assert_allclose(theirs["forces"], ours["forces"], atol=2e-4)


def test_it_relaxes_to_the_same_minimum(kokkos):
    model = build_model(dtype=torch.float32)
    energies = []
    for backend in ("pet-calc", "pet-kokkos"):
        atoms = build_bulk()
        heat(atoms)
        atoms.calc = PETCalculator(model, backend=backend)
        BFGS(atoms, logfile=None).run(fmax=0.3, steps=10)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-3)


def test_charge_and_spin_are_read_checked_and_their_change_seen(kokkos):
    model = build_model(dtype=torch.float32, system_conditioning=True)
    atoms = build_molecule()
    atoms.calc = run_kokkos(model)
    reference = PETCalculator(model, compile=False)
    seen = set()
    for info in ({}, {"charge": -1}, {"charge": -1, "spin": 2}, {"charge": 0}):
        atoms.info = dict(info)
        energy = atoms.get_potential_energy()
        assert energy == pytest.approx(get_results(reference, atoms)["energy"])
        seen.add(round(energy, 4))
    assert len(seen) == 3
    for info, error, message in (
        ({"charge": 11}, ModelError, "total charge 11"),
        ({"spin": 11}, ModelError, "spin multiplicity 11"),
        ({"charge": 0.5}, DataError, "charge"),
    ):
        atoms.info = info
        with pytest.raises(error, match=message):
            atoms.get_potential_energy()
    atoms.info = {"charge": 1}
    assert np.isfinite(atoms.get_potential_energy())


def test_other_models_do_not_read_charge_and_spin(kokkos):
    atoms = build_molecule()
    atoms.calc = run_kokkos(build_model(dtype=torch.float32))
    energy = atoms.get_potential_energy()
    atoms.info = {"charge": "from the database", "spin": 0.5}
    assert atoms.get_potential_energy() == energy


def test_a_target_is_chosen_as_on_our_own_routes(kokkos):
    model = build_model([*ENERGIES, *DIRECT[1:]], dtype=torch.float32)
    for target in ("pbe", "energy/scan"):
        calculator = run_kokkos(model, target=target)
        own = PETCalculator(model, target=target)
        assert calculator.target == own.target
        found, expected = (
            get_results(c, build_molecule())["energy"] for c in (calculator, own)
        )
        assert found == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ModelError, match="energy/pbe, energy/scan"):
        run_kokkos(model)


def test_an_adapter_is_put_on_and_merged(tmp_path, kokkos):
    base = build_model(dtype=torch.float32)
    tuned, adapter = build_tuned(base=copy.deepcopy(base))
    save_adapter(tmp_path / "a.safetensors", adapter)
    calculator = run_kokkos(base, adapter=tmp_path / "a.safetensors")
    found = get_results(calculator, build_molecule())["energy"]
    own = PETCalculator(tuned, compile=False)
    assert found == pytest.approx(get_results(own, build_molecule())["energy"])
    plain = get_results(run_kokkos(base), build_molecule())["energy"]
    assert abs(found - plain) > 0.1


def test_it_can_be_copied_and_pickled(kokkos):
    atoms = build_molecule()
    calculator = run_kokkos(build_model(dtype=torch.float32))
    expected = calculator.get_potential_energy(atoms)
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert other.get_potential_energy(atoms) == expected


def test_properties_say_what_runs(kokkos):
    calculator = run_kokkos(build_model())
    assert calculator.dtype == torch.float32
    assert calculator.target == "energy"
    assert calculator.device.type in ("cpu", "cuda")
    assert calculator.model.edge_embedder.weight.dtype == torch.float32


def test_an_uncertainty_there_is_none(kokkos):
    model = build_model()
    atoms = build_molecule()
    with pytest.raises(PropertyNotImplementedError, match="computes no uncertainty"):
        run_kokkos(model).get_property("energy_uncertainty", atoms)
    with pytest.raises(ModelError, match="computes no uncertainty"):
        run_kokkos(model, max_uncertainty=0.1)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_that_it_has_no_code_for_is_refused_by_name(name):
    hypers, words = UNSUPPORTED[name]
    with pytest.raises(ConfigError, match=f"no code for this: .*{words}"):
        run_kokkos(build_model(**hypers))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "computes in float32"),
        ({"non_conservative": True}, "derives forces from the energy"),
        ({"compile": True}, "pet-calc's own engine"),
        ({"precision": "mixed"}, "pet-calc's own engine"),
    ],
)
def test_options_that_it_does_not_have_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        run_kokkos(build_model(DIRECT), **options)


def test_an_exported_file_is_refused(tmp_path):
    path = export_model(build_model(), tmp_path / "model.pt", check=False)
    with pytest.raises(ConfigError, match=r"takes checkpoints, and .* exported file"):
        run_kokkos(path)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    missing = "it is not installed (pip install pet-kokkos)"
    monkeypatch.setattr(from_kokkos, "find_missing", lambda: missing)
    with pytest.raises(ConfigError, match=r"not installed \(pip install pet-kokkos"):
        run_kokkos(build_model())


def test_another_name_of_a_backend_is_an_error():
    with pytest.raises(ConfigError, match="expected pet-calc or pet-kokkos"):
        PETCalculator(build_model(), backend="kokkos")


def test_a_device_that_the_build_is_not_for_is_an_error(kokkos):
    other = {"cpu": "cuda", "cuda": "cpu"}[from_kokkos.find_device().type]
    with pytest.raises(ConfigError, match="the installed build of pet-kokkos"):
        run_kokkos(build_model(), device=other)

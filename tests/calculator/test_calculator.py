"""PETCalculator in ASE: values, sources, errors, and no traces left behind."""

import copy
import warnings

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from metatomic_ase import MetatomicCalculator
from support.models import DIRECT, PBE0, build_model, build_tuned
from support.peer import build_peer, evaluate_peer
from support.structures import (
    assert_same,
    build_batch,
    build_bulk,
    build_molecule,
    build_structures,
    get_results,
)

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LoRAError,
    ModelError,
    PetCalcError,
)
from pet_calc.export import export_model
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec


@pytest.mark.parametrize("atoms", build_structures(), ids=str)
def test_every_structure_gives_what_the_model_says(model, atoms):
    expected = predict(model, build_batch([atoms], model), with_stress=True)
    found = get_results(PETCalculator(model), atoms)
    assert found["energy"] == pytest.approx(float(expected.energy[0]), abs=1e-10)
    np.testing.assert_allclose(found["forces"], expected.forces, atol=1e-10)
    assert found["energies"].sum() == pytest.approx(found["energy"], abs=1e-10)
    assert all(np.asarray(value).dtype == np.float64 for value in found.values())


def test_free_energy_is_the_energy(model):
    atoms = build_molecule()
    atoms.calc = PETCalculator(model)
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energy(force_consistent=True) == energy
    assert isinstance(energy, float)


def test_forces_and_stress_are_derivatives_of_the_energy(model):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model)
    # central differences of 1e-3 Å: an error of 1e-6 times a third derivative
    numerical = calculate_numerical_forces(atoms, eps=1e-3, iatoms=[0, 3])
    np.testing.assert_allclose(atoms.get_forces()[[0, 3]], numerical, atol=1e-4)
    # ASE's strain gives ASE's sign and Voigt order
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)
    assert np.abs(atoms.get_stress()[3:]).min() > 1e-4


@pytest.mark.parametrize("atoms", build_structures(), ids=str)
def test_an_exported_file_gives_the_same(model, exported, atoms):
    one = get_results(PETCalculator(model), atoms)
    assert_same(one, get_results(PETCalculator(exported), atoms))


def test_metatomic_ase_gives_the_same(model, exported):
    atoms = build_bulk()
    found = get_results(MetatomicCalculator(exported), atoms)
    assert_same(get_results(PETCalculator(model), atoms), found)


def test_metatrain_checkpoints_work(tmp_path):
    peer = build_peer(seed=2)
    path = tmp_path / "model.ckpt"
    torch.save(peer.get_checkpoint(), path)
    atoms = ase.build.bulk("CN", "zincblende", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=1)
    expected = evaluate_peer(peer, [atoms], ["energy"])
    found = get_results(PETCalculator(path), atoms)
    # metatrain sums composition energies in float64 too
    assert found["energy"] == pytest.approx(float(expected["energy"]), abs=1e-9)
    np.testing.assert_allclose(found["forces"], expected["energy forces"], atol=1e-10)
    stress = expected["energy stress"][0].numpy()
    np.testing.assert_allclose(
        found["stress"], stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-10
    )


def test_float32_is_exact_far_from_the_origin():
    calculator = PETCalculator(build_model(dtype=torch.float32))
    atoms = build_molecule()
    near = get_results(calculator, atoms)
    atoms.positions += 1000.0
    # positions of 1000 Å in float32 would be off by 6e-5 Å
    assert_same(near, get_results(calculator, atoms), tolerance=1e-5)


@pytest.mark.parametrize("unit", ["kcal/mol", "Hartree"])
def test_other_energy_units_are_converted_to_ev(unit, tmp_path):
    stress = f"{unit}/A^3"
    specs = [
        TargetSpec.for_energy(),
        TargetSpec("non_conservative_forces", "force", f"{unit}/A", "atom", "", [3]),
        TargetSpec("non_conservative_stress", "pressure", stress, "", "", [3, 3]),
    ]
    other = build_model([TargetSpec("energy", unit=unit), *specs[1:]])
    factor = {"kcal/mol": units.kcal / units.mol, "Hartree": units.Hartree}[unit]
    path = export_model(other, tmp_path / "m.pt", check=False)
    for is_direct in (False, True):
        raw = PETCalculator(
            build_model([*specs[:1], *DIRECT[1:]]), non_conservative=is_direct
        )
        expected = {
            name: factor * value
            for name, value in get_results(raw, build_bulk()).items()
        }
        found = PETCalculator(other, non_conservative=is_direct)
        assert_same(expected, get_results(found, build_bulk()))
        assert found.model.targets["energy"].unit == "eV"
        assert other.targets["energy"].unit == unit
        # metatomic's factors are of another CODATA year than ASE's
        if unit == "Hartree":
            continue
        found = PETCalculator(path, non_conservative=is_direct)
        assert_same(expected, get_results(found, build_bulk()), tolerance=1e-6)


def test_a_model_in_bohr_is_refused(model):
    record = Checkpoint.from_model(model, length_unit="bohr")
    with pytest.raises(CheckpointError, match=r"lengths are in bohr.*export"):
        PETCalculator(record)


def test_no_atoms_have_no_energy(model):
    found = get_results(PETCalculator(model), Atoms())
    assert found["energy"] == 0.0
    assert found["forces"].shape == (0, 3)


def test_objects_in_memory_are_left_unchanged():
    tuned, _ = build_tuned()
    tuned.train()
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    flags = {name: p.requires_grad for name, p in tuned.named_parameters()}
    record = Checkpoint.from_model(tuned)
    one = get_results(PETCalculator(tuned, dtype="float32"), build_bulk())
    other = get_results(PETCalculator(record, dtype="float32"), build_bulk())
    assert_same(one, other)
    assert tuned.training
    assert flags == {name: p.requires_grad for name, p in tuned.named_parameters()}
    for state in (tuned.state_dict(), record.state):
        assert state.keys() == before.keys()
        assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("new_target", [None, PBE0])
def test_an_adapter_on_its_base_is_the_tuned_model(tmp_path, new_target):
    tuned, adapter = build_tuned(new_target=new_target)
    save_checkpoint(tmp_path / "base.ckpt", Checkpoint.from_model(build_model()))
    save_adapter(tmp_path / "a.safetensors", adapter)
    target = None if new_target is None else new_target.name
    found = PETCalculator(
        tmp_path / "base.ckpt", adapter=tmp_path / "a.safetensors", target=target
    )
    expected = PETCalculator(tuned, target=target)
    assert_same(get_results(expected, build_bulk()), get_results(found, build_bulk()))


def test_an_adapter_goes_on_a_base_with_lora_of_its_own(tmp_path):
    first, _ = build_tuned(seed=7)
    record = Checkpoint.from_model(first)
    merged = PETCalculator(record).model
    tuned, adapter = build_tuned(seed=9, base=copy.deepcopy(merged))
    save_adapter(tmp_path / "a.safetensors", adapter)
    found = PETCalculator(record, adapter=tmp_path / "a.safetensors")
    expected = get_results(PETCalculator(tuned), build_bulk())
    assert_same(expected, get_results(found, build_bulk()))


def test_an_adapter_of_another_base_is_refused(tmp_path):
    _, adapter = build_tuned()
    save_adapter(tmp_path / "a.safetensors", adapter)
    with pytest.raises(LoRAError, match="load the base that the adapter"):
        PETCalculator(build_model(seed=5), adapter=tmp_path / "a.safetensors")


def test_wrong_files_say_what_they_are(exported, tmp_path):
    _, adapter = build_tuned()
    save_adapter(tmp_path / "a.safetensors", adapter)
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in (
        (tmp_path / "a.safetensors", "this is an adapter; name its base"),
        (tmp_path / "missing.ckpt", "there is no such file"),
        (tmp_path, "this is a folder"),
        (tmp_path / "notes.txt", "expected a model checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            PETCalculator(path)
    with pytest.raises(ConfigError, match="exported file cannot take an adapter"):
        PETCalculator(exported, adapter=tmp_path / "a.safetensors")


def test_a_broken_export_is_one_line(exported, tmp_path):
    # a TorchScript file, but not metatomic's
    path = tmp_path / "foreign.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(CheckpointError, match="not an exported metatomic") as error:
        PETCalculator(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_exported", [False, True])
def test_unknown_elements_are_named(model, exported, is_exported):
    atoms = Atoms("AuHXe", np.eye(3) * 3)
    atoms.calc = PETCalculator(exported if is_exported else model)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"know Xe, Au; .* on H, C, O, Al, Si"):
            atoms.get_potential_energy()


@pytest.mark.parametrize("is_exported", [False, True])
@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_only_bulk_has_a_stress(model, exported, is_exported, pbc):
    atoms = build_bulk()
    atoms.pbc = pbc
    atoms.calc = PETCalculator(exported if is_exported else model)
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="all three directions"):
        atoms.get_stress()
    assert "stress" not in atoms.calc.results
    # what was computed before is still there
    assert atoms.get_forces().shape == (8, 3)


def test_wrong_arguments_are_named(model, exported):
    for arguments, message in (
        ({"device": "gpu"}, "device 'gpu'"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "mps"}, "float64"),
        ({"dtype": "float16"}, "expected float32 or float64"),
        ({"dtype": torch.bfloat16}, "expected float32 or float64"),
        ({"skin": -1.0}, "skin"),
        ({"skin": float("nan")}, "skin"),
    ):
        for source in (model, exported):
            with pytest.raises(ConfigError, match=message):
                PETCalculator(source, **arguments)
    with pytest.raises(ConfigError, match=r"exported in float64.*--dtype"):
        PETCalculator(exported, dtype="float32")
    assert PETCalculator(exported, dtype="float64").dtype == torch.float64


def test_broken_structures_are_errors_of_ours(model):
    atoms = build_bulk()
    atoms.positions[0, 0] = np.nan
    atoms.calc = PETCalculator(model)
    with pytest.raises(DataError, match="not finite"):
        atoms.get_potential_energy()
    flat = Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True)
    with pytest.raises(PetCalcError):
        PETCalculator(model).get_potential_energy(flat)


@pytest.mark.parametrize("is_exported", [False, True])
def test_nothing_global_changes(model, exported, is_exported):
    def look():
        return (
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.are_deterministic_algorithms_enabled(),
            list(warnings.filters),
        )

    before = look()
    get_results(PETCalculator(exported if is_exported else model), build_bulk())
    assert look() == before


def test_it_works_where_gradients_are_switched_off(model):
    expected = get_results(PETCalculator(model), build_bulk())
    with torch.no_grad():
        assert_same(expected, get_results(PETCalculator(model), build_bulk()))


def test_dtype_and_device_are_the_ones_asked_for(model, tmp_path):
    calculator = PETCalculator(model, dtype="float32", device="cpu")
    assert calculator.dtype == torch.float32
    assert calculator.device == torch.device("cpu")
    assert PETCalculator(model, dtype=torch.float64).dtype == torch.float64
    assert PETCalculator(model).dtype == torch.float64
    save_checkpoint(tmp_path / "m.ckpt", Checkpoint.from_model(model.float()))
    model.double()
    assert load_checkpoint(tmp_path / "m.ckpt").dtype == torch.float32
    assert PETCalculator(str(tmp_path / "m.ckpt")).dtype == torch.float32
    expected = get_results(PETCalculator(model), build_bulk())
    # float32 keeps 7 digits of energies of some 100 eV, and sums a few hundred
    assert_same(expected, get_results(calculator, build_bulk()), tolerance=1e-5)

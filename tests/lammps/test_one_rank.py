"""One rank: LAMMPS says what PETCalculator says."""

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from metatomic_ase import MetatomicCalculator
from support.models import build_model
from support.structures import build_bulk, build_molecule, build_triclinic, build_water

from pet_calc import PETCalculator
from pet_calc.export import export_model
from pet_calc.lora.inject import inject_lora
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import TargetSpec

pytestmark = pytest.mark.lammps

RESIDUAL = {"featurizer_type": "residual", "transformer_type": "PostLN", "d_node": 8}
TOLERANCE = 1e-9  # eV, eV/Å: the same operations in float64, some 1,000 roundings


def build_lora_model():
    model = build_model()
    inject_lora(model, LoRAConfig(rank=2, targets=("input_linear", "mlp")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    return model.eval()


def build_slab():
    slab = ase.build.fcc111("Al", (2, 2, 2), a=4.05, vacuum=6.0)
    slab.rattle(0.1, seed=2)
    return slab


MODELS = {
    "fixed": build_model,
    "adaptive": lambda: build_model(num_neighbors_adaptive=6.0),
    "residual": lambda: build_model(**RESIDUAL),
    "lora": build_lora_model,
    "float32": lambda: build_model(dtype=torch.float32),
}
STRUCTURES = {
    "water": lambda: build_water((2, 2, 2)),
    "silicon": build_bulk,
    "triclinic": build_triclinic,
    "slab": build_slab,
    "molecule": build_molecule,
    "atom": lambda: Atoms("O", [[0.0, 0.0, 0.0]]),
}
CASES = [
    (model, structure) for model in ("fixed", "adaptive") for structure in STRUCTURES
]
CASES += [(model, "water") for model in ("residual", "lora", "float32")]
CASES += [("float32", "triclinic")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: export_model(build(), folder / f"{name}.pt", check=False)
        for name, build in MODELS.items()
    }


@pytest.fixture(scope="module")
def outcomes(files, new_batch, orient):
    batch = new_batch()
    for model, structure in CASES:
        atoms = orient(STRUCTURES[structure]())
        keywords = "device cpu check_consistency on"
        batch.add(f"{model}-{structure}", atoms, f"{files[model]} {keywords}")
    for units in ("real", "electron"):
        atoms = orient(build_bulk())
        batch.add(units, atoms, files["fixed"], units=units)
    return batch.run()


@pytest.mark.parametrize(("model", "structure"), CASES)
def test_energy_forces_and_stress_are_those_of_the_calculator(
    model, structure, outcomes, orient
):
    found = outcomes[f"{model}-{structure}"]
    atoms = orient(STRUCTURES[structure]())
    atoms.calc = PETCalculator(MODELS[model](), device="cpu")
    # float32: seven digits of energies of 10 eV and of the operations behind the forces
    tolerance = 2e-4 if model == "float32" else TOLERANCE
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=tolerance)
    np.testing.assert_allclose(
        found.energies, atoms.get_potential_energies(), atol=tolerance
    )
    assert found.energy == pytest.approx(
        atoms.get_potential_energy(), abs=tolerance * len(atoms)
    )
    if atoms.pbc.all():
        np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=tolerance)
    if len(atoms) > 1:
        assert np.abs(found.forces).max() > 0.1
    assert found.n_evaluated == len(atoms)


def test_lora_changes_the_forces(outcomes):
    difference = outcomes["lora-water"].forces - outcomes["fixed-water"].forces
    assert np.abs(difference).max() > 1e-3


def test_other_units_are_the_same_numbers_converted(outcomes):
    from ase import units

    metal = outcomes["fixed-silicon"]
    kcal, hartree = units.kcal / units.mol, units.Hartree
    real, electron = outcomes["real"], outcomes["electron"]
    # 1e-8: ASE's constants are those of another year than CODATA 2018
    assert real.energy * kcal == pytest.approx(metal.energy, rel=1e-7)
    np.testing.assert_allclose(real.forces * kcal, metal.forces, atol=1e-6)
    assert electron.energy * hartree == pytest.approx(metal.energy, rel=1e-7)
    np.testing.assert_allclose(
        electron.forces * hartree / units.Bohr, metal.forces, atol=1e-6
    )


@pytest.fixture(scope="module")
def special(tmp_path_factory, new_batch, orient):
    """Models with two energies and with charge, and what LAMMPS says of them."""
    folder = tmp_path_factory.mktemp("special")
    specs = [TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")]
    models = [build_model(specs), build_model(system_conditioning=True)]
    two, charged = (
        export_model(model, folder / f"{k}.pt", check=False)
        for k, model in enumerate(models)
    )
    atoms = orient(build_bulk())
    batch = new_batch()
    batch.add("plain", atoms, two)
    batch.add("pbe", atoms, f"{two} variant pbe")
    batch.add("neutral", atoms, charged)
    batch.add("ion", atoms, f"{charged} charge -2 spin 3 check_consistency on")
    return models, atoms, batch.run()


def test_a_variant_is_chosen_by_its_name(special):
    (model, _), atoms, found = special
    for name, target in (("plain", "energy"), ("pbe", "energy/pbe")):
        atoms.calc = PETCalculator(model, target=target, device="cpu")
        np.testing.assert_allclose(
            found[name].forces, atoms.get_forces(), atol=TOLERANCE
        )
    assert abs(found["pbe"].energy - found["plain"].energy) > 0.1


def test_charge_and_spin_reach_the_model(special):
    (_, model), atoms, found = special
    for name, charge, spin in (("neutral", 0, 1), ("ion", -2, 3)):
        atoms.info.update(charge=charge, spin=spin)
        atoms.calc = PETCalculator(model, device="cpu")
        np.testing.assert_allclose(
            found[name].forces, atoms.get_forces(), atol=TOLERANCE
        )
    assert np.abs(found["ion"].forces - found["neutral"].forces).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "structure"), [case for case in CASES if case[0] != "float32"]
)
def test_forces_and_stress_are_those_of_metatomic_ase(
    model, structure, outcomes, files, orient
):
    found = outcomes[f"{model}-{structure}"]
    atoms = orient(STRUCTURES[structure]())
    atoms.calc = MetatomicCalculator(files[model], device="cpu")
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=TOLERANCE)
    if atoms.pbc.all():
        np.testing.assert_allclose(found.stress, atoms.get_stress(), atol=TOLERANCE)

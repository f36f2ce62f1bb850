"""Exported files by the compiled engine, against TorchScript and the model itself."""

import copy

import ase.build
import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from support.models import DIRECT, ENERGIES, build_model
from support.structures import (
    assert_same,
    build_bulk,
    build_molecule,
    build_water,
    get_results,
    heat,
)

from pet_calc import PETCalculator
from pet_calc.engine.engine import Engine
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export import export_model

VARIANTS = {
    "plain": {},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "narrow": {"num_neighbors_adaptive": 6.0, "cutoff_width_adaptive": 0.05},
    "residual": {"featurizer_type": "residual", "d_node": 8},
    "zbl": {"zbl": True},
    "conditioned": {"system_conditioning": True},
    "float32": {"dtype": torch.float32, "zbl": True, "num_neighbors_adaptive": 6.0},
}
# float32 sums in another order
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}


def build_structures():
    slab = ase.build.fcc111("Al", (2, 2, 2), vacuum=6.0)
    slab.rattle(0.1, seed=2)
    structures = [build_molecule(), build_bulk(), build_water((2, 2, 2)), slab]
    for atoms in structures:
        atoms.info.update(charge=-1, spin=2)
    return structures


@pytest.fixture
def export(tmp_path):
    def write(model, **options):
        return export_model(model, tmp_path / "model.pt", check=False, **options)

    return write


def uses_engine(calculator):
    return isinstance(calculator._backend._switch.get(), Engine)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_engine_torchscript_and_the_model_agree(export, name):
    model = build_model(**VARIANTS[name])
    path = export(model)
    engine = PETCalculator(path, compile=True)
    script = PETCalculator(path, compile=False)
    assert uses_engine(engine)
    assert not uses_engine(script)
    tolerance = TOLERANCES[engine.dtype]
    for atoms in build_structures():
        found = get_results(engine, atoms)
        assert_same(get_results(script, atoms), found, tolerance)
        assert_same(get_results(PETCalculator(model), atoms), found, tolerance)


@pytest.mark.parametrize("variant", ["pbe", "scan"])
def test_the_output_asked_for_is_computed(export, variant):
    model = build_model(ENERGIES)
    engine = PETCalculator(export(model), target=variant, compile=True)
    expected = get_results(PETCalculator(model, target=variant), build_bulk())
    assert_same(expected, get_results(engine, build_bulk()))


def test_a_run_follows_the_atoms_through_new_lists(export):
    path = export(build_model(num_neighbors_adaptive=6.0))
    ends = []
    for compile in (True, False):
        atoms = build_water((2, 2, 2))
        atoms.calc = PETCalculator(path, compile=compile, skin=0.2)
        heat(atoms)
        VelocityVerlet(atoms, 0.2 * units.fs).run(20)
        ends.append(atoms.positions)
    assert np.abs(ends[0] - build_water((2, 2, 2)).positions).max() > 0.2
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-7)


def test_a_copy_uses_the_engine_too(export):
    calculator = PETCalculator(export(build_model()), compile=True)
    twin = copy.deepcopy(calculator)
    assert uses_engine(twin)
    assert_same(get_results(calculator, build_bulk()), get_results(twin, build_bulk()))


@pytest.mark.parametrize("compile", [True, False])
def test_a_charge_that_the_model_does_not_know_is_said_in_a_line(export, compile):
    atoms = build_molecule()
    atoms.calc = PETCalculator(
        export(build_model(system_conditioning=True)), compile=compile
    )
    for info, message in (
        ({"charge": 40}, "total charge outside -10 to 10"),
        ({"spin": 40}, "spin multiplicity outside 1 to 10"),
    ):
        atoms.info = info
        with pytest.raises(ModelError, match=message) as error:
            atoms.get_potential_energy()
        assert "\n" not in str(error.value)
    atoms.info = {"charge": 1}
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize(
    ("model", "unit", "options", "message"),
    [
        (build_model(transformer_type="PostLN"), "angstrom", {}, "PostLN"),
        (build_model(DIRECT), "angstrom", {"non_conservative": True}, "forces from"),
        (build_model(), "bohr", {}, "in bohr and eV"),
    ],
    ids=["older form", "direct forces", "units"],
)
def test_files_that_the_engine_cannot_run_go_on_without(
    export, model, unit, options, message
):
    path = export(model, length_unit=unit)
    with pytest.raises(ConfigError, match=f"compile=True needs .*{message}"):
        PETCalculator(path, compile=True, **options)
    calculator = PETCalculator(path, **options)
    assert not uses_engine(calculator)
    assert np.isfinite(get_results(calculator, build_molecule())["energy"])

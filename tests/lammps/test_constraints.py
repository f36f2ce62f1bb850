"""Atoms that are fixed in the structure are fixed in LAMMPS."""

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from click.testing import CliRunner
from support.models import build_model
from support.structures import build_bulk, heat

from pet_calc.cli.main import cli
from pet_calc.errors import ConfigError
from pet_calc.export import export_model
from pet_calc.lammps import run_lammps
from pet_calc.lammps.compare import compare_step_0
from pet_calc.lammps.constraints import build_frozen
from pet_calc.lammps.inputs import SimulationOptions, write_input
from pet_calc.lammps.orient import orient_for_lammps

pytestmark = pytest.mark.lammps
SHORT = {"timestep": 0.01, "n_steps": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_model(build_model(), tmp_path_factory.mktemp("m") / "m.pt")


def build(*, is_hot=False):
    """Eight atoms in a cell that LAMMPS holds as it is; two and a half are fixed."""
    atoms = orient_for_lammps(build_bulk())
    if is_hot:
        heat(atoms)
    atoms.set_constraint(
        [FixAtoms([0, 1]), FixCartesian([5], mask=(True, False, True))]
    )
    return atoms


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "minimize"])
@pytest.mark.parametrize("is_hot", [False, True])
def test_fixed_atoms_stay_and_the_others_move(ensemble, is_hot, model, tmp_path):
    atoms = build(is_hot=is_hot)
    options = SimulationOptions(ensemble=ensemble, **SHORT)
    path = write_input(atoms, model, tmp_path, options)
    done = run_lammps(path.name, cwd=path.parent, capture=True)
    assert done.returncode == 0, done.stdout[-2000:]
    frames = ase.io.read(tmp_path / "trajectory.lammpstrj", ":")
    moved = np.abs(frames[-1].positions - frames[0].positions)
    is_fixed = np.zeros((8, 3), dtype=bool)
    is_fixed[:2] = True
    is_fixed[5, [0, 2]] = True
    assert moved[is_fixed].max() == 0.0
    assert (moved[~is_fixed] > 0.0).all()
    velocities = frames[0].get_velocities()
    assert np.abs(velocities[is_fixed]).max() == 0.0
    if ensemble != "minimize":
        assert np.abs(velocities[~is_fixed]).min() > 0.0


def test_the_temperature_is_that_of_what_moves(model, tmp_path):
    path = write_input(
        build(), model, tmp_path, SimulationOptions(temperature=321, **SHORT)
    )
    text = path.read_text()
    # 5 free atoms and one component of the sixth
    assert "compute_modify mobile_temp extra/dof 2" in text
    assert "compute_modify motion_temp extra/dof 2" in text
    assert "velocity       mobile create 321" in text
    assert text.index("velocity       fixed_xyz set 0.0") > text.index("create 321")


def test_a_free_structure_is_written_as_before(model, tmp_path):
    atoms = build()
    atoms.set_constraint()
    text = write_input(atoms, model, tmp_path, SimulationOptions()).read_text()
    assert "fixed" not in text
    assert "velocity       all create 300 4711 mom yes rot no" in text


def test_what_cannot_be_written_is_refused_by_name(model, tmp_path):
    atoms = build_bulk()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ConfigError, match="FixBondLength"):
        write_input(atoms, model, tmp_path, SimulationOptions())
    atoms.rotate(30, (1, 2, 3), rotate_cell=True)
    atoms.set_constraint(FixCartesian([0], mask=(True, False, False)))
    with pytest.raises(ConfigError, match="FixCartesian: LAMMPS holds this cell"):
        write_input(atoms, model, tmp_path, SimulationOptions())
    atoms.set_constraint(FixAtoms(range(8)))
    with pytest.raises(ConfigError, match="all atoms of the structure are fixed"):
        write_input(atoms, model, tmp_path, SimulationOptions())
    with pytest.raises(ConfigError, match="npt moves all atoms"):
        write_input(build(), model, tmp_path, SimulationOptions(ensemble="npt"))
    assert not list(tmp_path.iterdir())


def test_groups_of_many_atoms_are_short():
    atoms = build_bulk().repeat(5)
    atoms.set_constraint(FixAtoms(range(100, 600)))
    groups = build_frozen(atoms).groups
    assert groups[0].split() == ["group", "fixed_xyz", "id", "101:600"]


def test_what_is_dropped_is_named(model, tmp_path):
    atoms = build()
    atoms.set_initial_magnetic_moments([1.0] * 8)
    atoms.set_initial_charges([0.5] * 8)
    atoms.set_tags(range(8))
    ase.io.write(tmp_path / "a.traj", atoms)
    arguments = ["--structure", tmp_path / "a.traj", "-o", tmp_path / "md"]
    done = CliRunner().invoke(
        cli, ["lammps", "input", str(model), *map(str, arguments), "--no-check"]
    )
    assert done.exit_code == 0, done.output
    for name in ("initial magnetic moments", "initial charges", "tags"):
        assert f"{name} of the structure are not in the run" in done.output


def test_charge_and_spin_go_to_a_model_that_reads_them(model, tmp_path):
    path = export_model(
        build_model(system_conditioning=True), tmp_path / "m.pt", check=False
    )
    atoms = build()
    atoms.info.update(charge=-1, spin=2)
    text = write_input(atoms, path, tmp_path / "a", SimulationOptions()).read_text()
    assert "device cpu charge -1 spin 2\n" in text
    assert compare_step_0(atoms, path).is_same
    # as in the calculator, other models do not read them
    text = write_input(atoms, model, tmp_path / "b", SimulationOptions()).read_text()
    assert "charge" not in text

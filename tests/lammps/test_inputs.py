"""The inputs we write run, and say what the calculator says."""

import ase.build
import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from support.models import build_model, build_random_uncertainty
from support.structures import build_bulk, build_molecule, heat

from pet_calc import PETCalculator
from pet_calc.cli.main import cli
from pet_calc.errors import ConfigError, PetCalcError
from pet_calc.export import export_model
from pet_calc.lammps import run_lammps
from pet_calc.lammps.compare import compare_step_0
from pet_calc.lammps.inputs import SimulationOptions, write_input
from pet_calc.lammps.orient import orient_for_lammps

pytestmark = pytest.mark.lammps

# the pressures of these random models are enormous, hence the small steps
SHORT = {"timestep": 0.01, "n_steps": 5}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("a model") / "model.pt"
    return export_model(build_model(), path, check=False)


def build_slab():
    slab = ase.build.fcc111("Al", (1, 2, 2), a=4.05, vacuum=6.0)
    slab.rattle(0.1, seed=2)
    return slab


@pytest.mark.parametrize(
    ("ensemble", "build"),
    [
        ("nve", build_molecule),
        ("nvt", build_slab),
        ("npt", build_bulk),
        ("minimize", build_bulk),
    ],
)
def test_what_is_written_runs(ensemble, build, model, tmp_path):
    options = SimulationOptions(ensemble=ensemble, **SHORT)
    path = write_input(build(), model, tmp_path / "md", options)
    done = run_lammps(path.name, cwd=path.parent, capture=True)
    assert done.returncode == 0, done.stdout[-2000:]
    trajectory = ase.io.read(tmp_path / "md/trajectory.lammpstrj", ":")
    assert len(trajectory) == SHORT["n_steps"] + 1
    assert trajectory[0].get_chemical_formula() == build().get_chemical_formula()
    assert (tmp_path / "md/final.data").exists()


def test_velocities_are_carried_over(model, tmp_path):
    atoms = build_bulk()
    heat(atoms)
    path = write_input(atoms, model, tmp_path, SimulationOptions())
    assert "velocity" not in path.read_text()
    found = ase.io.read(tmp_path / "structure.data", format="lammps-data")
    assert found.get_kinetic_energy() == pytest.approx(atoms.get_kinetic_energy())


def test_uncertain_atoms_are_a_flag_or_a_hint(model, tmp_path):
    plain = build_model()
    own = {"energy": build_random_uncertainty(plain)}
    sure = export_model(plain, tmp_path / "sure.pt", uncertainties=own, check=False)
    runner = CliRunner()
    structure = tmp_path / "a.xyz"
    ase.io.write(structure, build_molecule())
    folder = tmp_path / "md"

    def write(source, *flags):
        arguments = ["lammps", "input", str(source), "--structure", str(structure)]
        arguments += ["-o", str(folder), "--overwrite", *flags]
        return runner.invoke(cli, arguments)

    def read():
        return (folder / "in.lmp").read_text().splitlines()

    assert write(sure, "--no-check").exit_code == 0
    (style,) = [line for line in read() if line.startswith("pair_style")]
    assert "uncertain" not in style
    assert any(
        line.startswith("#") and "`uncertainty_threshold 0.1`" in line
        for line in read()
    )
    # step 0 is compared all the same, and the run then stops
    flags = ["--uncertainty-threshold", "1e-3", "--on-uncertain", "stop"]
    done = write(sure, *flags)
    assert done.exit_code == 0, done.output
    (style,) = [line for line in read() if line.startswith("pair_style")]
    assert style.endswith("uncertainty_threshold 0.001 on_uncertain stop")
    assert not any("uncertainty_threshold 0.1" in line for line in read())
    ran = run_lammps("in.lmp", cwd=folder, capture=True)
    assert ran.returncode != 0
    assert "are uncertain by more than 0.001 eV" in ran.stdout + ran.stderr
    # without an uncertainty nothing is said, or which command makes it
    assert write(model, "--no-check").exit_code == 0
    assert not any("uncertain" in line for line in read())
    failed = write(model, *flags)
    assert failed.exit_code == 2
    assert "carries no uncertainty of energy; `pet-calc uncertainty" in failed.output


@pytest.mark.parametrize("build", [build_bulk, build_molecule])
def test_step_0_is_that_of_the_calculator(build, model):
    atoms = build()
    atoms.rotate(50, (1, 2, 3), rotate_cell=True)
    found = compare_step_0(atoms, model)
    assert found.is_same
    assert found.force_difference < 1e-9
    assert (found.pressure is None) == (not atoms.pbc.all())
    assert f"energy    {found.energy:.6f} eV" in found.describe()


def test_it_says_what_the_orientation_of_lammps_changes(model):
    atoms = build_bulk()
    # a lower triangular cell is LAMMPS's own
    assert compare_step_0(orient_for_lammps(atoms), model).turned is None
    atoms.rotate(50, (1, 2, 3), rotate_cell=True)
    found = compare_step_0(atoms, model)
    turned = orient_for_lammps(atoms)
    calculator = PETCalculator(model)
    energy = calculator.get_potential_energy(turned)
    energy -= calculator.get_potential_energy(atoms)
    assert found.turned[0] == pytest.approx(abs(energy) / len(atoms), rel=1e-6)
    assert f"energy {1000 * found.turned[0]:.2f} meV/atom" in found.describe()
    forces = calculator.get_forces(turned) - calculator.get_forces(atoms) @ (
        np.linalg.solve(atoms.cell.array, turned.cell.array)
    )
    assert found.turned[1] == pytest.approx(np.abs(forces).max(), rel=1e-6)


def test_two_ranks_take_an_open_boundary_that_follows_the_atoms(model):
    assert compare_step_0(build_slab(), model, n_ranks=2).is_same


def test_a_difference_is_noticed(model):
    found = compare_step_0(build_bulk(), model)
    assert not found._replace(force_difference=1e-3).is_same
    assert not found._replace(pressure_difference=1e3).is_same


def test_lammps_own_message_is_the_error(model):
    with pytest.raises(PetCalcError, match="the model does not know He"):
        compare_step_0(ase.Atoms("He"), model)


def test_options_that_do_not_fit_are_errors(model, tmp_path):
    with pytest.raises(ConfigError, match="npt needs a structure that is periodic"):
        write_input(build_slab(), model, tmp_path, SimulationOptions(ensemble="npt"))
    with pytest.raises(ConfigError, match="temperature: expected a positive"):
        write_input(build_slab(), model, tmp_path, SimulationOptions(temperature=0.0))
    assert not list(tmp_path.iterdir())


def test_timestep_follows_the_lightest_element(model, tmp_path):
    for build, step in ((build_molecule, "0.0005"), (build_bulk, "0.001")):
        path = write_input(build(), model, tmp_path, SimulationOptions())
        assert f"timestep       {step}\n" in path.read_text()


def test_the_command_writes_and_compares(model, tmp_path):
    ase.io.write(tmp_path / "box.xyz", build_bulk())
    arguments = ["lammps", "input", str(model), "-o", str(tmp_path / "md")]
    arguments += ["--structure", str(tmp_path / "box.xyz"), "--steps", "3"]
    arguments += ["--html", str(tmp_path / "run.html")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "pressure" in done.output
    page = (tmp_path / "run.html").read_text()
    assert "Step 0 in LAMMPS is that of the calculator" in page
    run = ["lammps", "run", str(tmp_path / "md/in.lmp"), "-var", "T", "300"]
    assert "run it    cd" in done.output
    missing = CliRunner().invoke(cli, [*run[:2], str(tmp_path / "none.lmp")])
    assert missing.exit_code == 2
    assert np.isfinite(compare_step_0(build_bulk(), model).energy)

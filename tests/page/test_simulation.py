"""The page of a LAMMPS run before it starts."""

import ase.build
import pytest
from support.models import build_model
from support.structures import build_bulk, heat

from pet_calc.export import export_model
from pet_calc.lammps.compare import StepComparison
from pet_calc.lammps.inputs import SimulationOptions, write_input
from pet_calc.page.simulation import write_simulation

SAME = StepComparison(-34.5, 1e-15, 2e-14, 1234.5, 3e-9, 1e-9)
EVIL = "<script>caught"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.pt"
    export_model(build_model(), path, check=False)
    return path


@pytest.fixture
def make(exported, tmp_path):
    """Writes the page of a run and returns its text."""

    def run(comparison, atoms=None, notes=(), **options):
        atoms = build_bulk() if atoms is None else atoms
        settings = SimulationOptions(**options)
        script = write_input(atoms, exported, tmp_path / EVIL, settings)
        path = tmp_path / "run.html"
        write_simulation(path, atoms, exported, script, settings, comparison, notes)
        return path.read_text()

    return run


def test_a_right_step_0_is_said_first_with_its_values(make):
    page = make(SAME, ensemble="npt")
    assert "<h1>Step 0 in LAMMPS is that of the calculator</h1>" in page
    for shown in ("-34.500000 eV", "1234.5 bar", "2.0e-14 eV/Å", "density, g/cm³"):
        assert shown in page, shown
    assert "npt" in page
    # the input and the model stand there as they are
    assert "pair_style     metatomic" in page
    assert "pet-calc lammps run in.lmp" in page


def test_a_difference_is_a_warning(make):
    page = make(SAME._replace(force_difference=1e-3))
    assert (
        "<h1>Do not run this: LAMMPS and the calculator differ at step 0</h1>" in page
    )


def test_what_was_not_compared_or_not_taken_is_said(make):
    page = make(None, notes=["tags of the structure are not in the run"])
    assert "Step 0 was not compared" in page
    assert "Tags of the structure are not in the run." in page


def test_names_of_folders_are_text_only(make):
    page = make(SAME._replace(turned=(0.001, 0.02)))
    assert EVIL not in page
    assert "&lt;script&gt;caught" in page
    assert "another orientation than its file" in page


def test_a_molecule_with_velocities_has_no_pressure(make):
    atoms = ase.build.molecule("CH3OH")
    heat(atoms)
    page = make(SAME._replace(pressure=None, pressure_difference=None), atoms)
    assert "open in some directions" in page
    assert "temperature of its velocities" in page
    assert "density" not in page

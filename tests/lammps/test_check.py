"""``pet-calc lammps check``: a user's own input against the calculator."""

import numpy as np
import pytest
from ase.io.lammpsdata import write_lammps_data
from click.testing import CliRunner
from support.models import DIRECT, build_model, build_random_uncertainty
from support.structures import build_bulk

from pet_calc.cli.main import cli
from pet_calc.errors import ConfigError, PetCalcError
from pet_calc.export import export_model
from pet_calc.lammps import compare
from pet_calc.lammps.script import read_setup

pytestmark = pytest.mark.lammps

INPUT = """\
# a comment with run 5 in it
units {units}
variable kinds string "O Si"
include model.lmp
thermo 1
dump all all atom 1 kept.dump
fix walk all nve
velocity all create ${{T}} 1 &
    mom yes
{more}
run 100
quit 1
"""
MODEL = """\
boundary p p p
read_data "structure.data" # the data
mass 1 16.0
pair_style metatomic {model} {keywords}
pair_coeff * * ${{kinds}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: export_model(model, folder / f"{name}.pt", check=False)
        for name, model in {
            "plain": build_model(),
            "direct": build_model(DIRECT),
            "charged": build_model(system_conditioning=True),
        }.items()
    }


@pytest.fixture
def write(tmp_path, orient, models):
    """Writes an input; returns its path."""

    def write(model="plain", *, units="metal", keywords="", more="", kinds=None):
        atoms = orient(build_bulk())
        atoms.numbers[::2] = 8
        write_lammps_data(
            tmp_path / "structure.data",
            atoms,
            specorder=kinds or ["O", "Si"],
            masses=True,
            units=units,
        )
        (tmp_path / "kept.dump").write_text("of an earlier run")
        text = MODEL.format(model=models[model], keywords=keywords)
        (tmp_path / "model.lmp").write_text(text)
        path = tmp_path / "in.lmp"
        path.write_text(INPUT.format(units=units, more=more))
        return path

    return write


@pytest.mark.parametrize(
    ("model", "units", "keywords"),
    [
        ("plain", "metal", "scale 0.5"),
        ("plain", "real", "device auto"),
        ("plain", "electron", ""),
        ("direct", "metal", "non_conservative on"),
        ("charged", "metal", "charge -2 spin 3"),
    ],
)
def test_an_input_that_is_right_passes(model, units, keywords, write, models):
    path = write(model, units=units, keywords=keywords)
    found, _ = compare.check_input(path, arguments=["-var", "T", "300"])
    assert found.is_same, found
    assert found.force_difference < 1e-7
    assert (found.pressure_difference is None) == (model == "direct")


@pytest.mark.parametrize("action", ["stop", "write"])
def test_uncertain_atoms_neither_end_a_check_nor_leave_a_file(
    action, write, models, tmp_path
):
    plain = build_model()
    own = {"energy": build_random_uncertainty(plain)}
    models["sure"] = tmp_path / "sure.pt"
    export_model(plain, models["sure"], uncertainties=own, check=False)
    path = write(
        "sure", keywords=f"uncertainty_threshold 1e-9 on_uncertain {action} scale 2.0"
    )
    found, _ = compare.check_input(path, arguments=["-var", "T", "300"])
    assert found.is_same, found
    assert not (tmp_path / "uncertain.xyz").exists()


def test_the_command_shows_the_differences_and_leaves_files_alone(write, tmp_path):
    arguments = [str(write()), "-np", "2", "-var", "T", "300"]
    before = set(tmp_path.iterdir())
    done = CliRunner().invoke(cli, ["lammps", "check", *arguments])
    assert done.exit_code == 0, done.output
    assert "forces" in done.output
    assert "left out: fix walk all nve" in done.output
    assert (tmp_path / "kept.dump").read_text() == "of an earlier run"
    assert set(tmp_path.iterdir()) == before


def test_forces_that_are_not_the_models_are_noticed(write, models):
    more = "pair_style hybrid/overlay metatomic {} lj/cut 3.0"
    more = more.format(models["plain"])
    more += "\npair_coeff * * metatomic O Si\npair_coeff * * lj/cut 0.1 2.0"
    path = write(more=more)
    with pytest.raises(ConfigError, match="only `pair_style metatomic` alone can be"):
        compare.check_input(path, arguments=["-var", "T", "300"])


def test_a_difference_is_an_error_with_advice(write, monkeypatch):
    calculator = compare.PETCalculator
    monkeypatch.setattr(
        compare,
        "PETCalculator",
        lambda model, **options: calculator(build_model(seed=1), device="cpu"),
    )
    done = CliRunner().invoke(
        cli, ["lammps", "check", str(write()), "-var", "T", "300"]
    )
    assert done.exit_code == 2
    assert "LAMMPS and the calculator differ by more than" in done.output
    assert "do bonds, kspace or a second model act" in done.output


def test_exchanged_elements_are_noted(write):
    path = write(kinds=["Si", "O"])
    _, notes = compare.check_input(path, arguments=["-var", "T", "300"])
    assert any("type 2 is Si in pair_coeff, but has mass 15.999" in n for n in notes)


def test_what_lammps_says_is_the_error(write):
    path = write(keywords="devise cpu")
    with pytest.raises(PetCalcError, match="unknown keyword devise"):
        compare.check_input(path, arguments=["-var", "T", "300"])


def test_an_input_that_cannot_be_followed_is_refused(tmp_path):
    path = tmp_path / "in.lmp"
    for text, reason in {
        "units metal\n": "no run or minimize in it",
        "label top\nrun 5\n": "`label top` before the first run",
        "if 1 then 'run 5'\nrun 1\n": "before the first run",
        "include ${name}\nrun 1\n": "write the name of the file without variables",
        "include none.lmp\nrun 1\n": "there is no such input file",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=reason.replace("$", r"\$")):
            read_setup(path)


def test_commands_up_to_the_first_run_are_kept(tmp_path):
    path = tmp_path / "in.lmp"
    path.write_text(
        "units &\n metal # b\nfix p all property/atom q_x\nprint '# run'\n"
        "fix 1 all nve\nminimize 0 0 1 1\nrun 5\n"
    )
    kept, left_out = read_setup(path)
    assert [line.split() for line in kept] == [
        ["units", "metal"],
        ["fix", "p", "all", "property/atom", "q_x"],
    ]
    assert left_out == ["print '# run'", "fix 1 all nve"]
    assert np.all([not line.startswith("run") for line in kept])

"""The bundled models: there, small, with a card, and usable by name."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from click.testing import CliRunner

from pet_calc import PETCalculator
from pet_calc.assets import BUNDLED
from pet_calc.checkpoint import load_checkpoint
from pet_calc.cli.main import cli

MEGABYTE = 1e6


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_small_and_documented(name):
    path = BUNDLED[name]
    assert path.stat().st_size < 2.1 * MEGABYTE
    card = path.with_suffix(".md").read_text()
    for heading in ("Errors on held-out systems", "Rotation", "Not to be trusted"):
        assert heading in card
    assert path.with_suffix(".yaml").exists()
    assert load_checkpoint(path).metadata["name"] == name


def test_three_lines_give_energy_and_forces_of_ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.calc = PETCalculator("pet-gfn1-xs", dtype="float64")
    forces = atoms.get_forces()
    # GFN1-xTB's total energy of this geometry (tblite 0.8.0), within the model's error
    assert atoms.get_potential_energy() == pytest.approx(-330.9085, abs=0.5)
    assert np.abs(forces.sum(axis=0)).max() < 1e-10
    assert np.abs(forces).max() < 2.0


def test_silicon_keeps_its_lattice_constant():
    atoms = bulk("Si", "diamond", 5.43)
    atoms.calc = PETCalculator("pet-sevennet-xs", dtype="float64")
    energies = []
    lengths = np.linspace(5.3, 5.6, 7)
    for length in lengths:
        atoms.set_cell(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * length / 2, True)
        energies.append(atoms.get_potential_energy())
    a, b, _ = np.polyfit(lengths, energies, 2)
    assert a > 0
    # PBE's 5.469 Å (Materials Project, mp-149), within 1 %
    assert -b / (2 * a) == pytest.approx(5.469, rel=0.01)


def test_commands_take_the_name_of_a_bundled_model():
    result = CliRunner().invoke(cli, ["info", "pet-gfn1-xs"])
    assert result.exit_code == 0
    assert "GFN1-xTB" in result.output
    result = CliRunner().invoke(cli, ["info", "pet-gfn1-xl"])
    assert result.exit_code == 2
    assert "nor a model of this name; nearest: pet-gfn1-xs" in result.output

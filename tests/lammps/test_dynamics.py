"""Energy is kept, a restart changes nothing, and the cell can move."""

import re

import ase.build
import numpy as np
import pytest
from support.models import build_model
from support.structures import heat

from pet_calc.export import export_model

pytestmark = pytest.mark.lammps

NVE = "fix integrate all nve\ntimestep 0.0005\n"


def build_hot_crystal():
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    atoms.rattle(0.05, seed=1)
    heat(atoms, 300)
    return atoms


@pytest.fixture(scope="module")
def run(tmp_path_factory, new_batch, orient):
    """All runs, with the log they left."""
    folder = tmp_path_factory.mktemp("model")
    path = export_model(build_model(), folder / "model.pt", check=False)
    batch = new_batch()
    again = (
        "write_restart half.restart\nclear\natom_modify map array\n"
        f"read_restart half.restart\npair_style metatomic {path}\n"
        "pair_coeff * * Si\ncompute atomic all pe/atom\n"
        f"compute evaluated all pair metatomic\n{NVE}"
        "thermo_style custom step pe pxx pyy pzz pxy pxz pyz\nrun 50"
    )
    crystal = orient(build_hot_crystal())
    for name, commands in {
        "drift": NVE + "thermo_style custom step etotal pe pxx pyy pzz pxy pxz pyz\n"
        "thermo_modify format float %.12g\nthermo 1\nrun 400",
        "whole": NVE + "run 50\nrun 50",
        "restarted": f"{NVE}run 50\n{again}",
        "relaxed": "change_box all triclinic\nmin_style cg\n"
        "fix box all box/relax tri 0.0 vmax 0.001\nminimize 0.0 1e-4 20 40",
        "npt": "change_box all triclinic\n"
        "fix npt all npt temp 300 300 0.05 tri 0 0 0.5\ntimestep 0.0005\nrun 50",
        "lifted": "pair_style hybrid/overlay metatomic "
        f"{path} lj/cut 4.0\npair_coeff * * metatomic 14\n"
        "pair_coeff * * lj/cut 0.0 2.0\nrun 0",
    }.items():
        batch.add(name, crystal, path, commands=commands)
    outcomes = batch.run()
    return outcomes, (batch.folder / "log.lammps").read_text(), crystal


def test_the_energy_drifts_less_than_1_mev_per_atom_and_ps(run):
    _, log, crystal = run
    table = re.search(r"Step +TotEng.*?\n(.*?)Loop time", log, re.S)[1]
    rows = np.array([line.split()[:2] for line in table.splitlines()], dtype=float)
    picoseconds, energies = rows[:, 0] * 0.0005, rows[:, 1]
    slope = np.polyfit(picoseconds, energies, 1)[0] / len(crystal)
    assert len(rows) == 401
    assert abs(slope) < 1e-3
    # energy goes back and forth between motion and model: something happens here
    assert np.ptp(energies) < 0.01


def test_a_restart_is_the_uninterrupted_run(run):
    outcomes, _, crystal = run
    whole, restarted = outcomes["whole"], outcomes["restarted"]
    np.testing.assert_allclose(restarted.positions, whole.positions, atol=1e-9)
    np.testing.assert_allclose(restarted.forces, whole.forces, atol=1e-8)
    assert np.abs(whole.positions - crystal.positions).max() > 0.01


def test_minimisation_with_the_cell_lowers_energy_and_pressure(run):
    outcomes, _, _ = run
    before, after = outcomes["lifted"], outcomes["relaxed"]
    assert after.energy < before.energy - 0.01
    assert np.isfinite(after.stress).all()


def test_npt_runs(run):
    outcomes, _, _ = run
    assert np.isfinite(outcomes["npt"].forces).all()


def test_another_pair_style_can_be_laid_over(run, orient):
    from pet_calc import PETCalculator

    outcomes, _, crystal = run
    atoms = crystal.copy()
    atoms.calc = PETCalculator(build_model(), device="cpu")
    np.testing.assert_allclose(outcomes["lifted"].forces, atoms.get_forces(), atol=1e-9)

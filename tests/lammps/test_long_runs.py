"""Minutes of dynamics: four ranks, migration, an empty rank, NPT, drift, restart."""

import re

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from support.models import build_model
from support.structures import heat

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.export import export_model
from pet_calc.hub import find_model

pytestmark = [pytest.mark.lammps, pytest.mark.slow]

NVE = "fix integrate all nve\ntimestep 0.0005\n"
OFTEN = "neigh_modify every 1 delay 0 check yes\n"


def build_rod(n_cells=22):
    """Loose atoms in a box so long that a quarter and its surroundings are not all."""
    grid = np.stack(np.meshgrid(*map(np.arange, (2 * n_cells, 2, 2))), -1)
    atoms = Atoms("O" * 8 * n_cells, 2.7 * grid.reshape(-1, 3)[:, [0, 1, 2]])
    atoms.numbers[::3] = 14
    atoms.set_cell([5.4 * n_cells, 5.4, 5.4])
    atoms.pbc = True
    atoms.rattle(0.15, seed=1)
    return atoms


@pytest.fixture(scope="module")
def rods(tmp_path_factory, new_batch, orient):
    """The same runs on one, two and four ranks."""
    folder = tmp_path_factory.mktemp("model")
    model = build_model(cutoff=3.0, num_gnn_layers=1)
    path = export_model(model, folder / "model.pt", check=False)
    still, moving = orient(build_rod()), orient(build_rod())
    heat(moving, 3000)
    empty = orient(build_rod(2))
    empty.set_cell([90.0, 5.4, 5.4])
    found = {}
    for n_ranks in (1, 2, 4):
        batch = new_batch()
        ranks = {"processors": f"processors {n_ranks} 1 1"}
        wide = f"{path} exchange off"
        batch.add("still", still, wide, **ranks)
        batch.add("empty", empty, wide, **ranks)
        batch.add("moving", moving, wide, commands=f"{NVE}{OFTEN}run 1000", **ranks)
        found[n_ranks] = batch.run(n_ranks)
    return model, still, found


@pytest.mark.parametrize("n_ranks", [2, 4])
@pytest.mark.parametrize("name", ["still", "empty"])
def test_ranks_agree_to_1e_9(name, n_ranks, rods):
    _, still, found = rods
    one, many = found[1][name], found[n_ranks][name]
    assert many.energy == pytest.approx(one.energy, rel=1e-9)
    for a, b in ((one.forces, many.forces), (one.stress, many.stress)):
        assert np.abs(a - b).max() < 1e-9 * np.abs(a).max()
    if name == "still":
        # else it says nothing about the range
        assert many.n_evaluated / n_ranks < 0.75 * len(still)


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_forces_are_right_after_1000_steps_of_migration(n_ranks, rods):
    model, still, found = rods
    moved = found[n_ranks]["moving"]
    part = still.cell[0, 0] / n_ranks
    homes = [
        (x[:, 0] % still.cell[0, 0] // part) for x in (still.positions, moved.positions)
    ]
    assert (homes[0] != homes[1]).sum() > 3
    atoms = still.copy()
    atoms.positions = moved.positions
    atoms.calc = PETCalculator(model, device="cpu")
    scale = np.abs(moved.forces).max()
    np.testing.assert_allclose(moved.forces, atoms.get_forces(), atol=1e-9 * scale)
    assert moved.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-9)


@pytest.mark.parametrize("adaptive", [None, 4.0])
def test_a_file_of_metatrain_is_corrected(adaptive, tmp_path, new_batch, orient):
    from support.peer import build_peer

    peer = build_peer(cutoff=3.0, num_gnn_layers=1, num_neighbors_adaptive=adaptive)
    path = str(tmp_path / "peer.pt")
    peer.export().save(path)
    atoms = orient(build_rod())
    atoms.numbers[atoms.numbers == 14] = 6
    outcomes = {}
    for n_ranks in (1, 2):
        batch = new_batch()
        processors = f"processors {n_ranks} 1 1"
        batch.add("rod", atoms, path, processors=processors)
        outcomes[n_ranks] = batch.run(n_ranks)["rod"]
    log = (batch.folder / "log.lammps").read_text()
    reach = 6 if adaptive is None else 9
    assert (
        f"declares an interaction range of 3 A, but its layers reach {reach} A" in log
    )
    one, two = outcomes[1], outcomes[2]
    assert two.n_evaluated / 2 < 0.75 * len(atoms)
    assert np.abs(two.forces - one.forces).max() < 1e-9 * np.abs(one.forces).max()
    assert np.abs(one.forces).max() > 0.1


@pytest.fixture(scope="module")
def organic(tmp_path_factory):
    """The bundled base in float64."""
    folder = tmp_path_factory.mktemp("base")
    model = load_checkpoint(find_model("pet-gfn1-xs")).build_model().double()
    return model, export_model(model, folder / "base.pt", check=False)


def build_ethanol(orient):
    atoms = molecule("CH3CH2OH")
    atoms = orient(atoms)
    heat(atoms, 300)
    return atoms


def read_thermo(batch, first):
    log = (batch.folder / "log.lammps").read_text()
    table = re.findall(rf"Step +{first}.*?\n(.*?)Loop time", log, re.S)[-1]
    return np.array([line.split()[:2] for line in table.splitlines()], dtype=float)


def test_nve_drifts_no_more_than_in_ase(organic, new_batch, orient):
    model, path = organic
    n_steps, every = 2000, 10
    batch = new_batch()
    commands = (
        f"{NVE}thermo_style custom step etotal pe pxx pyy pzz pxy pxz pyz\n"
        f"thermo_modify format float %.12g\nthermo {every}\nrun {n_steps}"
    )
    atoms = build_ethanol(orient)
    # a large box: the molecule may turn and travel
    atoms.set_cell([40.0] * 3)
    atoms.center()
    batch.add("ethanol", atoms, path, commands=commands)
    batch.run()
    rows = read_thermo(batch, "TotEng")
    found = 1000 * np.polyfit(rows[:, 0] * 0.0005, rows[:, 1], 1)[0] / len(atoms)

    atoms.calc = PETCalculator(model, device="cpu")
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=every)
    dynamics.run(n_steps)
    picoseconds = np.arange(len(energies)) * every * 0.0005
    peer = 1000 * np.polyfit(picoseconds, energies, 1)[0] / len(atoms)
    assert len(rows) == len(energies) == n_steps // every + 1
    assert abs(peer) < 1.0, peer
    assert abs(found) < 1.0, found


def test_a_restart_is_the_uninterrupted_run(organic, new_batch, orient):
    _, path = organic
    again = (
        "write_restart half.restart\nclear\natom_modify map array\n"
        f"read_restart half.restart\npair_style metatomic {path}\n"
        "pair_coeff * * C H O\ncompute atomic all pe/atom\n"
        f"compute evaluated all pair metatomic\n{NVE}run 200"
    )
    batch = new_batch()
    atoms = build_ethanol(orient)
    batch.add("whole", atoms, path, commands=f"{NVE}run 200\nrun 200")
    batch.add("restarted", atoms, path, commands=f"{NVE}run 200\n{again}")
    found = batch.run()
    whole, restarted = found["whole"], found["restarted"]
    assert np.abs(whole.positions - atoms.positions).max() > 0.1
    # LAMMPS may keep its atoms in another order: roundings, grown over 200 steps
    np.testing.assert_allclose(restarted.positions, whole.positions, atol=1e-8)
    np.testing.assert_allclose(restarted.forces, whole.forces, atol=1e-6)


def test_npt_keeps_a_sane_density(tmp_path, new_batch, orient):
    # in the base's own float32, which is twice as fast
    model = load_checkpoint(find_model("pet-gfn1-xs")).build_model()
    path = export_model(model, tmp_path / "base.pt", check=False)
    atoms = molecule("H2O")
    atoms.set_cell([3.1] * 3)
    atoms.pbc = True
    atoms = orient(atoms.repeat((2, 2, 2)))
    heat(atoms, 300)
    commands = (
        "fix npt all npt temp 300 300 0.05 iso 1.0 1.0 0.5\ntimestep 0.0005\n"
        "thermo_style custom step density pe pxx pyy pzz pxy pxz pyz\n"
        "thermo 20\nrun 2000"
    )
    batch = new_batch()
    batch.add("water", atoms, path, commands=commands)
    batch.run()
    densities = read_thermo(batch, "Density")[:, 1]
    assert len(densities) == 101
    assert np.isfinite(densities).all()
    # liquid water has 1.0 g/cm^3; the base was trained on molecules, clusters and ices,
    # and eight molecules are few, so a factor of two is all that can be asked for
    assert densities.min() > 0.5, densities
    assert densities.max() < 2.0, densities
    assert np.ptp(densities) > 0.01

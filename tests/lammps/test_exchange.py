"""Ranks that exchange edges are one rank, and each atom is evaluated on one only."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from support.models import build_model
from support.structures import heat

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.export import export_model
from pet_calc.hub import find_model

pytestmark = pytest.mark.lammps

RESIDUAL = {"featurizer_type": "residual", "d_node": 8}
ADAPTIVE = {"num_neighbors_adaptive": 4.0}
FLOAT32 = {"dtype": "float32"}
MODELS = {
    "feedforward": {},
    "deep": {"num_gnn_layers": 3, "num_attention_layers": 2},
    "residual": {"num_gnn_layers": 2, **RESIDUAL},
    "adaptive": {"num_gnn_layers": 2, **ADAPTIVE},
    "conditioned": {"system_conditioning": True},
    "zbl": {"zbl": True, **ADAPTIVE},
    "float32": {"num_gnn_layers": 2, **ADAPTIVE},
}
# relative to the largest value; float32 as its own rounding allows
TOLERANCE, TOLERANCE_FLOAT32 = 1e-10, 1e-5
NVE = "fix integrate all nve\ntimestep 0.0005\n"
OFTEN = "neigh_modify every 1 delay 0 check yes\n"
NPT = (
    "timestep 0.0005\n"
    "fix integrate all npt temp 600 600 0.02 aniso 20000 20000 0.05\n" + OFTEN
)


def build_loose(repeats=(8, 2, 2)):
    """Atoms with room to move, in a box narrower than two cutoffs unless repeated."""
    grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1)
    atoms = Atoms("O" * grid[..., 0].size, 2.7 * grid.reshape(-1, 3))
    atoms.numbers[::3] = 14
    atoms.set_cell(2.7 * np.array(repeats))
    atoms.pbc = True
    atoms.rattle(0.2, seed=1)
    return atoms


def build_sheared():
    atoms = build_loose((6, 4, 3))
    cell = atoms.cell.array
    cell[1, 0], cell[2, 0], cell[2, 1] = 2.7, -2.1, 1.8
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def build_open(pbc):
    atoms = build_loose((6, 3, 3))
    atoms.pbc = pbc
    return atoms


def build_tiny():
    """Each atom sees images of itself: two cutoffs are longer than the box."""
    atoms = ase.build.bulk("Si", "fcc", 3.9, cubic=True)
    atoms.numbers[0] = 8
    atoms.rattle(0.1, seed=2)
    return atoms


def build_sparse():
    """Most ranks have no atom."""
    atoms = Atoms("OSi", [[2.0, 2.0, 2.0], [3.2, 2.3, 2.0]], cell=[40, 5, 5])
    atoms.pbc = True
    return atoms


def build_hot(temperature=3000):
    atoms = build_loose((8, 3, 3))
    heat(atoms, temperature)
    return atoms


STRUCTURES = {
    "rod": build_loose,
    "cube": lambda: build_loose((4, 4, 4)),
    "sheared": build_sheared,
    "slab": lambda: build_open([True, True, False]),
    "cluster": lambda: build_open(False),
    "tiny": build_tiny,
    "sparse": build_sparse,
}
CASES = [(model, "rod") for model in ("feedforward", "residual", "float32")]
CASES += [("adaptive", name) for name in ("sheared", "cluster", "tiny", "sparse")]
ALL_CASES = [(model, "rod") for model in MODELS] + [
    ("adaptive", name) for name in STRUCTURES if name != "rod"
]
LAID = """pair_style hybrid/overlay metatomic {path} lj/cut 3.0
pair_coeff * * metatomic O Si
pair_coeff * * lj/cut 0.1 2.0
run 0"""
# LAMMPS takes tiles only where the box is longer than ghosts reach
TILES = "comm_style tiled\nbalance 1.0 rcb\nrun 0"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name, hypers in MODELS.items():
        dtype = torch.float32 if name == "float32" else torch.float64
        model = build_model(cutoff=3.0, dtype=dtype, **{"num_gnn_layers": 1, **hypers})
        found[name] = export_model(model, folder / f"{name}.pt", check=False)
    return found


def run_cases(n_ranks, files, batch, orient, *, cases=CASES, n_steps=40):
    """Some structures, still and moving, on so many ranks."""
    for model, structure in cases:
        batch.add(f"{model}-{structure}", orient(STRUCTURES[structure]()), files[model])
    path = files["adaptive"]
    cube = orient(STRUCTURES["cube"]())
    batch.add("tiled", cube, path, commands=TILES)
    laid = LAID.format(path=files["feedforward"])
    batch.add("laid", cube, files["feedforward"], commands=laid)
    hot = orient(build_hot())
    batch.add("nve", hot, path, commands=f"{NVE}{OFTEN}run {n_steps}")
    box = 'print "$(lx:%.17g) $(ly:%.17g) $(lz:%.17g)" file box.txt'
    batch.add("npt", hot, path, commands=f"{NPT}run {n_steps}\n{box}")
    batch.add("relaxed", cube, path, commands="minimize 0 0 20 60")
    shifted = (
        f"{NVE}{OFTEN}fix share all balance 10 1.0 shift xyz 5 1.05\nrun {n_steps}"
    )
    batch.add("balanced", hot, path, commands=shifted)
    return batch.run(n_ranks)


@pytest.fixture(scope="module")
def outcomes(files, new_batch, orient):
    found, logs = {}, {}
    # four: in a cube a rank's neighbours on either side are the same
    for n_ranks in (1, 4):
        batch = new_batch()
        found[n_ranks] = run_cases(n_ranks, files, batch, orient)
        logs[n_ranks] = (batch.folder / "log.lammps").read_text()
    return found, logs


def compare(many, one, tolerance):
    assert many.n_evaluated == one.n_evaluated == len(one.forces)
    assert np.abs(one.forces).max() > 0.01
    assert many.energy == pytest.approx(one.energy, rel=tolerance)
    for name in ("energies", "forces", "stress"):
        value, other = getattr(many, name), getattr(one, name)
        scale = max(np.abs(other).max(), 1e-2 if name == "stress" else 0.0)
        assert np.abs(value - other).max() <= tolerance * scale, name


def name_still(cases):
    return [f"{model}-{structure}" for model, structure in cases] + ["tiled", "laid"]


@pytest.mark.parametrize("name", name_still(CASES))
def test_ranks_are_one_rank(name, outcomes):
    found, _ = outcomes
    tolerance = TOLERANCE_FLOAT32 if name.startswith("float32") else TOLERANCE
    compare(found[4][name], found[1][name], tolerance)


@pytest.mark.parametrize("name", ["nve", "npt", "relaxed", "balanced"])
def test_ranks_follow_one_rank(name, outcomes):
    found, _ = outcomes
    many, one = found[4][name], found[1][name]
    assert np.ptp(one.positions - many.positions, axis=0).max() < 1e-6
    # rounding has grown on the way
    compare(many, one, 1e-6)


def test_forces_are_right_after_atoms_have_changed_ranks(outcomes, files, orient):
    moved = outcomes[0][4]["nve"]
    atoms = orient(build_hot())
    part = atoms.cell[0, 0] / 4
    homes = [x[:, 0] % (4 * part) // part for x in (atoms.positions, moved.positions)]
    assert (homes[0] != homes[1]).sum() > 3
    atoms.positions = moved.positions
    atoms.calc = PETCalculator(files["adaptive"], device="cpu")
    expected = atoms.get_forces()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(moved.forces, expected, atol=TOLERANCE * scale)


def test_the_log_says_what_ranks_exchange(outcomes):
    _, logs = outcomes
    # cutoff and skin
    assert "4 ranks exchange edges: ghosts reach 4 A; " in logs[4]
    assert "edges across borders, " in logs[4]
    assert "exchange" not in logs[1].replace("exchanges", "")


def test_exchange_may_be_refused_and_demanded(files, new_batch, orient):
    batch = new_batch()
    rod = orient(build_loose((16, 2, 2)))
    for name in ("exchange off", "engine off", "exchange on"):
        batch.add(
            name.replace(" ", "-"),
            rod,
            f"{files['feedforward']} {name}",
            processors="processors 2 1 1",
        )
    found = batch.run(2)
    log = (batch.folder / "log.lammps").read_text()
    assert "ranks exchange no edges, each evaluates all atoms within 6 A" in log
    assert "of its own: exchange off" in log
    assert "of its own: the network is not run by the compiled engine" in log
    for name in ("exchange-off", "engine-off"):
        assert found[name].n_evaluated > len(rod)
        np.testing.assert_allclose(
            found[name].forces, found["exchange-on"].forces, atol=1e-10
        )
    assert found["exchange-on"].n_evaluated == len(rod)


def test_forces_are_slopes_of_the_energy(files, new_batch, orient):
    batch = new_batch()
    atoms, step = orient(build_loose((6, 2, 2))), 1e-4
    # as near to the border between two ranks as any
    gaps = np.abs(atoms.positions[:, 0] - atoms.cell[0, 0] / 2)
    moved = int(gaps.argmin())
    assert gaps[moved] < 1.0
    for name, move in (("here", 0.0), ("left", -step), ("right", step)):
        changed = atoms.copy()
        changed.positions[moved, 0] += move
        batch.add(name, changed, files["adaptive"], processors="processors 2 1 1")
    found = batch.run(2)
    slope = (found["left"].energy - found["right"].energy) / (2 * step)
    assert found["here"].forces[moved, 0] == pytest.approx(slope, rel=1e-5, abs=1e-5)


FAILURES = {
    # the last ranks are not near that atom: they wait for those that are
    "lost": (
        "group one id 1\nvelocity one set 1e300 0 0\n"
        f"{NVE}neigh_modify every 1000 delay 1000 check no\nrun 5",
        "",
        "is not finite or beyond 1e9 A",
    ),
    "demanded": ("run 0", " engine off exchange on", "exchange on: the network is not"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_all_ranks_stop_with_the_reason(name, files, new_batch, run_and_fail, orient):
    commands, keywords, reason = FAILURES[name]
    batch = new_batch()
    atoms = orient(build_loose((12, 2, 2)))
    path = f"{files['feedforward']}{keywords}"
    ranks = "processors 4 1 1"
    batch.add("rod", atoms, path, commands=commands, processors=ranks)
    assert reason in run_and_fail(batch.folder, batch.texts[0], n_ranks=4)


def test_moves_beyond_the_skin_are_told(files, new_batch, orient):
    batch = new_batch()
    seldom = f"{NVE}neigh_modify every 1000 delay 1000 check no\nrun 40"
    hot = orient(build_hot(30000))
    batch.add("hot", hot, files["feedforward"], commands=seldom)
    batch.run(2)
    log = (batch.folder / "log.lammps").read_text()
    assert "more than half the skin" in log


@pytest.mark.slow
def test_a_published_shape_in_a_box_below_two_cutoffs(tmp_path, new_batch, orient):
    model = load_checkpoint(find_model("pet-gfn1-xs")).build_model().double()
    path = export_model(model, tmp_path / "base.pt", check=False)
    atoms = ase.build.molecule("H2O")
    atoms.set_cell([3.1] * 3)
    atoms.pbc = True
    atoms = atoms.repeat((3, 3, 3))
    atoms.rattle(0.1, seed=0)
    assert atoms.cell.lengths().max() < 2 * model.pair_cutoff
    found = []
    for n_ranks in (1, 2, 4):
        batch = new_batch()
        batch.add("water", orient(atoms), path)
        found.append(batch.run(n_ranks)["water"])
    for many in found[1:]:
        compare(many, found[0], TOLERANCE)


@pytest.fixture(scope="module")
def whole(files, new_batch, orient):
    """One rank, with all cases."""
    return run_cases(1, files, new_batch(), orient, cases=ALL_CASES, n_steps=0)


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [2, 3, 4, 8])
def test_any_number_of_ranks_over_many_steps(n_ranks, whole, files, new_batch, orient):
    options = {"cases": ALL_CASES, "n_steps": 1000}
    batch = new_batch()
    found = run_cases(n_ranks, files, batch, orient, **options)
    for name in name_still(ALL_CASES):
        tolerance = TOLERANCE_FLOAT32 if name.startswith("float32") else TOLERANCE
        compare(found[name], whole[name], tolerance)
    for name in ("nve", "npt", "balanced"):
        moved = found[name]
        assert moved.n_evaluated == len(moved.forces)
        atoms = orient(build_hot())
        if name == "npt":
            box = np.loadtxt(batch.folder / "box.txt")
            assert np.abs(box - atoms.cell.lengths()).max() > 0.01
            atoms.set_cell(box)
        atoms.positions = moved.positions
        atoms.calc = PETCalculator(files["adaptive"], device="cpu")
        expected = atoms.get_forces()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(moved.forces, expected, atol=TOLERANCE * scale)

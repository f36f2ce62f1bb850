"""Two ranks, each with clearly fewer atoms than there are: the same as one rank."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from calculator_cases import heat
from helpers import build_model

from pet_calc import PETCalculator
from pet_calc.export import build_atomistic_model, export_model

pytestmark = pytest.mark.lammps

SHORT = {"cutoff": 3.0, "num_gnn_layers": 1}
RESIDUAL = {"featurizer_type": "residual", "transformer_type": "PostLN", "d_node": 8}
MODELS = {
    "feedforward": lambda: build_model(**SHORT),
    "deep": lambda: build_model(cutoff=3.0, num_gnn_layers=2),
    "residual": lambda: build_model(cutoff=3.0, num_gnn_layers=2, **RESIDUAL),
    "adaptive": lambda: build_model(num_neighbors_adaptive=4.0, **SHORT),
}


def build_rod():
    """88 atoms, 60 Å long and narrower than two cutoffs."""
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True).repeat((11, 1, 1))
    atoms.numbers[::3] = 8
    atoms.rattle(0.15, seed=1)
    return atoms


def build_sheared():
    atoms = build_rod()
    cell = atoms.cell.array
    cell[1, 0], cell[2, 0], cell[2, 1] = 1.7, -1.1, 0.8
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


STRUCTURES = {"rod": build_rod, "sheared": build_sheared}
CASES = [(model, "rod") for model in MODELS] + [("feedforward", "sheared")]


def save_changed(path, *, extra=None, interaction_range=None):
    """The feedforward model in a file that tells another story."""
    model = build_atomistic_model(MODELS["feedforward"]())
    if extra is not None:
        model.metadata().extra = extra
    if interaction_range is not None:
        model.capabilities().interaction_range = interaction_range
    model.save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files = {
        name: export_model(build(), folder / f"{name}.pt", check=False)
        for name, build in MODELS.items()
    }
    # what num_gnn_layers * cutoff would be
    files["short"] = save_changed(folder / "short.pt", interaction_range=3.0)
    return files


@pytest.fixture(scope="module")
def outcomes(files, new_batch, orient):
    found = []
    for n_ranks in (1, 2):
        batch = new_batch()
        # in x, where a half and its surroundings are less than the whole
        processors = {"processors": f"processors {n_ranks} 1 1"}
        for model, structure in CASES:
            atoms = orient(STRUCTURES[structure]())
            path = f"{files[model]} device cpu"
            batch.add(f"{model}-{structure}", atoms, path, **processors)
        empty = Atoms("OH", [[2.0, 2.0, 2.0], [2.9, 2.0, 2.0]], cell=[60, 5, 5])
        empty.pbc = True
        batch.add("empty", empty, files["feedforward"], **processors)
        batch.add("short", orient(build_rod()), files["short"], **processors)
        slab = orient(build_rod())
        slab.pbc = [True, True, False]
        batch.add("slab", orient(slab), files["feedforward"], **processors)
        moving = orient(build_rod())
        heat(moving, 2000)
        commands = (
            "fix integrate all nve\ntimestep 0.0005\n"
            "neigh_modify every 1 delay 0 check yes\nrun 300"
        )
        batch.add(
            "moving", moving, files["feedforward"], commands=commands, **processors
        )
        found.append(batch.run(n_ranks))
    return found


@pytest.mark.parametrize(
    "name", [f"{model}-{structure}" for model, structure in CASES] + ["slab", "empty"]
)
def test_two_ranks_are_one_rank(name, outcomes):
    one, two = (batch[name] for batch in outcomes)
    n_atoms = len(one.forces)
    if name != "empty":
        # else the test says nothing about the range
        assert n_atoms < two.n_evaluated < 2 * 0.85 * n_atoms
        assert np.abs(one.forces).max() > 0.1
    else:
        assert two.n_evaluated == n_atoms
    assert one.n_evaluated == n_atoms
    # another order of the same sums
    assert two.energy == pytest.approx(one.energy, rel=1e-12)
    np.testing.assert_allclose(two.energies, one.energies, atol=1e-11)
    np.testing.assert_allclose(two.forces, one.forces, atol=1e-11)
    np.testing.assert_allclose(two.stress, one.stress, atol=1e-11)


def test_a_range_of_too_few_cutoffs_would_be_seen_here(outcomes):
    one, two = (batch["short"] for batch in outcomes)
    assert np.abs(two.forces - one.forces).max() > 1e-6


def test_forces_are_right_after_atoms_have_changed_ranks(outcomes, orient):
    found = outcomes[1]["moving"]
    atoms = orient(build_rod())
    half = atoms.cell[0, 0] / 2
    sides = [x[:, 0] % (2 * half) < half for x in (atoms.positions, found.positions)]
    assert (sides[0] != sides[1]).sum() > 3
    atoms.positions = found.positions
    atoms.calc = PETCalculator(MODELS["feedforward"](), device="cpu")
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-9)
    assert found.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-10)


def test_two_ranks_follow_one_rank(outcomes):
    one, two = (batch["moving"] for batch in outcomes)
    # roundings grow in the course of 300 steps of a hot structure
    np.testing.assert_allclose(two.positions, one.positions, atol=1e-6)


def test_a_foreign_file_needs_a_stated_range_on_several_ranks(
    tmp_path, new_batch, run_and_fail, files, orient, outcomes
):
    path = save_changed(tmp_path / "foreign.pt", extra={})
    batch = new_batch()
    atoms = orient(build_rod())
    batch.add("rod", atoms, path, processors="processors 2 1 1")
    message = run_and_fail(batch.folder, batch.texts[0], n_ranks=2)
    assert "this file was not written by pet-calc" in message
    stated = new_batch()
    stated.add("rod", atoms, f"{path} interaction_range 6.0")
    forces = stated.run(2)["rod"].forces
    np.testing.assert_allclose(
        forces, outcomes[0]["feedforward-rod"].forces, atol=1e-11
    )

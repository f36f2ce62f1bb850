"""Two ranks, each with all atoms in the model's range of its own, are one rank."""

from typing import Dict, List, Optional

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from metatensor.torch import Labels, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    System,
)
from support.models import ATOMIC_TYPES, build_model
from support.structures import heat

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
LAID = """pair_style hybrid/overlay metatomic {path} lj/cut 4.0
pair_coeff * * metatomic O Si
pair_coeff * * lj/cut 0.1 2.0
run 0"""
# ranks that exchange edges: test_exchange.py
WIDE = "exchange off"
CASES = [(model, "rod") for model in MODELS] + [("feedforward", "sheared")]


def save_changed(path, interaction_range):
    """The feedforward model in a file that declares another range."""
    model = build_atomistic_model(MODELS["feedforward"]())
    model.capabilities().interaction_range = interaction_range
    model.save(path)
    return path


# ruff: noqa: UP006, UP035, UP045
class Springless(torch.nn.Module):
    """No PET, and no energy."""

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        raise RuntimeError("not to be called")


def save_foreign(path):
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=[8, 14],
        interaction_range=3.0,
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float64",
    )
    AtomisticModel(Springless().eval(), ModelMetadata(), capabilities).save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files = {
        name: export_model(build(), folder / f"{name}.pt", check=False)
        for name, build in MODELS.items()
    }
    # what num_gnn_layers * cutoff would be
    files["short"] = save_changed(folder / "short.pt", 3.0)
    poor = MODELS["feedforward"]()
    # no energy wherever there is oxygen
    poor.baseline.tables["energy"].composition[ATOMIC_TYPES.index(8)] = float("nan")
    files["poor"] = export_model(poor, folder / "poor.pt", check=False)
    files["foreign"] = save_foreign(folder / "foreign.pt")
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
            path = f"{files[model]} device cpu {WIDE}"
            batch.add(f"{model}-{structure}", atoms, path, **processors)
        empty = Atoms("OH", [[2.0, 2.0, 2.0], [2.9, 2.0, 2.0]], cell=[60, 5, 5])
        empty.pbc = True
        path = f"{files['feedforward']} {WIDE}"
        batch.add("empty", empty, path, **processors)
        short = f"{files['short']} {WIDE}"
        batch.add("short", orient(build_rod()), short, **processors)
        tiles = "comm_style tiled\nbalance 1.0 rcb\nrun 0"
        # LAMMPS takes tiles only where the box is longer than the range
        atoms = orient(build_rod().repeat((1, 2, 2)))
        batch.add("tiled", atoms, path, commands=tiles)
        laid = LAID.format(path=path)
        atoms = orient(build_rod())
        batch.add("laid", atoms, path, commands=laid, **processors)
        slab = orient(build_rod())
        slab.pbc = [True, True, False]
        batch.add("slab", orient(slab), path, **processors)
        moving = orient(build_rod())
        heat(moving, 2000)
        commands = (
            "fix integrate all nve\ntimestep 0.0005\n"
            "neigh_modify every 1 delay 0 check yes\nrun 300"
        )
        batch.add("moving", moving, path, commands=commands, **processors)
        found.append(batch.run(n_ranks))
    return found


@pytest.mark.parametrize(
    "name",
    [f"{model}-{structure}" for model, structure in CASES]
    + ["slab", "tiled", "laid", "short", "empty"],
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


def test_a_declared_range_that_is_too_short_is_corrected(outcomes):
    # one layer and the mixing after it: two cutoffs
    found = outcomes[1]["feedforward-rod"]
    assert outcomes[1]["short"].n_evaluated == found.n_evaluated


def test_a_range_that_is_too_short_would_be_seen_here(orient):
    atoms = orient(build_rod())
    x, half = atoms.positions[:, 0] % atoms.cell[0, 0], atoms.cell[0, 0] / 2
    gap = np.maximum(x - half, 0)
    gap = np.minimum(gap, atoms.cell[0, 0] - x)
    kept = np.flatnonzero((gap < 3.0) | (x < half))
    own = x[kept] < half
    calculator = PETCalculator(MODELS["feedforward"](), device="cpu")
    whole = calculator.get_property("energies", atoms)[kept][own]
    part = calculator.get_property("energies", atoms[kept])[own]
    assert np.abs(part - whole).max() > 1e-6


def test_another_pair_style_can_be_laid_over(outcomes, orient):
    atoms = orient(build_rod())
    atoms.calc = LennardJones(epsilon=0.1, sigma=2.0, rc=4.0, smooth=False)
    together, alone = outcomes[0]["laid"], outcomes[0]["feedforward-rod"]
    difference = together.forces - alone.forces
    np.testing.assert_allclose(difference, atoms.get_forces(), rtol=1e-6, atol=1e-9)
    stress = together.stress - alone.stress
    np.testing.assert_allclose(stress, atoms.get_stress(), rtol=1e-6, atol=1e-9)


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


MISTAKES = {
    "newton": ("feedforward", "newton off", "", "several ranks need `newton on`"),
    "group": (
        "feedforward",
        "",
        "atom_modify first half\ncomm_modify group half",
        "remove `comm_modify group`",
    ),
    "mode": (
        "feedforward",
        "",
        "neighbor 1.0 multi\ncomm_modify mode multi",
        "use `comm_modify mode single`",
    ),
    "foreign": (
        "foreign",
        "",
        "",
        "holds no PET whose interaction range can be checked",
    ),
    # only the rank on the right has oxygen
    "one rank fails": (
        "poor",
        "",
        "set group half type 2",
        "the energy at step 0 is not",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_all_ranks_stop_with_the_reason(name, files, new_batch, run_and_fail, orient):
    model, first, command, reason = MISTAKES[name]
    batch = new_batch()
    atoms = orient(build_rod())
    group = f"region half block 0 {atoms.cell[0, 0] / 2} INF INF INF INF\n"
    commands = f"{group}group half region half\n{command}\nrun 0"
    processors = "processors 2 1 1"
    batch.add(
        "rod",
        atoms,
        files[model],
        commands=commands,
        processors=processors,
        first=first,
    )
    assert reason in run_and_fail(batch.folder, batch.texts[0], n_ranks=2)


def test_a_stated_range_is_taken_for_a_foreign_file(
    files, new_batch, run_and_fail, orient
):
    batch = new_batch()
    model = f"{files['foreign']} interaction_range 6.0"
    batch.add("rod", orient(build_rod()), model)
    message = run_and_fail(batch.folder, batch.texts[0], n_ranks=2)
    assert "not to be called" in message

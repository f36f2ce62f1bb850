"""What programs on the same cores cost: all threads against PETCalculator's choice.

    python benchmarks/shared_cores.py --threads 2 --loops 2

Steps of ethanol and of 64 silicon atoms by the engine, as in MD, while nothing else is
started and beside busy loops, one round after the other. *All threads* takes torch's
setting as it is, *one thread* is the least there is, and *calculator* is PETCalculator,
which takes as many threads as cores are free. Medians and means over all steps, those
before it has noticed included. Others on the machine are in both parts: what they keep
busy is printed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import ase.build
import numpy as np
import torch
from single_point import CHECKPOINT, SHAPES, write_models
from size_scaling import build_silicon

from pet_calc import PETCalculator
from pet_calc.calculator.threads import use_threads
from pet_calc.data.systems import build_batch
from pet_calc.engine.engine import Engine
from pet_calc.system.cores import CoreWatch

PARTS = ("alone", "beside loops")


def main():
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    structures = {
        "ethanol": ase.build.molecule("CH3CH2OH"),
        "64 Si": build_silicon(64),
    }
    seconds, busy = {}, {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        write_models(arguments.shape, arguments.dtype, Path(folder))
        programs = {
            (name, way): step
            for name, atoms in structures.items()
            for way, step in build_programs(folder, atoms, arguments.threads).items()
        }
        for _ in range(arguments.rounds):
            for part in PARTS:
                with run_loops(0 if part == "alone" else arguments.loops):
                    watch = CoreWatch()
                    time_steps(programs, part, arguments.seconds, seconds)
                    busy[part].append(watch.measure())
    print_table(arguments, seconds, busy)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="XS")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--loops", type=int, default=2, help="busy programs beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=24.0, help="of each part")
    return parser.parse_args()


def build_programs(folder, atoms, n_threads):
    """Return steps by name: each moves the atoms, and evaluates them."""
    rng = np.random.default_rng(0)
    calculator = PETCalculator(Path(folder) / CHECKPOINT, device="cpu", compile=True)
    network = Engine.from_model(calculator.model, calculator.target)
    moving = atoms.copy()
    moving.calc = calculator
    batch = build_batch(atoms, calculator.model.pair_cutoff, dtype=torch.float64)

    def run_bare(n):
        with use_threads(n):
            network.predict(batch, with_stress=bool(atoms.pbc.all()))

    def run_calculator():
        moving.positions += 1e-3 * rng.standard_normal(moving.positions.shape)
        moving.get_forces()

    return {
        "all threads": lambda: run_bare(n_threads),
        "one thread": lambda: run_bare(1),
        "calculator": run_calculator,
    }


@contextmanager
def run_loops(n_loops):
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(n_loops)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def time_steps(programs, part, limit, seconds):
    """Run each program for its share of the time; add the seconds of each step.

    Not step by step in turns: threads that wait for work spin, beside the next program.
    """
    for key, step in programs.items():
        time.sleep(0.1)
        end = time.perf_counter() + limit / len(programs)
        while (started := time.perf_counter()) < end:
            step()
            taken = time.perf_counter() - started
            seconds.setdefault((*key, part), []).append(taken)


def print_table(arguments, seconds, busy):
    print(
        f"{arguments.shape}, {arguments.dtype}, {arguments.threads} threads; "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, {arguments.loops} loops"
    )
    for part, values in busy.items():
        known = [value for value in values if value is not None]
        shown = f"{np.mean(known):.1f}" if known else "unknown"
        print(f"cores kept busy by others, {part}: {shown}")
    print("\n| structure | run | alone ms | beside loops ms | times it | means |")
    print("|" + "---|" * 6)
    for name, way in dict.fromkeys(key[:2] for key in seconds):
        alone, loaded = (seconds[name, way, part] for part in PARTS)
        medians = [1e3 * np.median(values) for values in (alone, loaded)]
        cells = [name, way, *(f"{value:.1f}" for value in medians)]
        cells.append(f"{medians[1] / medians[0]:.2g}")
        cells.append(f"{np.mean(loaded) / np.mean(alone):.2g}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

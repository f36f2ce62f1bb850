"""Cost of energy, forces and stress against size, for each engine and metatrain's.

    python benchmarks/size_scaling.py --max-atoms 4096 --plot scaling.png
    python benchmarks/size_scaling.py --device cuda --max-atoms 65536

Rattled silicon from 64 atoms on, each size twice the one before. A size that would not
fit in memory, by what the last one took, is not tried; an engine that runs out of it
drops out. The last row is the exponent p of time = c * atoms^p, least squares in the
logarithms: 1 is linear, less than that says that small sizes have an overhead. Network,
checks and turns are those of single_point.py. Needs metatrain (the dev extra), and
matplotlib for a picture.
"""

import argparse
import resource
import tempfile
import warnings
from pathlib import Path

import ase.build
import numpy as np
import torch
from single_point import (
    add_common_options,
    build_calculator,
    describe,
    list_programs,
    time_calculators,
    use_threads,
    write_models,
)

from pet_calc.model.memory import is_out_of_memory, read_free_memory

FIRST = 64
# of the free memory: estimates are rough, and others work on the machine
SHARE = 0.7


def build_silicon(n_atoms):
    """Rattled silicon of ``n_atoms``, 64 times a power of two; near to cubic."""
    repeat = [2, 2, 2]
    while 8 * np.prod(repeat) < n_atoms:
        repeat[int(np.argmin(repeat))] *= 2
    atoms = ase.build.bulk("Si", "diamond", 5.43, cubic=True).repeat(repeat)
    assert len(atoms) == n_atoms
    atoms.rattle(0.05, seed=0)
    return atoms


def list_sizes(max_atoms):
    """64, 128, 256, ... up to ``max_atoms``."""
    sizes = [FIRST]
    while 2 * sizes[-1] <= max_atoms:
        sizes.append(2 * sizes[-1])
    return sizes


def fit_exponent(points):
    """p of seconds = c * atoms^p, from pairs of both; NaN for fewer than two."""
    if len(points) < 2:
        return float("nan")
    atoms, seconds = np.log(points).T
    return float(np.polyfit(atoms, seconds, 1)[0])


def read_peak(device):
    """Bytes that this process has had at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(calculators, sizes, rounds, device):
    """Yield (size, seconds by engine) until memory would run out."""
    start, peak = read_peak(device), 0
    for size in sizes:
        free = read_free_memory(device)
        # twice the atoms take at most twice the memory, of which half is there
        if free is not None and peak > SHARE * free:
            print(f"\n{size} atoms would not fit in memory", flush=True)
            return
        atoms, seconds = build_silicon(size), {}
        for name in list(calculators):
            try:
                found = time_calculators({name: calculators[name]}, atoms, 1)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                print(f"\n{name}: out of memory at {size} atoms", flush=True)
                del calculators[name]
                continue
            seconds[name] = found[name]
        if rounds > 1 and calculators:
            seconds = time_calculators(calculators, atoms, rounds)
        peak = read_peak(device) - start
        yield size, seconds


def draw(path, results, exponents, title):
    """Write a picture of the times; say so where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print(f"\n{path}: not drawn, matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.5))
    for name, exponent in exponents.items():
        points = [(n, 1e3 * s[name]) for n, s in results if name in s]
        label = f"{name}, exponent {exponent:.2f}"
        axes.loglog(*zip(*points, strict=True), "o-", label=label)
    axes.set(xlabel="atoms", ylabel="ms per evaluation", title=title)
    axes.title.set_fontsize(8)
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"\npicture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser, rounds=5)
    parser.add_argument("--max-atoms", type=int, default=2048)
    parser.add_argument(
        "--programs", nargs="*", help="names of calculators; default all"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture, e.g. PNG")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    use_threads(arguments.threads)
    known = list_programs(arguments.dtype, arguments.device)
    names = arguments.programs or known
    if set(names) - set(known):
        parser.error(f"no engine {set(names) - set(known)}; there are {known}")
    if arguments.max_atoms < FIRST:
        parser.error(f"--max-atoms: at least {FIRST}")
    device = torch.device(arguments.device)
    print(f"{describe(arguments)}, {arguments.rounds} rounds; ms\n")
    print("| atoms | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_models(arguments.shape, arguments.dtype, Path(folder))
        calculators = {
            n: build_calculator(n, Path(folder), arguments.device) for n in names
        }
        sizes = list_sizes(arguments.max_atoms)
        for size, seconds in measure(calculators, sizes, arguments.rounds, device):
            cells = [f"{1e3 * seconds[n]:.1f}" if n in seconds else "" for n in names]
            print(f"| {size} | " + " | ".join(cells) + " |", flush=True)
            results.append((size, seconds))
    exponents = {}
    for name in names:
        points = [(size, seconds[name]) for size, seconds in results if name in seconds]
        if points:
            exponents[name] = fit_exponent(points)
    cells = [f"{exponents[n]:.2f}" if n in exponents else "" for n in names]
    print("| exponent | " + " | ".join(cells) + " |")
    if arguments.plot:
        draw(arguments.plot, results, exponents, describe(arguments))


if __name__ == "__main__":
    main()

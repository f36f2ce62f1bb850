"""Time of a LAMMPS step on many ranks, with and without exchange of edges.

    python benchmarks/lammps_ranks.py                  # strong and weak scaling
    python benchmarks/lammps_ranks.py --quick          # a look at whether it works

Needs a quiet machine. The model is a PET of size XS (or S, `--shape`) with random
weights in float32, or an exported file (`--model`); structures are water, silicon and
copper (`--kinds`). Each row is a run of its own of some ranks and threads; rows of one
structure take turns (`--turns`) and medians are compared. A rank's step is work,
packing included, and exchanges: messages and waiting for them. Bytes are those that a
rank sends in a step.

The last table extrapolates. Work is a rank's atoms times the time of one, fitted to
the rows of one rank; an exchange is bytes over `--bandwidth` plus `--latency`. Pairs
that cross a plane are pi rho^2 R^4 / 4 per area, with the density rho and the reach R
that explains the edges measured; a rank's atoms are a cube. It assumes equal loads,
messages to six neighbours one after the other, no overlap with work, and no slower
ranks. Prints markdown.
"""

import argparse
import json
import math
import os
import re
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import ase.build
from ase import Atoms
from lammps_step import build_model, build_water

from pet_calc.export import export_model
from pet_calc.lammps import run_lammps
from pet_calc.lammps.inputs import SimulationOptions, build_setup, write_data

RUN = """
velocity all create 300 1
fix motion all nve
timestep 0.0005
compute exchanged all pair metatomic
fix mean all ave/time 1 {steps} {steps} c_exchanged[1] c_exchanged[2] &
    c_exchanged[3] c_exchanged[4]
run 3
run {steps} pre no
print "means $(f_mean[1]) $(f_mean[2]) $(f_mean[3]) $(f_mean[4])"
"""
STRONG = {
    "water": [(4, 4, 4), (6, 6, 6), (9, 9, 9), (18, 18, 18)],
    "silicon": [(4, 4, 4), (7, 7, 7)],
    "copper": [(4, 4, 3), (5, 5, 5), (8, 8, 8)],
}
WEAK = {"water": (6, 6, 6), "copper": (5, 5, 5)}
LAYERS = 2  # of the XS shape


class Case(NamedTuple):
    """A run: so many ranks with so many threads each."""

    n_ranks: int
    n_threads: int
    exchange: str


class Row(NamedTuple):
    """What a step took; edges, bytes and seconds of exchange are a rank's mean."""

    seconds: float
    n_evaluated: float
    n_edges: float
    n_bytes: float
    exchange_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="an exported file, for all elements")
    parser.add_argument("--shape", choices=["XS", "S"], default="XS")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=list(STRONG), choices=STRONG)
    parser.add_argument("--smallest", type=int, default=1, help="atoms")
    parser.add_argument("--largest", type=int, default=20_000, help="atoms")
    parser.add_argument("--exchange", nargs="+", default=["auto", "off"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--bandwidth", type=float, default=5.0, help="GB/s of a rank")
    parser.add_argument("--latency", type=float, default=5.0, help="us of a message")
    parser.add_argument("--output", type=Path, help="a JSON file of all rows")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0))
    cases = [Case(n, 1, e) for n in options.ranks for e in options.exchange]
    cases = [c for c in cases if c.n_ranks > 1 or c.exchange == "auto"]
    cases += [Case(1, n_cores, "auto")] if n_cores > 1 else []
    strong = {kind: STRONG[kind] for kind in options.kinds}
    weak = {kind: WEAK[kind] for kind in options.kinds if kind in WEAK}
    if options.quick:
        strong, weak = {"water": STRONG["water"][:1]}, {}
        options.turns, options.steps = 1, 2
    found: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        model = options.model
        if model is None:
            network = build_model([1, 8, 14, 29], options.shape)
            model = export_model(network, folder / "model.pt", check=False)
        print("Strong scaling\n")
        print_head()
        for kind, shapes in strong.items():
            for shape in shapes:
                found += measure(kind, shape, model, cases, options, folder)
        print("\nWeak scaling\n")
        print_head()
        for kind, shape in weak.items():
            for case in (c for c in cases if c.n_threads == 1):
                long = (shape[0] * case.n_ranks, *shape[1:])
                found += measure(kind, long, model, [case], options, folder)
    extrapolate(found, options.bandwidth * 1e9, options.latency * 1e-6)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


def build(kind: str, shape: tuple[int, ...]) -> Atoms:
    if kind == "water":
        return build_water(shape)
    cells = {
        "copper": ase.build.bulk("Cu", "fcc", 3.61, cubic=True),
        "silicon": ase.build.bulk("Si", "diamond", 5.43, cubic=True),
    }
    atoms = cells[kind].repeat(shape)
    atoms.rattle(0.05, seed=0)
    return atoms


def print_head() -> None:
    print(
        "| structure | atoms | ranks x threads | exchange | step, ms | work, ms "
        "| exchanges, ms | edges sent | MB sent | atoms evaluated |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")


def measure(
    kind: str, shape, model: Path, cases: list[Case], options, folder: Path
) -> list[dict]:
    """Print a row for each case, and return them; the cases take turns."""
    atoms = build(kind, shape)
    if not options.smallest <= len(atoms) <= options.largest:
        return []
    rows: dict[Case, list[Row]] = {case: [] for case in cases}
    for _ in range(options.turns):
        for case in cases:
            rows[case].append(run(atoms, model, case, options.steps, folder))
    found = []
    for case, turns in rows.items():
        medians = [statistics.median(values) for values in zip(*turns, strict=True)]
        row = Row(*medians)
        work = row.seconds - row.exchange_seconds
        print(
            f"| {kind} | {len(atoms)} | {case.n_ranks} x {case.n_threads} "
            f"| {case.exchange if case.n_ranks > 1 else '-'} "
            f"| {1000 * row.seconds:.0f} | {1000 * work:.0f} "
            f"| {1000 * row.exchange_seconds:.1f} | {row.n_edges:.0f} "
            f"| {row.n_bytes / 1e6:.1f} | {row.n_evaluated:.0f} |",
            flush=True,
        )
        volume, longest = atoms.get_volume(), atoms.cell.lengths().max()
        facts = {"kind": kind, "n_atoms": len(atoms), "density": len(atoms) / volume}
        facts["area"] = volume / longest
        found.append(facts | case._asdict() | row._asdict())
    return found


def run(atoms: Atoms, model: Path, case: Case, n_steps: int, folder: Path) -> Row:
    """Run some steps."""
    write_data(atoms, folder / "structure.data")
    setup = build_setup(atoms, str(model), SimulationOptions())
    setup = setup.replace("device cpu", f"device cpu exchange {case.exchange}")
    (folder / "in.lmp").write_text(setup + RUN.format(steps=n_steps))
    os.environ["OMP_NUM_THREADS"] = str(case.n_threads)
    done = run_lammps("in.lmp", n_ranks=case.n_ranks, cwd=folder, capture=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:])
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps", done.stdout)
    seconds = float(loops[-1][0]) / int(loops[-1][1])
    means = re.findall(r"^means (\S+) (\S+) (\S+) (\S+)", done.stdout, re.M)[-1]
    evaluated, *others = (float(value) for value in means)
    return Row(seconds, evaluated, *(value / case.n_ranks for value in others))


def extrapolate(found: list[dict], bandwidth: float, latency: float) -> None:
    """Print what larger machines would need by the model of cost above."""
    print("\nExtrapolated\n")
    print("| structure | atoms | ranks | step, ms | of it exchanges, ms | efficiency |")
    print("|---|---|---|---|---|---|")
    for kind in dict.fromkeys(row["kind"] for row in found):
        rows = [row for row in found if row["kind"] == kind]
        alone = [r for r in rows if r["n_ranks"] == r["n_threads"] == 1]
        crossing = [r for r in rows if r["n_edges"] > 0]
        if not alone or not crossing:
            continue
        per_atom = sum(r["seconds"] for r in alone) / sum(r["n_atoms"] for r in alone)
        density = alone[0]["density"]
        # bytes that one edge is sent with in a step: measured, of the model as it is
        per_edge = statistics.median(r["n_bytes"] / r["n_edges"] for r in crossing)
        reach = fit_reach(crossing, density)
        for n_atoms in (20_000, 1_000_000, 10_000_000):
            for n_ranks in (10, 100, 1000):
                part = n_atoms / n_ranks
                length = (part / density) ** (1 / 3)
                area = 6 * length**2
                edges = area * math.pi * density**2 * reach**4 / 4
                n_messages = 6 * (2 * LAYERS + 2)
                exchange = edges * per_edge / bandwidth + n_messages * latency
                step = part * per_atom + exchange
                print(
                    f"| {kind} | {n_atoms} | {n_ranks} | {1000 * step:.0f} "
                    f"| {1000 * exchange:.2f} | {part * per_atom / step:.3f} |"
                )


def fit_reach(rows: list[dict], density: float) -> float:
    """Return the length of edges, in Å, that explains how many cross a border.

    Two ranks share a periodic box by two planes across its longest side.
    """
    reaches = []
    for row in rows:
        if row["n_ranks"] != 2 or row["exchange"] == "off":
            continue
        pairs = row["n_edges"] / (2 * row["area"])
        reaches.append((4 * pairs / (math.pi * density**2)) ** 0.25)
    return statistics.median(reaches) if reaches else 5.0


if __name__ == "__main__":
    main()

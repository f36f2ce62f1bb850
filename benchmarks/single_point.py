"""Time energy, forces and stress against metatrain's export through metatomic-ase.

    python benchmarks/single_point.py --shape XS --threads 2
    python benchmarks/single_point.py --shape S --cases "64 Si" "216 Si" --md

One PET with random weights is built by metatrain and read by pet-calc, so that both
compute the same numbers, which is checked. Programs take turns, round by round, on
positions that differ each time as in MD; the table has medians of the rounds. Two more
columns are the time of the bare matrix products, those of the folded network, forward
and backward, in one dtype: by PyTorch (MKL or oneDNN), and by the engine's own code,
which stays only while it is the faster one. Needs metatrain (the dev extra); pet-kokkos
is a column more where it is installed, in float32, on the device that its build is for.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import ase.build
import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from metatomic_ase import MetatomicCalculator
from metatrain.pet import PET as PeerPET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info
from shapes import SHAPES

from pet_calc import PETCalculator
from pet_calc.calculator.from_kokkos import find_device
from pet_calc.checkpoint import load_checkpoint
from pet_calc.data.systems import build_batch
from pet_calc.engine.build import PROBE, load_engine
from pet_calc.export import export_model
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.system.compiler import multiplies_bfloat16

ELEMENTS = [1, 6, 7, 8, 13, 14, 29]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHECKPOINT = "model.ckpt"


def build_cases():
    """The systems, by name; all are rattled."""
    silicon = ase.build.bulk("Si", "diamond", 5.43, cubic=True)
    copper = ase.build.bulk("Cu", "fcc", 3.61, cubic=True)
    water = ase.build.molecule("H2O")
    water.set_cell([3.1, 3.1, 3.1])
    water.pbc = True
    slab = ase.build.fcc111("Al", (4, 4, 4), vacuum=8.0)
    slab += ase.build.molecule("CH3CH2OH")
    slab.positions[64:] += [4.0, 4.0, slab.positions[:64, 2].max() + 3.0]
    dimer = ase.build.molecule("isobutane")
    dimer += ase.build.molecule("CH3CHO")
    dimer.positions[14:] += [0.0, 0.0, 4.5]
    cases = {
        "ethanol (9)": ase.build.molecule("CH3CH2OH"),
        "dimer (21)": dimer,
        "64 Si": silicon.repeat((2, 2, 2)),
        "108 Cu": copper.repeat((3, 3, 3)),
        "slab (73)": slab,
        "192 water": water.repeat((4, 4, 4)),
        "216 Si": silicon.repeat((3, 3, 3)),
        "512 Si": silicon.repeat((4, 4, 4)),
        "648 water": water.repeat((6, 6, 6)),
    }
    for atoms in cases.values():
        # not seed 0: there the ten steps of the search for an adaptive radius jump to
        # and fro, and rounding to float32 changes forces by 1e-3, in all programs
        atoms.rattle(0.05, seed=1)
    return cases


def build_peer(shape, dtype):
    """metatrain's model with random weights."""
    hypers = get_default_hypers("pet")["model"]
    hypers.update(SHAPES[shape])
    info = DatasetInfo(
        length_unit="angstrom",
        atomic_types=ELEMENTS,
        targets={
            "energy": get_energy_target_info("energy", {"unit": "eV"}, True, True)
        },
    )
    torch.manual_seed(0)
    return PeerPET(hypers, info).to(dtype)


def write_models(shape, dtype, folder):
    """Write one network as metatrain's export, as checkpoint, and as our export."""
    peer = build_peer(shape, DTYPES[dtype])
    torch.save(peer.get_checkpoint(), folder / CHECKPOINT)
    peer.export().save(folder / "peer.pt")
    model = load_checkpoint(folder / CHECKPOINT).build_model()
    export_model(model, folder / "ours.pt", check=False)


def use_threads(n_threads):
    """Give all programs so many threads; call it before the others."""
    torch.set_num_threads(n_threads)
    # pet-kokkos reads it when it is imported
    os.environ["OMP_NUM_THREADS"] = str(n_threads)


def list_programs(dtype, device):
    """Names of the calculators that can run."""
    names = ["metatrain", "model"]
    if device == "cpu":
        names.append("engine")
        if dtype == "float32" and multiplies_bfloat16():
            names.append("mixed")
    build = find_device()
    if build and dtype == "float32" and build.type == torch.device(device).type:
        names.append("pet-kokkos")
    return [*names, "our export"]


def build_calculator(name, folder, device):
    """A calculator of the network that ``write_models`` has left in a folder."""
    checkpoint = folder / CHECKPOINT
    if name in ("metatrain", "our export"):
        file = "peer.pt" if name == "metatrain" else "ours.pt"
        return MetatomicCalculator(folder / file, device=device)
    if name == "mixed":
        return PETCalculator(checkpoint, device=device, precision="mixed")
    if name == "pet-kokkos":
        return PETCalculator(checkpoint, device=device, backend=name)
    return PETCalculator(checkpoint, device=device, compile=name == "engine")


def build_calculators(arguments, folder):
    """Calculators by name, all with the same weights, and the bare model."""
    device = arguments.device
    write_models(arguments.shape, arguments.dtype, folder)
    names = list_programs(arguments.dtype, device)
    if not arguments.export:
        names.remove("our export")
    calculators = {name: build_calculator(name, folder, device) for name in names}
    return calculators, calculators["model"].model


def evaluate(atoms):
    """Energy and forces, and stress where there is one, in one evaluation."""
    forces = atoms.get_forces()
    if atoms.pbc.all():
        atoms.get_stress()
    return forces


def check(calculators, atoms, dtype):
    """Stop unless all of them agree; return the force error of bfloat16, relative."""
    results = {}
    for name, engine in calculators.items():
        copied = atoms.copy()
        copied.calc = engine
        results[name] = evaluate(copied)
    expected = results["metatrain"]
    scale = np.abs(expected).max()
    # forces of random weights are small, so float32 rounding shows
    tolerance = 2e-3 if dtype == "float32" else 1e-10
    for name, forces in results.items():
        error = np.abs(forces - expected).max() / scale
        if name != "mixed" and error > tolerance:
            raise SystemExit(f"{name} differs from metatrain by {error:.1e}")
    if "mixed" not in results:
        return None
    difference = results["mixed"] - expected
    return float(np.abs(difference).mean() / np.abs(expected).mean())


def prepare_calculator(calculator, atoms):
    """A function that evaluates atoms which move a little each time."""
    atoms = atoms.copy()
    atoms.calc = calculator

    def run():
        run.number += 1
        atoms.rattle(0.002, seed=run.number)
        evaluate(atoms)

    run.number = 0
    return run


def time_calculators(calculators, atoms, rounds):
    """Median seconds per evaluation of each engine."""
    programs = {name: prepare_calculator(e, atoms) for name, e in calculators.items()}
    # results are NumPy's: no device has anything left to do
    return time_programs(programs, rounds, "cpu")


def time_programs(programs, rounds, device, clock=time.perf_counter):
    """Median seconds of each of the functions; they take turns.

    The first two rounds do not count: TorchScript optimises in its first calls.
    ``time.process_time`` as clock leaves out what others do on the same cores.
    """
    seconds = {name: [] for name in programs}
    for number in range(rounds + 2):
        for name, program in programs.items():
            started = clock()
            program()
            if device != "cpu":
                torch.cuda.synchronize()
            if number > 1:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def time_dynamics(calculators, atoms, steps):
    """Median seconds per step of velocity Verlet at 300 K."""
    seconds = {}
    for name, engine in calculators.items():
        copied = atoms.copy()
        spread = np.sqrt(copied.get_masses()[:, None] * units.kB * 300)
        random = np.random.default_rng(0).standard_normal((len(copied), 3))
        copied.set_momenta(0.3 * spread * random)
        copied.calc = engine
        dynamics = VelocityVerlet(copied, timestep=0.2 * units.fs)
        dynamics.run(2)
        values = []
        for _ in range(5):
            started = time.perf_counter()
            dynamics.run(steps)
            values.append((time.perf_counter() - started) / steps)
        seconds[name] = statistics.median(values)
    return seconds


def time_products(model, systems, rounds, *, has_own=False):
    """Median seconds of the products of the folded network, forward and backward.

    Those of a model on the CPU, for one system or a batch of several: by PyTorch, or
    by it and by the engine, which take turns.
    """
    work = build_products(model, systems)
    programs = {"torch": lambda: [torch.mm(x, w, out=out) for x, w, out in work]}
    if has_own:
        load_engine(PROBE)
        probe = torch.ops.pet_calc_probe
        # as in the engine, which lays its matrices out once
        laid_out = [(x, probe.lay_out(w), out) for x, w, out in work]
        programs["own"] = lambda: [
            probe.multiply(x, panels, out, False) for x, panels, out in laid_out
        ]
    seconds = time_programs(programs, rounds, "cpu")
    return tuple(seconds.values()) if has_own else seconds["torch"]


def build_products(model, systems):
    """Rows, matrix and room for the result of each product of the folded network."""
    dtype = model.edge_embedder.weight.dtype
    batch = build_batch(systems, model.pair_cutoff, dtype=dtype)
    index = model.selector(batch, compute_edge_vectors(batch))
    n_atoms, n_edges = len(batch.species), index.kept.shape[0]
    work = []
    for rows, inner, outer in list_products(model.hypers, n_atoms, n_edges):
        weight = torch.randn(outer, inner, dtype=dtype)
        for a, b in ((inner, weight.t()), (outer, weight)):
            left = torch.randn(rows, a, dtype=dtype)
            work.append((left, b, torch.empty(rows, b.shape[1], dtype=dtype)))
    return work


def list_products(hypers, n_atoms, n_edges):
    """Rows, inputs and outputs of each matrix product of one forward pass."""
    d, w, f, h = hypers.d_pet, hypers.d_node, hypers.d_feedforward, hypers.d_head
    gate = 2 if hypers.activation == "SwiGLU" else 1
    n_tokens = n_atoms + n_edges
    shapes = []
    for layer in range(hypers.num_gnn_layers):
        shapes += [(n_edges, d, d)] * (1 if layer == 0 else 2)
        for _ in range(hypers.num_attention_layers):
            shapes += [(n_tokens, d, 3 * d), (n_tokens, d, d)]
            shapes += [(n_edges, d, gate * f), (n_edges, f, d)]
            if w != d:
                shapes += [(n_atoms, w, d), (n_atoms, d, w)]
                shapes += [(n_atoms, w, gate * 2 * w), (n_atoms, 2 * w, w)]
        if hypers.featurizer_type == "feedforward":
            shapes += [(n_edges, 2 * d, 2 * d), (n_edges, 2 * d, d)]
    for _ in range(hypers.num_readout_layers):
        shapes += [(n_edges, d, h), (n_edges, h, h), (n_atoms, w, h), (n_atoms, h, h)]
    return shapes


def add_common_options(parser, *, rounds=9):
    """Add what all of these scripts can be told."""
    parser.add_argument("--shape", choices=list(SHAPES), default="XS")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=rounds)


def describe(arguments):
    """What a table was made with."""
    return (
        f"PET {arguments.shape}, {arguments.dtype}, {arguments.device}, "
        f"{arguments.threads} threads, {read_processor()}, torch {torch.__version__}"
    )


def read_processor():
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--cases", nargs="*", help="names of systems; default all")
    parser.add_argument("--export", action="store_true", help="our exported file too")
    parser.add_argument("--md", type=int, metavar="STEPS", help="MD, 5 times so long")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    use_threads(arguments.threads)
    cases = build_cases()
    unknown = set(arguments.cases or []) - set(cases)
    if unknown:
        parser.error(f"no case {unknown}; there are {', '.join(cases)}")
    print(
        f"{describe(arguments)}, {arguments.rounds} rounds; "
        "ms, and times metatrain's speed in brackets\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        calculators, model = build_calculators(arguments, Path(folder))
        columns = [*calculators, "products", "own products"]
        print("| system | " + " | ".join(columns) + " | bfloat16 error |")
        print("|---" * (len(columns) + 2) + "|")
        for name in arguments.cases or cases:
            atoms = cases[name]
            error = check(calculators, atoms, arguments.dtype)
            rounds = arguments.rounds * (5 if len(atoms) < 50 else 1)
            if arguments.md:
                seconds = time_dynamics(calculators, atoms, arguments.md)
            else:
                seconds = time_calculators(calculators, atoms, rounds)
            cells = [
                f"{1e3 * value:.1f} ({seconds['metatrain'] / value:.2f})"
                for value in seconds.values()
            ]
            if arguments.device == "cpu":
                both = time_products(model, atoms, rounds, has_own=True)
                cells += [f"{1e3 * value:.1f}" for value in both]
            else:
                cells += ["", ""]
            cells.append("" if error is None else f"{100 * error:.1f} %")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"\npeak memory of this process: {peak:.1f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()

"""What an uncertainty of every atom's energy adds to an evaluation.

    python benchmarks/uncertainty_cost.py --shape XS --threads 1

Silicon whose atoms move a little each time: energy, forces and stress without an
uncertainty, and with one that is looked at in each step (``max_uncertainty``), by each
route. The last row is the engine with features from a pass of PyTorch beside it. All
take turns; the factor of the covariance is random, which costs as much as a fitted one.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
from ase import Atoms
from single_point import (
    CHECKPOINT,
    add_common_options,
    describe,
    prepare_calculator,
    time_programs,
    write_models,
)
from size_scaling import FIRST, build_silicon

from pet_calc import PETCalculator
from pet_calc.calculator.atoms_io import build_single_batch, name_uncertainties
from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.checkpoint.open import load_merged_model, load_uncertainties
from pet_calc.checkpoint.uncertainty import (
    FittedUncertainty,
    count_features,
    set_uncertainty,
)
from pet_calc.export import export_model
from pet_calc.model.uncertainty import compute_features

# eV: no atom is above it, and all are looked at
LIMIT = 1e9
SURE, SURE_EXPORT, EXPORT = "sure.ckpt", "sure.pt", "ours.pt"


def write_sure(folder):
    """Write the network with an uncertainty, as checkpoint and as exported file."""
    record = load_checkpoint(folder / CHECKPOINT)
    n = count_features(record)
    random = torch.randn((n, n), dtype=torch.float64)
    covariance = random @ random.T / n + torch.eye(n, dtype=torch.float64)
    fitted = FittedUncertainty(
        covariance, torch.linalg.cholesky(covariance), 0.1, torch.zeros((0, n))
    )
    model = load_merged_model(record)
    set_uncertainty(record, model, "energy", fitted)
    save_checkpoint(folder / SURE, record)
    own = load_uncertainties(folder / SURE)
    export_model(model, folder / SURE_EXPORT, uncertainties=own, check=False)


def add_pass(run, calculator, uncertainty):
    """The same function with a pass of PyTorch for the features behind it."""

    def both():
        run()
        atoms: Atoms = calculator.atoms
        backend = calculator._backend
        batch = build_single_batch(atoms, backend.pairs, backend.device)
        features = compute_features(backend.model, batch, backend.target)
        name_uncertainties(uncertainty, features)

    return both


def build_programs(arguments, folder):
    """Functions to time by name, each with the name of what it is compared with."""
    device = arguments.device
    atoms = build_silicon(FIRST)
    routes = {"PyTorch": (CHECKPOINT, SURE, False)}
    if device == "cpu":
        routes |= {
            "engine": (CHECKPOINT, SURE, True),
            "engine, exported": (EXPORT, SURE_EXPORT, True),
        }
    programs = {}
    for name, (plain, sure, compile) in routes.items():
        options = {"device": device, "compile": compile}
        for label, file, more in (
            (name, plain, {}),
            (f"{name}, uncertainty", sure, {"max_uncertainty": LIMIT}),
        ):
            calculator = PETCalculator(folder / file, **options, **more)
            programs[label] = (prepare_calculator(calculator, atoms), name)
    if device == "cpu":
        calculator = PETCalculator(folder / CHECKPOINT, compile=True)
        run = prepare_calculator(calculator, atoms)
        own = load_uncertainties(folder / SURE)["energy"]
        programs["engine, a pass of PyTorch"] = (
            add_pass(run, calculator, own),
            "engine",
        )
    return programs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser, rounds=21)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time, for one thread on cores that others use too",
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    print(f"{describe(arguments)}, {FIRST} Si, {arguments.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(arguments.shape, arguments.dtype, folder)
        write_sure(folder)
        programs = build_programs(arguments, folder)
        seconds = time_programs(
            {name: program for name, (program, _) in programs.items()},
            arguments.rounds,
            arguments.device,
            time.process_time if arguments.cpu_time else time.perf_counter,
        )
    print("| program | ms | more than without |")
    print("|---|---|---|")
    for name, value in seconds.items():
        plain = programs[name][1]
        more = "" if plain == name else f"{100 * (value / seconds[plain] - 1):+.1f} %"
        print(f"| {name} | {1e3 * value:.2f} | {more} |")


if __name__ == "__main__":
    main()

"""Active learning: run dynamics, choose frames, label them, fine-tune again.

python examples/active_learning.py --seeds 0 1 2 -o loop/

A base of GFN1-xTB energies learns those of GFN2-xTB (pip install tblite) for ethanol at
1000 K, from 20 frames at 300 K and 10 more after each round of dynamics with its own
forces. Beside it runs the same loop with frames chosen at random. Both are judged on
frames of GFN2-xTB's own dynamics at 1000 K. In the end a few frames at 1000 K are put
among many at 300 K: those that are found are counted, and the first model learns from
ten frames of this pool, chosen and at random.
"""

import argparse
import json
import statistics
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from tblite.ase import TBLite

from pet_calc import PETCalculator
from pet_calc.cli.main import cli
from pet_calc.data.frames import LabeledFrame
from pet_calc.select.physical import find_fault

TARGET = "energy/gfn2"
COLD, HOT = 300, 1000  # K
STEP = 0.5 * units.fs
SETTINGS = {
    "n_start": 20,  # frames at 300 K, as many to validate with
    "n_test": 100,
    "n_rounds": 2,
    "n_new": 10,  # frames that are labelled in a round
    "md_steps": 2000,
    "interval": 5,  # steps between frames to choose from
    "n_steps": 300,  # of each training, 4 frames each
    "n_rare": 10,  # frames at 1000 K
    "n_common": 390,  # frames at 300 K among which they are hidden
}
TINY = {
    **SETTINGS,
    **{"n_start": 4, "n_test": 4, "n_rounds": 1, "n_new": 2},
    **{"md_steps": 60, "n_steps": 2, "n_rare": 2, "n_common": 6},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("active-learning"))
    parser.add_argument("--tiny", action="store_true", help="one round of nothing")
    arguments = parser.parse_args()
    settings = TINY if arguments.tiny else SETTINGS
    rows, found, learned = [], [], []
    for seed in arguments.seeds:
        folder = arguments.output / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        rows += run_seed(folder, seed, settings)
        (arguments.output / "errors.json").write_text(json.dumps(rows, indent=1))
        found.append(count_rare(folder, seed, settings))
        learned += learn_rare(folder, seed, settings)
        (arguments.output / "rare.json").write_text(json.dumps(learned, indent=1))
    print_table(rows)
    for seed, counts in zip(arguments.seeds, found, strict=True):
        shown = ", ".join(f"{by} {count}" for by, count in counts.items())
        print(f"rare frames among the first {settings['n_rare']}, seed {seed}: {shown}")
    print("\nChosen among the rare and the many:")
    print_table(learned)


def run_seed(folder, seed, settings):
    """Run both loops; return the errors after each training."""
    n_start = settings["n_start"]
    rng = np.random.default_rng(seed)
    cold = run_dynamics(build_labeller(), COLD, 2 * n_start, 50, rng)
    ase.io.write(folder / "start.xyz", cold[::2])
    ase.io.write(folder / "val.xyz", cold[1::2])
    hot = run_dynamics(build_labeller(), HOT, settings["n_test"], 50, rng)
    ase.io.write(folder / "test.xyz", hot)
    first = train(folder, "start", [folder / "start.xyz"], seed, settings)
    errors = judge(first, folder)
    rows = []
    for way in ("select", "random"):
        rows.append({"seed": seed, "way": way, "round": 0, **errors})
        files, model = [folder / "start.xyz"], first
        for k in range(1, settings["n_rounds"] + 1):
            # both ways have the same dynamics as long as they have the same model
            way_rng = np.random.default_rng([seed, k])
            calc = PETCalculator(model, target=TARGET, device="cpu")
            n_frames = settings["md_steps"] // settings["interval"]
            frames = run_dynamics(calc, HOT, n_frames, settings["interval"], way_rng)
            name = f"{way}-{k}"
            trajectory = folder / f"md-{name}.xyz"
            ase.io.write(trajectory, frames)
            chosen = choose(way, trajectory, model, files, settings, way_rng)
            files.append(folder / f"{name}.xyz")
            ase.io.write(files[-1], label(chosen))
            model = train(folder, name, files, seed, settings)
            rows.append({"seed": seed, "way": way, "round": k, **judge(model, folder)})
    return rows


def count_rare(folder, seed, settings):
    """Return how many rare frames are taken, by each way of choosing."""
    n_rare, n_common = settings["n_rare"], settings["n_common"]
    rng = np.random.default_rng([seed, 77])
    model = folder / "start" / "best_model.ckpt"
    calc = PETCalculator(model, target=TARGET, device="cpu")
    common = iter(run_dynamics(calc, COLD, n_common, settings["interval"], rng))
    hot = ase.io.read(folder / "md-random-1.xyz", ":")
    rare = iter(hot[:: len(hot) // n_rare])
    n_frames = n_rare + n_common
    places = set(rng.choice(n_frames, n_rare, replace=False).tolist())
    frames = [next(rare if k in places else common) for k in range(n_frames)]
    ase.io.write(folder / "rare.xyz", frames)
    counts = {}
    for by in ("uncertainty", "atoms", "diversity"):
        words = ["-m", model, "--target", TARGET, "-n", n_rare, "--by", by]
        words += ["--exclude", folder / "start.xyz", "--device", "cpu", "--overwrite"]
        pet_calc("select", folder / "rare.xyz", *words, "-o", folder / "found.xyz")
        taken = ase.io.read(folder / "found.xyz", ":")
        numbers = [int(atoms.info["select_from"].split()[-1]) for atoms in taken]
        counts[by] = len(places.intersection(numbers))
    return counts


def learn_rare(folder, seed, settings):
    """Return the errors of a training with frames from the pool, by each choice."""
    first = folder / "start" / "best_model.ckpt"
    rows = []
    for way in ("select", "random"):
        files = [folder / "start.xyz"]
        rng = np.random.default_rng([seed, 78])
        chosen = choose(way, folder / "rare.xyz", first, files, settings, rng)
        files.append(folder / f"{way}-rare.xyz")
        ase.io.write(files[-1], label(chosen))
        model = train(folder, f"{way}-rare", files, seed, settings)
        rows.append({"seed": seed, "way": way, "round": 1, **judge(model, folder)})
    return rows


def build_labeller():
    return TBLite(method="GFN2-xTB", verbosity=0)


def run_dynamics(calc, temperature, n_frames, interval, rng):
    """Return frames of ethanol, with what the calculator says of them."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = calc
    dynamics = Langevin(
        atoms,
        STEP,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        rng=rng,
        fixcm=False,
    )
    dynamics.run(200)  # from rest to the temperature
    frames = []
    for _ in range(n_frames):
        dynamics.run(interval)
        frames.append(keep_results(atoms))
    return frames


def keep_results(atoms):
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    kept = atoms.copy()
    kept.calc = SinglePointCalculator(kept, energy=energy, forces=forces)
    return kept


def choose(way, trajectory, model, files, settings, rng):
    """Return the frames to label: by the verb, or at random among physical ones."""
    n_new = settings["n_new"]
    if way == "select":
        output = trajectory.with_name(f"next-{trajectory.name}")
        excluded = [word for file in files for word in ("--exclude", file)]
        words = ["-m", model, "--target", TARGET, "-n", n_new, *excluded]
        pet_calc("select", trajectory, *words, "-o", output, "--overwrite")
        return ase.io.read(output, ":")
    frames = ase.io.read(trajectory, ":")
    physical = [f for f in frames if find_fault(LabeledFrame.from_atoms(f)) is None]
    indices = rng.choice(len(physical), min(n_new, len(physical)), replace=False)
    return [physical[i] for i in indices]


def label(frames):
    """Return the frames with energy and forces of GFN2-xTB, where it converges."""
    labelled = []
    for atoms in frames:
        atoms.calc = build_labeller()
        try:
            labelled.append(keep_results(atoms))
        except CalculationFailed as error:
            print(f"not labelled: {atoms.info.get('select_from', '')} {error}")
    return labelled


def train(folder, name, files, seed, settings):
    """Fine-tune the base on all that is labelled; return the model's file."""
    n_frames = sum(len(ase.io.read(file, ":")) for file in files)
    epochs = max(1, round(settings["n_steps"] * 4 / n_frames))
    words = ["--base", "pet-gfn1-xs", "--target", TARGET, "--uncertainty"]
    words += ["--val", folder / "val.xyz", "--epochs", epochs, "--batch-size", 4]
    words += ["--seed", seed, "-o", folder / name, "--overwrite", "--device", "cpu"]
    pet_calc("finetune", *files, *words)
    return folder / name / "best_model.ckpt"


def judge(model, folder):
    """Return the errors on the held-out frames at 1000 K, in eV and Å."""
    file = folder / "errors.json"
    words = ["--target", TARGET, "--device", "cpu", "--json", file, "--overwrite"]
    pet_calc("eval", model, folder / "test.xyz", *words)
    errors = json.loads(file.read_text())
    names = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse")
    return {name: errors[name] for name in names}


def pet_calc(*words):
    """Run a verb of the command line in this process."""
    words = [str(word) for word in words]
    print("$ pet-calc", *words, flush=True)
    cli([*words, "--quiet"], standalone_mode=False)


def print_table(rows):
    print("\nRMSE on held-out frames at 1000 K, mean (least to most) over the seeds")
    print(f"{'round':>5}  {'chosen':<7}  {'energy, meV/atom':<24}  forces, meV/A")
    for k in sorted({row["round"] for row in rows}):
        for way in ("select", "random"):
            own = [row for row in rows if (row["round"], row["way"]) == (k, way)]
            energy, forces = (
                describe([1000 * row[name] for row in own])
                for name in ("energy_rmse", "forces_rmse")
            )
            print(f"{k:>5}  {way:<7}  {energy:<24}  {forces}")


def describe(values):
    mean = statistics.mean(values)
    return f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()

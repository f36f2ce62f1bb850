"""Train with metatrain, on the sets and with the steps of ``recipe.py``.

    python benchmarks/recipe_metatrain.py --data ../shared/data -o /tmp/metatrain
    python benchmarks/recipe_metatrain.py --data ../shared/data -o /tmp/metatrain \
        --method lora --rates 1e-3 3e-3 1e-2

From the same bases, which ``pet-calc convert`` writes for it. A new target would get a
scale of its own, with which step 0 is not the base; so labels are moved to the base's
energies per element, which pet-calc fits, and the base's own target trains on. All else
is metatrain's default, but for the loss (energies per atom 10, forces and stress 1, as
in pet-calc) and the rate: each of ``--rates``. LoRA is on the layers that metatrain
takes, attention's, with pet-calc's rank and alpha; it starts from random A and B there,
so that its step 0 is not the base.
Errors are those of ``pet-calc eval`` on the test frames in random orientation. Rows
that are done are not run again. Needs metatrain (the dev extra) and the public data.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import ase
import ase.io
import yaml
from finetune_table import run_row as run_ours
from recipe import CASES, ROOT, build_options, find_folder

from pet_calc.checkpoint.open import load_record
from pet_calc.data.frames import read_frames
from pet_calc.hub.find import find_model

TARGET = "energy"
METHODS = {"full": {}, "lora": {"rank": 8, "alpha": 16.0}}
PROGRAMS = Path(sys.executable).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--sets", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--method", choices=list(METHODS), default="full")
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    print("| set | method | rate | seed | energy, meV/atom | forces, meV/Å | time, s |")
    print("|---|---|---|---|---|---|---|")
    for seed in arguments.seeds:
        for name in arguments.sets:
            for rate in arguments.rates:
                recipe = f"{arguments.method} {rate:g}"
                folder = find_folder(arguments.output, name, recipe, seed).resolve()
                if not (folder / "row.json").exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    row = run_row(
                        folder,
                        arguments.data,
                        CASES[name],
                        arguments.method,
                        rate,
                        seed,
                    )
                    (folder / "row.json").write_text(json.dumps(row))
                row = json.loads((folder / "row.json").read_text())
                cells = [
                    name,
                    arguments.method,
                    f"{rate:g}",
                    str(seed),
                    f"{1000 * row['energy_mae']:.2f}",
                    f"{1000 * row['forces_mae']:.1f}",
                    f"{row['seconds']:.0f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


def run_row(folder, data, case, method, rate, seed):
    """Train and measure; return errors (eV, Å) and the time."""
    where = ROOT / "data" / "dft" if case is CASES["glycol"] else data
    shift = fit_shift(folder / "shift", data, case, seed)
    paths = []
    for part, name in zip(("train", "val", "test"), case.parts, strict=True):
        paths.append(folder / f"{part}.xyz")
        has_stress = write_frames(paths[-1], where / name, shift)
    words = ["--to", "metatrain", "-o", "base.ckpt", "--overwrite"]
    run("convert", find_model(case.base), *words, cwd=folder)
    level = load_record(folder / "base.ckpt").targets[TARGET].description
    n_frames = len(ase.io.read(paths[0], ":"))
    n_epochs = max(1, round(case.n_steps / math.ceil(n_frames / case.batch_size)))
    loss = {"type": "mse", "weight": 10.0, "forces": {"type": "mse", "weight": 1.0}}
    if has_stress:
        loss["stress"] = {"type": "mse", "weight": 1.0}
    finetune = {"method": method, "read_from": "base.ckpt", "config": METHODS[method]}
    options = {
        "seed": seed,
        "device": "cpu",
        "architecture": {
            "name": "pet",
            "training": {
                "num_epochs": n_epochs,
                "batch_size": case.batch_size,
                "learning_rate": rate,
                "loss": {TARGET: loss},
                "finetune": finetune,
            },
        },
        "training_set": build_set(paths[0], has_stress, level),
        "validation_set": build_set(paths[1], has_stress, level),
        "test_set": 0.0,
    }
    (folder / "options.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    started = time.monotonic()
    with (folder / "metatrain.log").open("w") as log:
        words = [PROGRAMS / "mtt", "train", "options.yaml", "-o", "model.pt"]
        subprocess.run(words, cwd=folder, check=True, stdout=log, stderr=log)
    seconds = time.monotonic() - started
    words = ["--energy-key", "ref_energy", "--forces-key", "ref_forces"]
    words += ["--quiet", "--json", "errors.json"]
    run("eval", "model.ckpt", paths[2], *words, cwd=folder)
    errors = json.loads((folder / "errors.json").read_text())
    return {**errors, "seconds": seconds}


def fit_shift(folder, data, case, seed):
    """Return by how much the data's energies per element are above the base's, eV."""
    training = {"finetune": {"method": "heads"}, "rate": 1e-290, "num_epochs": 1}
    options = build_options(data, case, training, seed)
    run_ours(folder, options, folder.parent.name, "energies per element")
    before = load_record(case.base)
    fitted = load_record(folder / "run" / "best_model_options.ckpt")
    tables = [
        value.flatten().tolist()
        for record in (before, fitted)
        for name, value in record.state.items()
        if name.endswith(f".{TARGET}.composition")
    ]
    own, new = tables
    return {z: b - a for z, a, b in zip(before.atomic_types, own, new, strict=True)}


def write_frames(path, source, shift):
    """Write frames with labels that metatrain finds; return whether all have stress."""
    frames = []
    labelled = read_frames(str(source))
    for frame in labelled:
        atoms = ase.Atoms(
            frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc
        )
        change = sum(shift[number] for number in frame.numbers.tolist())
        atoms.info["ref_energy"] = float(frame.energy) - change
        atoms.arrays["ref_forces"] = frame.forces
        if frame.stress is not None:
            atoms.info["ref_stress"] = frame.stress
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return all(frame.stress is not None for frame in labelled)


def build_set(path, has_stress, level):
    """Return the block of a set; ``level`` is the base's, for no other is taken."""
    target = {"quantity": "energy", "key": "ref_energy", "unit": "eV"}
    target["description"] = level
    target["forces"] = {"key": "ref_forces"}
    if has_stress:
        target["stress"] = {"key": "ref_stress"}
    systems = {"read_from": str(path), "length_unit": "angstrom"}
    return {"systems": systems, "targets": {TARGET: target}}


def run(*words, cwd):
    subprocess.run([PROGRAMS / "pet-calc", *map(str, words)], check=True, cwd=cwd)


if __name__ == "__main__":
    main()

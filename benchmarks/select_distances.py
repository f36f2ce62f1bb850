"""What distances of `pet-calc select` mean, and what long trajectories cost in memory.

    python benchmarks/select_distances.py

With the bundled molecular base and the glycol set: medians over frames of the distance
between a frame and the same one turned, with its atoms moved, a step of dynamics later,
and later still, and between frames of the training set. Then the peak memory of the
verb on 400 and on 4,000 frames of a trajectory, each in a process of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from scipy.spatial.transform import Rotation

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.data.frames import LabeledFrame
from pet_calc.hub import find_model
from pet_calc.select.features import Measure

BASE = "pet-gfn1-xs"
TRAINING_SET = Path(__file__).resolve().parents[1] / "data" / "dft" / "train.xyz"
N_FRAMES = 40
STEP = 0.5 * units.fs
WATCH = """
import resource, sys
from pet_calc.cli.main import cli
cli(sys.argv[1:], standalone_mode=False)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main():
    model = load_checkpoint(find_model(BASE)).build_model()
    measure = Measure(model, "energy")
    frames = ase.io.read(TRAINING_SET, f":{N_FRAMES}")
    before = evaluate(measure, frames)
    print("| | distance |\n|---|---|")
    show("a frame turned", before, evaluate(measure, [turn(a) for a in frames]))
    for length in (0.005, 0.02):
        moved = [move(atoms, length) for atoms in frames]
        show(f"atoms moved by {length} Å", before, evaluate(measure, moved))
    run = run_dynamics(frames[0], N_FRAMES, 1)
    later = evaluate(measure, run)
    show("half a femtosecond at 300 K", later[:-1], later[1:])
    far = evaluate(measure, run_dynamics(frames[0], N_FRAMES, 200))
    show("100 fs and more at 300 K", far[:-1], far[1:])
    nearest = [min(distance(f, g) for g in before if g is not f) for f in before]
    print(f"| neighbours in the training set | {np.median(nearest):.2g} |")
    compare_memory(frames[0])


def evaluate(measure, frames):
    """Return features and number of atoms of each frame."""
    labelled = [LabeledFrame.from_atoms(atoms) for atoms in frames]
    found = measure.evaluate(labelled)
    return [(each.features, each.frame.n_atoms) for each in found]


def distance(one, other):
    """As the verb states it: relative to the length, times the root of the size."""
    length = np.linalg.norm(one[0])
    return np.linalg.norm(one[0] - other[0]) / length * np.sqrt(one[1])


def show(name, ones, others):
    values = [distance(*pair) for pair in zip(ones, others, strict=True)]
    print(f"| {name} | {np.median(values):.2g} (at most {max(values):.2g}) |")


def turn(atoms, seed=0):
    turned = atoms.copy()
    turned.positions = Rotation.random(random_state=seed).apply(atoms.positions)
    return turned


def move(atoms, length):
    moved = atoms.copy()
    moved.rattle(length, seed=1)
    return moved


def run_dynamics(atoms, n_frames, interval):
    atoms = atoms.copy()
    atoms.calc = PETCalculator(BASE, device="cpu")
    rng = np.random.default_rng(0)
    dynamics = Langevin(
        atoms, STEP, temperature_K=300, friction=0.02 / units.fs, rng=rng
    )
    dynamics.run(200)
    frames = []
    for _ in range(n_frames):
        dynamics.run(interval)
        frames.append(atoms.copy())
    return frames


def compare_memory(atoms):
    """Print the peaks of short and long trajectories."""
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        frames = run_dynamics(atoms, 400, 5)
        for n_copies in (1, 10):
            path = folder / f"{n_copies}.xyz"
            rng = np.random.default_rng(n_copies)
            for _ in range(n_copies):
                moved = [move_anew(frame, rng) for frame in frames]
                ase.io.write(path, moved, append=True)
            words = ["select", path, "--model", BASE, "--by", "diversity", "-n", 20]
            words += ["-o", folder / "next.xyz", "--overwrite", "--quiet"]
            command = [sys.executable, "-c", WATCH, *map(str, words)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peak = int(done.stdout.split()[-1]) / 1024
            print(f"{400 * n_copies} frames: peak of {peak:.0f} MB")


def move_anew(frame, rng):
    moved = frame.copy()
    moved.positions += rng.normal(0.0, 0.02, moved.positions.shape)
    return moved


if __name__ == "__main__":
    main()

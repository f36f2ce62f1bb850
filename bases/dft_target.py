"""Make the fine-tuning data: PBE0-D3(BJ)/def2-TZVP for ethylene glycol with water.

    python bases/dft_target.py            # goes on where it stopped, into data/dft/
    python bases/dft_target.py --limit 3 --out /tmp/few

Geometries come from GFN1-xTB Langevin runs, one per trajectory; splits differ in their
trajectories. The out-of-distribution test has 600 K and a second water molecule. The
frames of all splits are interleaved, so the files can be used before the last is done.
See bases/README.md.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from clusters import pack
from dft_level import LEVEL, atom_energy, energy, energy_and_forces
from molecules import UNPAIRED, turned
from runs import generator
from sampling import molecular_dynamics, relax
from smiles3d import parse_smiles
from tqdm import tqdm

DATA = Path(__file__).resolve().parents[1] / "data"
FRAMES_PER_RUN = 5
EQUILIBRATION_FS = 400
STRIDE_FS = 200
GLYCOL, COMPLEX, LARGER = ("OCCO",), ("OCCO", "O"), ("OCCO", "O", "O")
# split, molecules, temperature in K, number of trajectories
PLAN = [
    ("train", GLYCOL, 300, 20),
    ("train", COMPLEX, 300, 10),
    ("val", GLYCOL, 300, 3),
    ("val", COMPLEX, 300, 2),
    ("test", GLYCOL, 300, 4),
    ("test", COMPLEX, 300, 2),
    ("test_ood", GLYCOL, 600, 4),
    ("test_ood", COMPLEX, 600, 2),
    ("test_ood", LARGER, 300, 2),
]
ATOMS_FILE, CHECKS_FILE, SUMMARY_FILE = "atoms.xyz", "checks.json", "summary.json"
FORCE_TOLERANCE = 2e-4  # eV/Å, analytic against finite differences


def sample_geometries(seed: int) -> list[Atoms]:
    """Return all geometries, ordered so that every split grows at its own rate."""
    runs = [
        (split, members, temperature, number)
        for split, members, temperature, count in PLAN
        for number in range(count)
    ]
    frames = []
    for split, members, temperature, number in tqdm(runs, desc="GFN1-xTB MD"):
        name = "+".join(members)
        run = f"{name}_{temperature}K_{split}{number}"
        rng = generator(seed, "dft", run)
        start = pack(members[:1], seed, rng, contact=0.8)
        start = relax(turned(start, parse_smiles(members[0]), rng), steps=40)
        start = pack(members, seed, rng, contact=0.75, first=start)
        start = relax(start, fmax=0.1, steps=40)
        snapshots = molecular_dynamics(
            start,
            temperature,
            EQUILIBRATION_FS // STRIDE_FS + FRAMES_PER_RUN,
            STRIDE_FS,
            rng,
        )[-FRAMES_PER_RUN:]
        for step, snapshot in enumerate(snapshots):
            # the share of the split that is done once this frame is
            share = generator(seed, "dft order", run, step).random()
            snapshot.positions = np.round(snapshot.positions, 8)
            snapshot.info = {
                "system": run,
                "group": f"{name}_{temperature}K",
                "split": split,
                "share": share,
            }
            frames.append(snapshot)
    frames.sort(key=lambda frame: frame.info["share"])
    for index, frame in enumerate(frames):
        del frame.info["share"]
        frame.info["index"] = index
    return frames


def label_frame(frame: Atoms) -> Atoms:
    """Return the frame with DFT results and without the split mark."""
    start = time.process_time()
    value, forces = energy_and_forces(frame)
    labelled = frame.copy()
    labelled.info = {k: v for k, v in frame.info.items() if k != "split"}
    labelled.info["level"] = LEVEL
    labelled.calc = SinglePointCalculator(labelled, energy=value, forces=forces)
    tqdm.write(
        f"{frame.info['index']} {frame.info['system']}: "
        f"{time.process_time() - start:.1f} s of CPU"
    )
    return labelled


def append_frame(path: Path, frame: Atoms) -> None:
    """Append in one write call, so an interrupt leaves whole frames only."""
    temporary = path.with_suffix(".tmp")
    write(temporary, frame, format="extxyz")
    with path.open("a") as file:
        file.write(temporary.read_text())
    temporary.unlink()


def write_atoms(out: Path) -> None:
    """Write the isolated atoms, unless they are there."""
    path = out / ATOMS_FILE
    if path.exists():
        return
    for symbol in ("H", "C", "O"):
        atom = Atoms(symbol, [[0.0, 0.0, 0.0]])
        value = atom_energy(symbol, UNPAIRED[symbol])
        atom.info = {"system": f"atom_{symbol}", "group": "atom", "level": LEVEL}
        atom.info["config_type"] = "IsolatedAtom"
        atom.calc = SinglePointCalculator(atom, energy=value, forces=np.zeros((1, 3)))
        append_frame(path, atom)


def check_forces(frames: list[Atoms], out: Path) -> None:
    """Compare analytic forces with differences of energies on two labelled frames."""
    path = out / CHECKS_FILE
    if path.exists() or len(frames) < 2:
        return
    record = []
    smallest = min(frames, key=len)
    largest = max(frames, key=len)
    for frame in (smallest, largest):
        forces = frame.get_forces()
        picked = generator("dft check", frame.info["index"]).permutation(forces.size)
        for component in (int(k) for k in picked[:3]):
            numeric = _numeric_force(frame, component)
            error = abs(numeric - forces.flat[component])
            record.append(
                {
                    "index": int(frame.info["index"]),
                    "component": component,
                    "analytic": round(float(forces.flat[component]), 7),
                    "numeric": round(numeric, 7),
                    "error": float(f"{error:.1e}"),
                }
            )
    worst = max(entry["error"] for entry in record)
    result = {"worst_error": worst, "tolerance": FORCE_TOLERANCE, "components": record}
    path.write_text(json.dumps(result, indent=1) + "\n")
    if worst > FORCE_TOLERANCE:
        raise SystemExit(f"forces are off by {worst} eV/Å: see {path}")


def write_summary(out: Path, planned: int) -> None:
    """Write checksums and counts of what is there."""
    files = {}
    for path in sorted(out.glob("*.xyz")):
        frames = read(path, ":")
        groups = Counter(frame.info["group"] for frame in frames)
        files[path.name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "frames": len(frames),
            "groups": dict(sorted(groups.items())),
        }
    text = json.dumps({"level": LEVEL, "planned": planned, "files": files}, indent=1)
    temporary = out / "summary.tmp"
    temporary.write_text(text + "\n")
    temporary.rename(out / SUMMARY_FILE)


def main() -> None:
    """Label every geometry that no file holds yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=DATA / "dft", help="folder")
    parser.add_argument("--geometries", type=Path, help="file to keep MD snapshots in")
    parser.add_argument("--limit", type=int, help="stop after this many frames in all")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.geometries or here / "build" / f"dft_geometries_{options.seed}.xyz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept.with_suffix(".tmp"), sample_geometries(options.seed), "extxyz")
        kept.with_suffix(".tmp").rename(kept)
    geometries = read(kept, ":")
    write_atoms(options.out)
    done = _labelled(options.out)
    todo = [f for f in geometries[: options.limit] if f.info["index"] not in done]
    with multiprocessing.Pool(options.workers) as pool:
        results = pool.imap(label_frame, todo)  # in order, whatever finishes first
        for frame in tqdm(todo, desc="DFT", unit="frame"):
            labelled = next(results)
            append_frame(options.out / f"{frame.info['split']}.xyz", labelled)
            write_summary(options.out, len(geometries))
            done[labelled.info["index"]] = labelled
            if len(done) == 12:  # by then both small and large frames are there
                check_forces(list(done.values()), options.out)
    check_forces(list(done.values()), options.out)
    write_summary(options.out, len(geometries))


def _labelled(out: Path) -> dict[int, Atoms]:
    """Return the frames that the split files hold, by index."""
    files = [
        out / f"{split}.xyz" for split in dict.fromkeys(entry[0] for entry in PLAN)
    ]
    frames = [frame for path in files if path.exists() for frame in read(path, ":")]
    return {int(frame.info["index"]): frame for frame in frames}


def _numeric_force(frame: Atoms, component: int, step: float = 0.004) -> float:
    """Return one force component from a four-point difference of energies."""
    total = 0.0
    for shift, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        moved = frame.copy()
        moved.positions.flat[component] += shift * step
        total += weight * energy(moved)
    return -total / (12 * step)


if __name__ == "__main__":
    main()

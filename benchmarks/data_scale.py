"""Memory and time of training and evaluation against the number of frames.

    python benchmarks/data_scale.py --frames 1000000 -o /tmp/scale
    python benchmarks/data_scale.py --frames 2000 20000 -o /tmp/scale

Synthetic frames of one to four water molecules are written, stored, trained on for an
epoch with a tiny model, and evaluated. Each command runs in a process of its own; its
peak is that of the memory that is its own (RssAnon of Linux): pages of the mapped
store are the system's cache. A million frames take 1 GB of disk for the text, about
as much for the store, and hours, most of them in the parsing of text.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "cutoff": 4.0,
    "d_pet": 8,
    "d_head": 8,
    "d_node": 16,
    "d_feedforward": 8,
    "num_heads": 2,
    "num_attention_layers": 1,
}
WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
# Prints the peak of the memory that is the process's own. Mapped files count as
# resident, too, but the system takes their pages back when it needs them.
RUN = """
import json, sys, threading, time

def read_memory():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], read_memory())
        time.sleep(0.01)

from pet_calc.cli.main import cli
peak = [read_memory()]
threading.Thread(target=watch, daemon=True).start()
cli(sys.argv[1:], standalone_mode=False)
print(json.dumps(peak[0]))
"""


def main():
    arguments = parse_arguments()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    base = write_base(folder / "base.ckpt")
    print("| frames | text MB | command | seconds | frames/s | peak memory MB |")
    print("|---|---|---|---|---|---|")
    for n_frames in arguments.frames:
        data = write_frames(folder / f"frames{n_frames}.xyz", n_frames)
        size = data.stat().st_size / 1e6
        run = folder / f"run{n_frames}"
        train = [
            *("finetune", data, "--base", base, "-o", run, "--overwrite"),
            *("--val", f"{data}@:200", "--epochs", 1, "--batch-size", 64),
            *("--rank", 2, "--num-workers", arguments.workers),
        ]
        stores = ["--store", folder / "stores"]
        evaluate = ["eval", base, data, "-o", folder / "predicted.xyz"]
        commands = {
            "train, store written": [*train, *stores],
            "train, store reused": [*train, *stores],
            "eval": evaluate,
        }
        if arguments.in_memory:
            commands["train, in memory"] = [*train, "--store", "memory"]
        for name, command in commands.items():
            seconds, peak = measure(*command, "--device", "cpu", "--quiet")
            print(
                f"| {n_frames} | {size:.0f} | {name} | {seconds:.0f} | "
                f"{n_frames / seconds:.0f} | {peak:.0f} |",
                flush=True,
            )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1_000_000])
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1)
    )
    parser.add_argument("--in-memory", action="store_true", help="compare with a list")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def write_base(path):
    torch.manual_seed(0)
    model = PET(PETHypers(**TINY), [1, 8], [TargetSpec.for_energy()])
    save_checkpoint(path, Checkpoint.from_model(model))
    return path


def write_frames(path, n_frames):
    """Water clusters with forces of springs; kept if the file is there."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    rest = [
        (WATER + 3.0 * np.arange(n)[:, None, None] * [[[1, 0, 0]]]).reshape(-1, 3)
        for n in range(1, 5)
    ]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        for _ in range(n_frames):
            at_rest = rest[rng.integers(4)]
            moved = 0.1 * rng.standard_normal(at_rest.shape)
            moved -= moved.mean(axis=0)
            rows = np.concatenate([at_rest + moved, -moved], axis=1)
            lines = [
                symbol + " %.5f" * 6 % tuple(row) + "\n"
                for symbol, row in zip("OHH" * 4, rows, strict=False)
            ]
            file.write(
                f"{len(rows)}\nProperties=species:S:1:pos:R:3:forces:R:3 "
                f'pbc="F F F" energy={0.5 * (moved**2).sum():.6f}\n' + "".join(lines)
            )
    temporary.replace(path)
    return path


def measure(*command):
    """Return seconds and peak memory (MB) of a command."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-3000:])
    return time.monotonic() - started, json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

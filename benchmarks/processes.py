"""Frames per second of ``eval`` and ``finetune`` against the number of processes.

    python benchmarks/processes.py --processes 1 2
    python benchmarks/processes.py --processes 1 2 4 --base pet-mad-s --frames f.xyz

Processes are torchrun's, with one thread each; for comparison one process with as many
threads. Start-up is left out: evaluation is timed on two files, of which one has more
frames, and training from the end of its first epoch on. Settings take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
from single_point import read_processor

FRAMES = Path(__file__).resolve().parents[1] / "data" / "excerpts" / "base_train.xyz"
PREFIX = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
PET_CALC = ["-m", "pet_calc.cli.main"]
N_EPOCHS = 4


def main():
    arguments = parse_arguments()
    counts = arguments.processes
    settings = [(n, 1) for n in counts] + [(1, n) for n in counts if n > 1]
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as folder:
        frames = ase.io.read(arguments.frames, ":")
        files = write_copies(frames, Path(folder), arguments.copies)
        n_more = arguments.copies * len(frames)
        rates = {(task, s): [] for task in ("eval", "finetune") for s in settings}
        for _ in range(arguments.rounds):
            for setting in settings:
                seconds = time_evaluation(arguments.base, files, setting)
                rates["eval", setting].append(n_more / seconds)
                seconds = time_training(arguments, Path(folder), setting)
                rates["finetune", setting].append(len(frames) / seconds)
    print(f"{arguments.base}, {arguments.frames.name}, {read_processor()}\n")
    print("| command | processes | threads each | frames per s | times one |")
    print("|---|---|---|---|---|")
    for (task, (n_processes, n_threads)), values in rates.items():
        rate = statistics.median(values)
        growth = rate / statistics.median(rates[task, settings[0]])
        print(f"| {task} | {n_processes} | {n_threads} | {rate:.0f} | {growth:.2f} |")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="pet-gfn1-xs", help="checkpoint or its name")
    parser.add_argument("--frames", type=Path, default=FRAMES, help="labelled ones")
    parser.add_argument("--copies", type=int, default=10, help="of them, to evaluate")
    parser.add_argument("--method", default="lora", help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def write_copies(frames, folder, n_copies):
    """Return two files: with the frames twice, and with them so many times more."""
    files = folder / "short.xyz", folder / "long.xyz"
    for file, n_times in zip(files, (2, 2 + n_copies), strict=True):
        for _ in range(n_times):
            ase.io.write(file, frames, append=True, format="extxyz")
    return files


def time_evaluation(base, files, setting):
    """Return by how many seconds the second file takes longer than the first."""
    seconds = []
    for file in files:
        output = file.with_suffix(".out.xyz")
        output.unlink(missing_ok=True)
        started = time.perf_counter()
        run("eval", base, file, "-o", output, "--compile", "yes", setting=setting)
        seconds.append(time.perf_counter() - started)
    return seconds[1] - seconds[0]


def time_training(arguments, folder, setting):
    """Return the seconds of an epoch after the first, validation included."""
    output = folder / "run"
    words = ["finetune", arguments.frames, "--val", f"{arguments.frames}@::10"]
    words += ["--base", arguments.base, "-o", output, "--overwrite"]
    words += ["--method", arguments.method, "--batch-size", arguments.batch_size]
    words += ["--epochs", N_EPOCHS, "--compile", "yes"]
    run(*words, setting=setting)
    lines = (output / "log.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    return (seconds[-1] - seconds[-N_EPOCHS]) / (N_EPOCHS - 1)


def run(*words, setting):
    n_processes, n_threads = setting
    prefix = [*PREFIX, str(n_processes)] if n_processes > 1 else []
    command = [sys.executable, *prefix, *PET_CALC, *map(str, words)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-3000:])


if __name__ == "__main__":
    main()

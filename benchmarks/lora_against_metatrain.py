"""Fine-tune one base with LoRA in pet-calc and in metatrain, with the same options.

    python benchmarks/lora_against_metatrain.py --data ../shared/data -o /tmp/lora

A base is trained briefly by pet-calc, on a few frames of both data sets, and written
for metatrain by ``pet-calc convert``. Then each program runs the same options file.
All errors are measured by ``pet-calc eval`` on the same validation frames. Needs
metatrain (the dev extra) and the public data sets.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import yaml
from finetune_table import write_labelled

BASE_MODEL = {
    "cutoff": 5.0,
    "d_pet": 48,
    "d_head": 48,
    "d_node": 96,
    "d_feedforward": 96,
    "num_heads": 4,
    "num_gnn_layers": 2,
    "num_attention_layers": 1,
}
# training frames, validation frames
DATA_SETS = {
    "Li3PS4": (
        ["Li3PS4-sample_train.xyz@:"],
        ["Li3PS4-sample_val.xyz@:", "Li3PS4-sample_test.xyz@:"],
    ),
    "acac": (["acac_train_300K.xyz@:160"], ["acac_train_300K.xyz@400:500"]),
}
BASE_FRAMES = ("Li3PS4-sample_train.xyz@0:20", "acac_train_300K.xyz@0:40")


def main():
    arguments = parse_arguments()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    base = train_base(arguments, folder)
    rows = []
    for name, (train, validation) in DATA_SETS.items():
        if arguments.only and name != arguments.only:
            continue
        rows += compare(arguments, folder / name, base, name, train, validation)
    print(
        "\n| data | program | steps | energy MAE meV/atom | force MAE meV/Å | time s |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row) + " |")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", choices=list(DATA_SETS))
    parser.add_argument("--base-epochs", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    return parser.parse_args()


def train_base(arguments, folder):
    """Train the base, once; return the path of its checkpoint."""
    path = folder / "base" / "best_model_base.ckpt"
    if not path.exists():
        write_labelled(folder / "base.xyz", read(arguments.data, BASE_FRAMES))
        options = build_options(folder / "base.xyz", 0.1, arguments.base_epochs, 2e-3)
        options["architecture"]["model"] = BASE_MODEL
        (folder / "base.yaml").write_text(yaml.safe_dump(options))
        words = ["-o", folder / "base", "--overwrite", "--quiet"]
        run("train", folder / "base.yaml", *words)
    run("convert", path, "--to", "metatrain", "-o", folder / "base_metatrain.ckpt")
    return path


def compare(arguments, folder, base, name, train, validation):
    """Run both programs on one data set; return the rows of the table."""
    folder.mkdir(exist_ok=True)
    write_labelled(folder / "train.xyz", read(arguments.data, train))
    write_labelled(folder / "val.xyz", read(arguments.data, validation))
    options = build_options("train.xyz", "val.xyz", arguments.epochs, arguments.rate)
    finetune = {
        "method": "lora",
        "read_from": str((folder.parent / "base_metatrain.ckpt").resolve()),
        "config": {"rank": arguments.rank, "alpha": 2.0 * arguments.rank},
    }
    options["architecture"]["training"]["finetune"] = finetune
    (folder / "options.yaml").write_text(yaml.safe_dump(options))
    rows = [[name, "zero-step", 0, *measure(base, folder), ""]]

    started = time.monotonic()
    run("train", "options.yaml", "-o", "ours", "--overwrite", "--quiet", cwd=folder)
    seconds = round(time.monotonic() - started)
    report = json.loads((folder / "ours" / "report.json").read_text())
    ours = measure(folder / "ours" / "best_model_options.ckpt", folder)
    rows.append([name, "pet-calc", report["n_steps"], *ours, seconds])

    started = time.monotonic()
    mtt = Path(sys.executable).with_name("mtt")
    with (folder / "metatrain.log").open("w") as log:
        subprocess.run(
            [mtt, "train", "options.yaml", "-o", "theirs.pt"],
            cwd=folder,
            check=True,
            stdout=log,
            stderr=log,
        )
    seconds = round(time.monotonic() - started)
    theirs = measure(folder / "theirs.ckpt", folder)
    rows.append([name, "metatrain", report["n_steps"], *theirs, seconds])
    return rows


def build_options(train, validation, epochs, rate):
    """Return options that both programs take."""

    def build_set(path):
        target = {"key": "ref_energy", "unit": "eV", "forces": {"key": "ref_forces"}}
        systems = {"read_from": str(path), "length_unit": "angstrom"}
        return {"systems": systems, "targets": {"energy": target}}

    is_fraction = isinstance(validation, float)
    return {
        "seed": 0,
        "device": "cpu",
        "architecture": {
            "name": "pet",
            "training": {
                "num_epochs": epochs,
                "batch_size": 4,
                "learning_rate": rate,
                "warmup_fraction": 0.05,
            },
        },
        "training_set": build_set(train),
        "validation_set": validation if is_fraction else build_set(validation),
        "test_set": 0.0,
    }


def read(folder, names):
    frames = []
    for file, index in (name.split("@") for name in names):
        frames += ase.io.read(folder / file, index)
    return frames


def measure(checkpoint, folder):
    """Return energy and force MAE (meV) on the validation frames."""
    file = folder / "errors.json"
    run(
        "eval",
        checkpoint,
        folder / "val.xyz",
        "--quiet",
        "--energy-key",
        "ref_energy",
        "--forces-key",
        "ref_forces",
        "--json",
        file,
    )
    errors = json.loads(file.read_text())
    return [
        f"{1000 * errors['energy_mae']:.2f}",
        f"{1000 * errors['forces_mae']:.1f}",
    ]


def run(*words, cwd=None):
    command = [Path(sys.executable).with_name("pet-calc"), *map(str, words)]
    subprocess.run(command, check=True, cwd=cwd, env=os.environ)


if __name__ == "__main__":
    main()

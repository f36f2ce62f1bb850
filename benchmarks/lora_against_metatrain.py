"""Fine-tune one base in pet-calc and in metatrain, with the same options.

    python benchmarks/lora_against_metatrain.py --data ../shared/data -o /tmp/lora

A base is trained briefly by pet-calc, on a few frames of both data sets, and written
for metatrain by ``pet-calc convert``. Then each program trains LoRA and all weights
from one options file, with the same steps and the same weights of energy and forces.
metatrain starts LoRA from random A and B, so that its step 0 is not the base: it has a
row of its own, of a training with a learning rate of nothing. All weights train at a
rate of their own (``--full-rate``, metatrain's default). All errors are measured by
``pet-calc eval`` on the same validation frames. Rows that are done are not run again.
Needs metatrain (the dev extra) and the public data sets.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import yaml
from finetune_table import LAYERS, make_slug, write_labelled

from pet_calc.checkpoint.open import load_record

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
BATCH_SIZE = 4
BASE_FRAMES = ("Li3PS4-sample_train.xyz@0:20", "acac_train_300K.xyz@0:40")


# as in metatrain: the weight of energies does not rise, Adam is PyTorch's; the best
# epoch is by squares, as when the table was made
CONSTANT = (
    *("--set", "training.energy_warmup=0"),
    *("--set", "training.adam_beta2=0.999"),
    *("--set", "training.best_model_metric=loss"),
)
# as in an options file; of both programs
LOSS_WEIGHTS = {"energy": 10.0, "forces": 1.0}
STEP_0 = {"num_epochs": 1, "learning_rate": 1e-300}
# program, method, and what else stands under `training`
ROWS = {
    "base": ("none", "", {}),
    "pet-calc, LoRA": ("pet-calc", "lora", {}),
    "pet-calc, all weights": ("pet-calc", "full", {}),
    "metatrain, LoRA, step 0": ("metatrain", "lora", STEP_0),
    "metatrain, LoRA": ("metatrain", "lora", {}),
    "metatrain, all weights": ("metatrain", "full", {}),
}


def main():
    arguments = parse_arguments()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    base = train_base(arguments, folder)
    print("| data | run | steps | energy MAE meV/atom | force MAE meV/Å | time s |")
    print("|---|---|---|---|---|---|")
    for data, (train, validation) in DATA_SETS.items():
        if arguments.only and data != arguments.only:
            continue
        (folder / data).mkdir(exist_ok=True)
        write_labelled(folder / data / "train.xyz", read(arguments.data, train))
        write_labelled(folder / data / "val.xyz", read(arguments.data, validation))
        for name in arguments.rows or ROWS:
            file = folder / data / make_slug(name) / "row.json"
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                cells = run_row(arguments, folder / data, name, base)
                file.write_text(json.dumps(cells))
            cells = [data, name, *json.loads(file.read_text())]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", choices=list(DATA_SETS))
    parser.add_argument("--base-epochs", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3, help="of LoRA")
    parser.add_argument("--full-rate", type=float, default=1e-4, help="of all weights")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    return parser.parse_args()


def train_base(arguments, folder):
    """Train the base, once; return the path of its checkpoint."""
    path = folder / "base" / "best_model_base.ckpt"
    if not path.exists():
        write_labelled(folder / "base.xyz", read(arguments.data, BASE_FRAMES))
        options = build_options(folder / "base.xyz", 0.1, arguments.base_epochs, 2e-3)
        options["architecture"]["model"] = BASE_MODEL
        (folder / "base.yaml").write_text(yaml.safe_dump(options))
        words = ["-o", folder / "base", "--overwrite", "--quiet", *CONSTANT]
        run("train", folder / "base.yaml", *words)
    run("convert", path, "--to", "metatrain", "-o", folder / "base_metatrain.ckpt")
    return path


def run_row(arguments, folder, name, base):
    """Train and measure; return steps, errors and time."""
    program, method, others = ROWS[name]
    own = folder / make_slug(name)
    n_frames = len(ase.io.read(folder / "train.xyz", ":"))
    if program == "none":
        return [0, *measure(base, folder), ""]
    rate = arguments.full_rate if method == "full" else arguments.rate
    paths = [str((folder / f"{part}.xyz").resolve()) for part in ("train", "val")]
    theirs = (folder.parent / "base_metatrain.ckpt").resolve()
    level = load_record(theirs).targets["energy"].description
    options = build_options(*paths, arguments.epochs, rate, level)
    config = {}
    if method == "lora":
        config = {"rank": arguments.rank, "alpha": 2.0 * arguments.rank}
    finetune = {"method": method, "read_from": str(theirs), "config": config}
    options["architecture"]["training"] |= {"finetune": finetune, **others}
    (own / "options.yaml").write_text(yaml.safe_dump(options))
    started = time.monotonic()
    if program == "pet-calc":
        words = ["-o", "run", "--overwrite", "--quiet", *CONSTANT]
        if method == "lora":
            words += ["--set", "training.finetune.head_mode=freeze"]
            words += [
                "--set",
                f"training.finetune.config.target_modules={list(LAYERS)}",
            ]
        run("train", "options.yaml", *words, cwd=own)
        model = own / "run" / "best_model_options.ckpt"
    else:
        mtt = Path(sys.executable).with_name("mtt")
        with (own / "metatrain.log").open("w") as log:
            subprocess.run(
                [mtt, "train", "options.yaml", "-o", "model.pt"],
                cwd=own,
                check=True,
                stdout=log,
                stderr=log,
            )
        model = own / "model.ckpt"
    seconds = round(time.monotonic() - started)
    if others:
        return [0, *measure(model, folder), ""]
    n_steps = arguments.epochs * math.ceil(n_frames / BATCH_SIZE)
    return [n_steps, *measure(model, folder), seconds]


def build_options(train, validation, epochs, rate, level=""):
    """Return options that both programs take.

    ``level`` is the base's description of its energy: metatrain takes no other.
    """

    def build_set(path):
        target = {"key": "ref_energy", "unit": "eV", "forces": {"key": "ref_forces"}}
        if level:
            target["description"] = level
        systems = {"read_from": str(path), "length_unit": "angstrom"}
        return {"systems": systems, "targets": {"energy": target}}

    loss = {
        "type": "mse",
        "weight": LOSS_WEIGHTS["energy"],
        "forces": {"type": "mse", "weight": LOSS_WEIGHTS["forces"]},
    }
    is_fraction = isinstance(validation, float)
    return {
        "seed": 0,
        "device": "cpu",
        "architecture": {
            "name": "pet",
            "training": {
                "num_epochs": epochs,
                "batch_size": BATCH_SIZE,
                "learning_rate": rate,
                "warmup_fraction": 0.05,
                "loss": {"energy": loss},
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

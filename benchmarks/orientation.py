"""What fine-tuning learns of orientation: pet-calc and metatrain on one base and set.

    python benchmarks/orientation.py --data ../shared/data --set Si -o /tmp/orientation
    python benchmarks/orientation.py --data data/dft --set glycol -o /tmp/orientation

Rows, each with the same number of steps of the same cost, and with the same weights of
energy and forces: the base with new energies per element; LoRA on all linear layers
without augmentation, with it, with consistency between two orientations, and with
frames that the base has labelled, averaged over orientations (self-distillation); all
weights; and metatrain's LoRA and full fine-tuning as they come, at metatrain's own
learning rate. Errors are those of ``pet-calc eval --orientations 4`` on the test
frames, turned at random and as in the file; the spread is the standard deviation over
these orientations. Rows that are done are not run again. Needs metatrain (the dev
extra) and the public data sets.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import yaml
from finetune_table import SETS, make_slug, write_labelled

from pet_calc.checkpoint.open import load_record

N_ORIENTATIONS = 4
BASES = {"Si": "pet-sevennet-xs", "Li3PS4": "pet-sevennet-xs"}
ALL_LAYERS = ["input_linear", "output_linear", "mlp", "compress", "center"]
LORA = {
    "method": "lora",
    "config": {"rank": 8, "alpha": 16.0, "target_modules": ALL_LAYERS},
    "head_mode": "freeze",
}
ENERGY_WEIGHT = 10.0
# name: fine-tuning, and what else stands under `training`
OURS = {
    "base": ({"method": "heads"}, {"num_epochs": 1, "learning_rate": 1e-300}),
    "LoRA, no augmentation": (LORA, {"augmentation": "none"}),
    "LoRA": (LORA, {}),
    "LoRA, consistency": (LORA, {"consistency": 2.0}),
    "LoRA, distilled": (LORA, {"replay": {"generate": 200}}),
    "full": ({"method": "full"}, {}),
}
THEIRS = {
    "metatrain LoRA": {"method": "lora", "config": {"rank": 8, "alpha": 16.0}},
    "metatrain full": {"method": "full", "config": {}},
}
COLUMNS = (
    "training",
    "energy, turned",
    "as in file",
    "forces, turned",
    "as in file",
    "spread: energy",
    "forces",
    "time s",
)


def main():
    arguments = parse_arguments()
    folder = arguments.output / arguments.set
    folder.mkdir(parents=True, exist_ok=True)
    base = BASES.get(arguments.set, "pet-gfn1-xs")
    for name, index in zip(("train", "val", "test"), SETS[arguments.set], strict=True):
        write_part(arguments.data / index, folder / f"{name}.xyz")
    print(
        f"{arguments.set}, base {base}, {arguments.steps} steps of "
        f"{arguments.batch_size} frames; meV/atom and meV/Å\n"
    )
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    for name in (*OURS, *THEIRS):
        if arguments.only and name not in arguments.only:
            continue
        file = folder / make_slug(name) / "row.json"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            row = run_row(arguments, folder, name, base)
            file.write_text(json.dumps(row))
        print(format_row(name, json.loads(file.read_text())), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--set", choices=list(SETS), required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="ROW")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def write_part(name, path):
    """Write the frames with labels under names that ASE leaves alone."""
    if path.exists():
        return
    file, _, index = str(name).rpartition("@")
    write_labelled(path, ase.io.read(file, index))


def run_row(arguments, folder, name, base):
    """Train and measure; return errors and time."""
    own = folder / make_slug(name)
    options = build_options(arguments, folder, name, base)
    (own / "options.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    started = time.monotonic()
    with (own / "log.txt").open("w") as log:
        if name in OURS:
            words = ["pet-calc", "train", "options.yaml", "-o", "run", "--quiet"]
            run([*words, "--overwrite"], own, log)
            model = own / "run" / "best_model_options.ckpt"
        else:
            run(["mtt", "train", "options.yaml", "-o", "model.pt"], own, log)
            model = own / "model.ckpt"
    seconds = time.monotonic() - started
    words = ["pet-calc", "eval", model, folder / "test.xyz", "--quiet"]
    words += ["--energy-key", "ref_energy", "--forces-key", "ref_forces"]
    words += ["--orientations", N_ORIENTATIONS, "--json", own / "errors.json"]
    with (own / "eval.txt").open("w") as log:
        run(words, own, log)
    return {**json.loads((own / "errors.json").read_text()), "seconds": seconds}


def build_options(arguments, folder, name, base):
    n_train = len(ase.io.read(folder / "train.xyz", ":"))
    n_epochs = max(
        1, round(arguments.steps / math.ceil(n_train / arguments.batch_size))
    )
    theirs = folder / "base.ckpt"
    training = {"num_epochs": n_epochs, "batch_size": arguments.batch_size}
    if name in OURS:
        finetune, others = OURS[name]
        training |= {"finetune": {**finetune, "read_from": base}, **others}
        training["best_model_metric"] = "loss"
        # as in metatrain: the weight of energies does not rise, Adam is PyTorch's
        training |= {"energy_warmup": 0.0, "adam_beta2": 0.999}
        if training.get("consistency"):
            # a pass shows each frame twice
            training["num_epochs"] = max(1, n_epochs // 2)
    else:
        if not theirs.exists():
            # with the new energies per element, which metatrain does not fit
            shifted = folder / "base" / "run" / "best_model_options.ckpt"
            words = ["pet-calc", "convert", shifted, "--to", "metatrain", "-o", theirs]
            run(words, folder, subprocess.DEVNULL)
        read_from = str(theirs.resolve())
        training["finetune"] = {**THEIRS[name], "read_from": read_from}
    term = {"type": "mse", "weight": ENERGY_WEIGHT}
    training["loss"] = {"energy": {**term, "forces": {"type": "mse", "weight": 1.0}}}

    def build_set(part):
        target = {"key": "ref_energy", "unit": "eV", "forces": {"key": "ref_forces"}}
        if name in THEIRS:
            # metatrain takes no other description than that of the base
            target["description"] = load_record(theirs).targets["energy"].description
        path = str((folder / f"{part}.xyz").resolve())
        systems = {"read_from": path, "length_unit": "angstrom"}
        return {"systems": systems, "targets": {"energy": target}}

    return {
        "seed": arguments.seed,
        "device": "cpu",
        "architecture": {"name": "pet", "training": training},
        "training_set": build_set("train"),
        "validation_set": build_set("val"),
        "test_set": 0.0,
    }


def run(words, folder, log):
    program = Path(sys.executable).with_name(words[0])
    command = [str(word) for word in (program, *words[1:])]
    done = subprocess.run(command, cwd=folder, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed, see the log in {folder}")


def format_row(name, row):
    def show(key, digits):
        return f"{1000 * row[key]:.{digits}f}"

    cells = [
        name,
        show("energy_mae", 2),
        show("as_in_file.energy_mae", 2),
        show("forces_mae", 1),
        show("as_in_file.forces_mae", 1),
        show("spread.energy", 2),
        show("spread.forces", 1),
        f"{row['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

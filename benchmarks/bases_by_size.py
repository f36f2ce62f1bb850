"""Train bases of three sizes on the same frames, with the same steps.

    python benchmarks/bases_by_size.py --data bases/build -o /tmp/bases
    python benchmarks/recipe.py size --base /tmp/bases/128/best_model_base_128.ckpt \
        --sets aspirin-50 acac-50 glycol ethanol-20 --data ../shared/data -o /tmp/recipe

The published proportions at three widths; 3,330 steps of 8 frames, so these are no good
bases: they show whether a rule holds for more than one size. ``--data`` is what
``bases/base_molecules.py`` leaves. Sizes that are done are not trained again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

WIDTHS = (32, 64, 128)
N_EPOCHS, EVERY = 6, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the frames")
    parser.add_argument("--widths", nargs="*", type=int, default=list(WIDTHS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    for width in arguments.widths:
        folder = arguments.output / str(width)
        if (folder / "report.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        options = folder.parent / f"base_{width}.yaml"
        text = yaml.safe_dump(build_options(arguments.data, width), sort_keys=False)
        options.write_text(text)
        program = Path(sys.executable).with_name("pet-calc")
        words = ["train", options, "-o", folder, "--overwrite"]
        subprocess.run([program, *map(str, words)], check=True)


def build_options(data, width):
    """Return an options file as data."""

    def build_set(name):
        path = str((data / name).resolve())
        target = {"key": "energy", "unit": "eV", "forces": True, "stress": True}
        return {"systems": {"read_from": path}, "targets": {"energy": target}}

    return {
        "seed": 1,
        "device": "cpu",
        "architecture": {
            "name": "pet",
            "model": {
                "cutoff": 5.0,
                "d_pet": width,
                "d_head": width,
                "d_node": 4 * width,
                "d_feedforward": 2 * width,
                "num_heads": 4,
                "num_gnn_layers": 2,
                "num_attention_layers": 1,
            },
            "training": {
                "num_epochs": N_EPOCHS,
                "batch_size": 8,
                "optimizer": "muon",
                "learning_rate": 1e-3,
                "loss": {"energy": {"weight": 1.0}},
            },
        },
        "training_set": build_set(f"base_train.xyz@::{EVERY}"),
        "validation_set": build_set("base_val.xyz@::4"),
        "test_set": build_set("base_test.xyz@::4"),
    }


if __name__ == "__main__":
    main()

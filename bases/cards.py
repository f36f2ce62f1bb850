"""What the cards of the bundled models have in common: files, errors, rotation."""

import csv
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from ase.io import read

from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.data.frames import read_frames
from pet_calc.evaluate.predict import BatchPredictor, Errors

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "bases" / "build"
ASSETS = ROOT / "pet_calc" / "assets"
N_ROTATIONS = 20
N_ROTATED = 40
MOST_RATIO = 1.5  # of the validation's to the training's loss, without overfitting


def bundle(checkpoint, name, description, stages):
    """Write NAME.ckpt without training state, and options and log of each stage.

    Args:
        checkpoint: path of the trained model.
        name: of the bundled model.
        description: goes into its metadata.
        stages: (suffix of the file names, options file, folder of the run).

    Returns:
        Path and record of the bundled checkpoint.
    """
    record = load_checkpoint(checkpoint)
    record.metadata["name"] = name
    record.metadata["description"] = description
    path = ASSETS / f"{name}.ckpt"
    save_checkpoint(path, record)
    for suffix, options, folder in stages:
        shutil.copy(options, ASSETS / f"{name}{suffix}.yaml")
        shutil.copy(folder / "log.csv", ASSETS / f"{name}{suffix}.csv")
    return path, record


def format_errors(path, test_file, *, has_stress):
    """Return a table of the errors by ``info["group"]`` and in all, as markdown."""
    model = load_merged_model(path)
    frames = read_frames(str(test_file))
    groups = defaultdict(list)
    for frame, atoms in zip(frames, read(test_file, ":"), strict=True):
        groups[atoms.info["group"]].append(frame)
    columns = {
        "energy MAE meV/atom": ("energy_mae", ".1f"),
        "force MAE meV/Å": ("forces_mae", ".0f"),
        "force RMSE meV/Å": ("forces_rmse", ".0f"),
    }
    if has_stress:
        columns["stress MAE meV/Å^3"] = ("stress_mae", ".1f")
    lines = [["group", "structures", *columns], ["---"] * (2 + len(columns))]
    for name, part in [*sorted(groups.items()), ("all", frames)]:
        values = measure(model, part, 1).judged.to_dict()
        numbers = [format(1000 * values[key], form) for key, form in columns.values()]
        lines.append([name, str(len(part)), *numbers])
    return format_table(lines)


def format_table(lines):
    """Return rows of texts as markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe_limit(name, epoch):
    """Return what the losses at the end of the second stage say about more training."""
    with (ASSETS / f"{name}.stage2.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if int(row["epoch"]) == epoch)
    train, val = float(row["train_loss"]), float(row["val_loss"])
    if val > MOST_RATIO * train:
        advice = "more systems would help, more epochs would not"
    else:
        advice = "more epochs or a larger network would help"
    return (
        f"The loss at the end is {train:.4f} on the training set and {val:.4f} on\n"
        f"held-out systems: {advice}."
    )


def measure_equivariance(path, frames):
    """Return the spread of energy (meV/atom) and of force components (meV/Å).

    Over random orientations of some of the frames, cells included, in float64.
    """
    model = load_merged_model(path, dtype=torch.float64)
    step = max(1, len(frames) // N_ROTATED)
    errors = measure(model, frames[::step][:N_ROTATED], N_ROTATIONS)
    spread = errors.spread.to_dict()
    return 1000 * spread["energy"], 1000 * spread["forces"]


def measure(model, frames, n_orientations):
    """Return the errors of frames in random orientations, and their spread."""
    errors = Errors()
    predictor = BatchPredictor(model, "energy", n_orientations=n_orientations)
    for batch in predictor.predict(frames):
        errors.merge(batch.errors)
    return errors

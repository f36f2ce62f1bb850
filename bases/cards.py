"""What the cards of the bundled models have in common: files, errors, rotation."""

import csv
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from ase.data import chemical_symbols
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


def write_card(name, text):
    """Write the card and print it."""
    (ASSETS / f"{name}.md").write_text(text)
    print(text)


def describe_model(name, record, script, *, what, origin):
    """Return the head of a card: size, origin and training of a model.

    Args:
        name: of the model.
        record: its checkpoint.
        script: that writes the card.
        what: the model is, such as "A small PET for water".
        origin: whose distillation it is.
    """
    model = record.build_model()
    n_parameters = sum(p.numel() for p in model.parameters())
    n_frames = record.metadata["provenance"]["n_frames"]["train"]
    elements = ", ".join(chemical_symbols[z] for z in record.atomic_types)
    return f"""# {name}

{what}: {n_parameters:,} parameters, cutoff {model.hypers.cutoff} Å,
{model.hypers.num_gnn_layers} message-passing layers, interaction range
{model.interaction_range} Å. It is a **distillation of {origin}**,
meant as a starting point for fine-tuning and for trying pet-calc;
it is no replacement for the published models.

Elements: {elements}.

Trained by `pet-calc train` in two stages (options and logs are beside this card) on
{n_frames} frames, described in `bases/README.md`, each turned at random in every step;
the weights are those of epoch {record.metadata["epoch"]} of the second stage, which
pulls two orientations of each frame together. This card is written by
`bases/{script}`."""


def describe_errors(name, path, test_file, epoch, *, has_stress):
    """Return the errors of a card, and what the last losses say of more training."""
    return f"""## Errors on held-out systems

{format_errors(path, test_file, has_stress=has_stress)}

Each frame stands in a random orientation.

{describe_limit(name, epoch)}"""


def describe_rotation(path, frames):
    """Return the spread over random orientations of some frames, in float64."""
    model = load_merged_model(path, dtype=torch.float64)
    step = max(1, len(frames) // N_ROTATED)
    picked = frames[::step][:N_ROTATED]
    spread = measure(model, picked, N_ROTATIONS).spread.to_dict()
    return f"""## Rotation

PET is not exactly invariant. Over {N_ROTATIONS} random rotations of {len(picked)}
test frames the energy spreads by {1000 * spread["energy"]:.2f} meV/atom and a force
component by {1000 * spread["forces"]:.1f} meV/Å (standard deviations, mean over
frames)."""


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
    lines = [["group", "frames", *columns], ["---"] * (2 + len(columns))]
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


def measure(model, frames, n_orientations):
    """Return the errors of frames in random orientations, and their spread."""
    errors = Errors()
    predictor = BatchPredictor(model, "energy", n_orientations=n_orientations)
    for batch in predictor.predict(frames):
        errors.merge(batch.errors)
    return errors

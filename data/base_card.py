"""Measure the bundled base model and write its card.

    .venv/bin/python data/base_card.py data/build/base2/best_model_base_stage2.ckpt

Needs data/build (see data/README.md) with what base_dynamics.py found. Writes
pet-gfn1-xs.ckpt, .md, .yaml and .csv into pet_calc/assets: the weights without training
state, the card, and options and log of both stages.
"""

import argparse
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.io import read
from base_dynamics import BROKEN, RESULT, TIMESTEP_FS, format_table
from scipy.spatial.transform import Rotation

from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.evaluate.loading import load_merged_model
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import predict_frames

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "pet_calc" / "assets"
NAME = "pet-gfn1-xs"
N_ROTATIONS = 20
EQUIVARIANCE_FRAMES = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    record = load_checkpoint(checkpoint)
    record.metadata["name"] = NAME
    record.metadata["description"] = (
        "Small PET for organic molecules of H, C, N, O, F, S, Cl, a distillation of "
        "GFN1-xTB; made by the scripts in data/ of pet-calc."
    )
    path = ASSETS / f"{NAME}.ckpt"
    save_checkpoint(path, record)
    for suffix, options, folder in (
        ("", "base_options", ROOT / "data" / "build" / "base"),
        (".stage2", "base_stage2", checkpoint.parent),
    ):
        shutil.copy(ROOT / "data" / f"{options}.yaml", ASSETS / f"{NAME}{suffix}.yaml")
        shutil.copy(folder / "log.csv", ASSETS / f"{NAME}{suffix}.csv")
    text = write_card(path, record)
    (ASSETS / f"{NAME}.md").write_text(text)
    print(text)


def write_card(path, record):
    model = load_merged_model(path)
    frames = read_frames(str(ROOT / "data" / "build" / "base_test.xyz"))
    groups = [a.info["group"] for a in read(ROOT / "data/build/base_test.xyz", ":")]
    rows = [measure(name, model, part) for name, part in split(frames, groups).items()]
    rows.append(measure("all", model, frames))
    energy_spread, force_spread = measure_equivariance(path, frames)
    elements = ", ".join(chemical_symbols[z] for z in record.atomic_types)
    n_parameters = sum(p.numel() for p in model.parameters())
    provenance = record.metadata["provenance"]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    runs = json.loads(RESULT.read_text())
    dynamics, time_ps = format_table(runs), runs[0]["time_ps"]
    return f"""# {NAME}

A small PET for organic molecules of {elements}: {n_parameters:,} parameters, cutoff
{model.hypers.cutoff} Å, {model.hypers.num_gnn_layers} message-passing layers,
interaction range {model.interaction_range} Å. It is a **distillation of GFN1-xTB**, a
semiempirical method, meant as a starting point for fine-tuning and for trying pet-calc;
it is no replacement for the published models.

Trained by `pet-calc train` in two stages (options and logs are beside this card) on
{provenance["n_frames"]["train"]} structures, described in `data/README.md`; the weights
are those of epoch {record.metadata["epoch"]} of the second stage. This card is written
by `data/base_card.py`.

## Errors on held-out systems

| group | structures | energy MAE meV/atom | force MAE meV/Å | force RMSE meV/Å |
|---|---|---|---|---|
{table}

No molecule, pair or cell of the test set is in the training set.

## Rotation

PET is not exactly invariant. Over {N_ROTATIONS} random rotations of
{EQUIVARIANCE_FRAMES} test molecules the energy spreads by {energy_spread:.2f} meV/atom
and a force component by {force_spread:.1f} meV/Å (standard deviations, mean over
molecules).

## Dynamics of held-out systems

{time_ps:.0f} ps each, {TIMESTEP_FS} fs a step, from minima; no system is in the
training set (`data/base_dynamics.py`). A bond is broken where it was longer than
{BROKEN} sums of covalent radii. NVE: drift in meV/atom/ps. NVT (Langevin): mean
temperature.

{dynamics}

## Not to be trusted

Other elements, ions, radicals, reactions, transition states beyond stretched bonds,
bulk solids with covalent or metallic bonds, pressures above a few GPa, and anything
where GFN1-xTB itself fails.
"""


def split(frames, groups):
    parts = defaultdict(list)
    for frame, group in zip(frames, groups, strict=True):
        parts[group].append(frame)
    return dict(sorted(parts.items()))


def measure(name, model, frames):
    metrics = Metrics()
    for _ in predict_frames(model, frames, "energy", metrics):
        pass
    values = metrics.to_dict()
    return [
        name,
        str(len(frames)),
        f"{1000 * values['energy_mae']:.1f}",
        f"{1000 * values['forces_mae']:.0f}",
        f"{1000 * values['forces_rmse']:.0f}",
    ]


def measure_equivariance(path, frames):
    """Return the spread of energy (meV/atom) and of force components (meV/Å)."""
    model = load_merged_model(path, dtype=torch.float64)
    molecules = [frame for frame in frames if not frame.pbc.any()]
    step = max(1, len(molecules) // EQUIVARIANCE_FRAMES)
    energy_spreads, force_spreads = [], []
    rotations = Rotation.random(N_ROTATIONS, rng=np.random.default_rng(0))
    for frame in molecules[::step][:EQUIVARIANCE_FRAMES]:
        turned = [
            LabeledFrame(
                numbers=frame.numbers,
                positions=rotation.apply(frame.positions),
                cell=frame.cell,
                pbc=frame.pbc,
            )
            for rotation in rotations
        ]
        found = list(predict_frames(model, turned, "energy", Metrics()))
        energy_spreads.append(np.std([f.energy for f in found]) / frame.n_atoms)
        back = [
            rotation.inv().apply(f.forces)
            for rotation, f in zip(rotations, found, strict=True)
        ]
        force_spreads.append(np.sqrt(np.var(back, axis=0).mean()))
    return 1000 * np.mean(energy_spreads), 1000 * np.mean(force_spreads)


if __name__ == "__main__":
    main()

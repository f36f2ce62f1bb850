"""Measure the bundled base model for molecules and write its card.

    .venv/bin/python bases/base_card.py bases/build/base2/best_model_base_stage2.ckpt

Needs bases/build (see bases/README.md) with what base_dynamics.py found. Writes
pet-gfn1-xs.ckpt, .md, .yaml and .csv into pet_calc/assets: the weights without training
state, the card, and options and log of both stages.
"""

import argparse
import json
from pathlib import Path

from ase.data import chemical_symbols
from base_dynamics import BROKEN, RESULT, TIMESTEP_FS
from base_dynamics import format_table as format_dynamics
from cards import (
    ASSETS,
    BUILD,
    N_ROTATED,
    N_ROTATIONS,
    ROOT,
    bundle,
    describe_limit,
    format_errors,
    measure_equivariance,
)

from pet_calc.data.frames import read_frames

NAME = "pet-gfn1-xs"
TEST = BUILD / "base_test.xyz"
DESCRIPTION = (
    "Small PET for organic molecules of H, C, N, O, F, S, Cl, a distillation of "
    "GFN1-xTB; made by the scripts in data/ of pet-calc."
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    stages = (
        ("", ROOT / "bases" / "base_options.yaml", BUILD / "base"),
        (".stage2", ROOT / "bases" / "base_stage2.yaml", checkpoint.parent),
    )
    path, record = bundle(checkpoint, NAME, DESCRIPTION, stages)
    text = write_card(path, record)
    (ASSETS / f"{NAME}.md").write_text(text)
    print(text)


def write_card(path, record):
    errors = format_errors(path, TEST, has_stress=False)
    molecules = [frame for frame in read_frames(str(TEST)) if not frame.pbc.any()]
    energy_spread, force_spread = measure_equivariance(path, molecules)
    elements = ", ".join(chemical_symbols[z] for z in record.atomic_types)
    model = record.build_model()
    n_parameters = sum(p.numel() for p in model.parameters())
    limit = describe_limit(NAME, record.metadata["epoch"])
    provenance = record.metadata["provenance"]
    runs = json.loads(RESULT.read_text())
    time_ps = runs[0]["time_ps"]
    return f"""# {NAME}

A small PET for organic molecules of {elements}: {n_parameters:,} parameters, cutoff
{model.hypers.cutoff} Å, {model.hypers.num_gnn_layers} message-passing layers,
interaction range {model.interaction_range} Å. It is a **distillation of GFN1-xTB**, a
semiempirical method, meant as a starting point for fine-tuning and for trying pet-calc;
it is no replacement for the published models.

Trained by `pet-calc train` in two stages (options and logs are beside this card) on
{provenance["n_frames"]["train"]} structures, described in `bases/README.md`; the
weights are those of epoch {record.metadata["epoch"]} of the second stage. This card is
written by `bases/base_card.py`.

## Errors on held-out systems

{errors}

Each structure stands in a random orientation.

No molecule, pair or cell of the test set is in the training set.

{limit}

## Rotation

PET is not exactly invariant. Over {N_ROTATIONS} random rotations of
{N_ROTATED} test molecules the energy spreads by {energy_spread:.2f} meV/atom
and a force component by {force_spread:.1f} meV/Å (standard deviations, mean over
molecules).

## Dynamics of held-out systems

{time_ps:.0f} ps each, {TIMESTEP_FS} fs a step, from minima; no system is in the
training set (`bases/base_dynamics.py`). A bond is broken where it was longer than
{BROKEN} sums of covalent radii. NVE: drift in meV/atom/ps. NVT (Langevin): mean
temperature.

{format_dynamics(runs)}

## Not to be trusted

Other elements, ions, radicals, reactions, transition states beyond stretched bonds,
bulk solids with covalent or metallic bonds, pressures above a few GPa, and anything
where GFN1-xTB itself fails.
"""


if __name__ == "__main__":
    main()

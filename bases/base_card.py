"""Measure the bundled base model for molecules and write its card.

    .venv/bin/python bases/base_card.py bases/build/base2/best_model_base_stage2.ckpt

Needs bases/build (see bases/README.md) with what base_dynamics.py found. Writes
pet-gfn1-xs.ckpt, .md, .yaml and .csv into pet_calc/assets: the weights without training
state, the card, and options and log of both stages.
"""

import argparse
import json
from pathlib import Path

import cards
from base_dynamics import BROKEN, RESULT, TIMESTEP_FS
from base_dynamics import format_table as format_dynamics

from pet_calc.data.frames import read_frames

NAME = "pet-gfn1-xs"
TEST = cards.BUILD / "base_test.xyz"
DESCRIPTION = (
    "Small PET for organic molecules of H, C, N, O, F, S, Cl, a distillation of "
    "GFN1-xTB; made by the scripts in bases/ of pet-calc."
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    folder = cards.ROOT / "bases"
    stages = (
        ("", folder / "base_options.yaml", cards.BUILD / "base"),
        (".stage2", folder / "base_stage2.yaml", checkpoint.parent),
    )
    path, record = cards.bundle(checkpoint, NAME, DESCRIPTION, stages)
    cards.write_card(NAME, describe(path, record))


def describe(path, record):
    """Return the text of the card."""
    head = cards.describe_model(
        NAME,
        record,
        "base_card.py",
        what="A small PET for organic molecules",
        origin="GFN1-xTB, a semiempirical method",
    )
    errors = cards.describe_errors(
        NAME, path, TEST, record.metadata["epoch"], has_stress=False
    )
    molecules = [frame for frame in read_frames(str(TEST)) if not frame.pbc.any()]
    runs = json.loads(RESULT.read_text())
    return f"""{head}

{errors}

No molecule, pair or cell of the test set is in the training set.

{cards.describe_rotation(path, molecules)}

## Dynamics of held-out systems

{runs[0]["time_ps"]:.0f} ps each, {TIMESTEP_FS} fs a step, from minima; no system is in
the training set (`bases/base_dynamics.py`). A bond is broken where it was longer than
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

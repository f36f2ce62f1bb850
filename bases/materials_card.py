"""Measure the bundled base model for materials and write its card.

    .venv/bin/python bases/materials_card.py CHECKPOINT

CHECKPOINT is bases/build/materials2/best_model_materials_stage2.ckpt. Needs
bases/build/materials (see bases/README.md). Runs held-out crystals, then writes
pet-sevennet-xs.ckpt, .md, .yaml and .csv into pet_calc/assets, as base_card.py does for
molecules.
"""

import argparse
from pathlib import Path

import cards
import numpy as np
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from pet_calc import PETCalculator
from pet_calc.data.frames import read_frames

NAME = "pet-sevennet-xs"
TEST = cards.BUILD / "materials" / "materials_test.xyz"
DESCRIPTION = (
    "Small PET for crystals, surfaces, alloys and melts of about forty elements, a "
    "distillation of SevenNet-0; made by the scripts in bases/ of pet-calc."
)
N_CRYSTALS, FEWEST_ATOMS = 6, 32
TEMPERATURES = (300, 600)
TIME_PS, TIMESTEP_FS, INTERVAL = 2.0, 1.0, 40
LONGEST_MOVE = 1.0  # Å from its site: no longer a crystal


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    checkpoint = parser.parse_args().checkpoint
    folder = cards.ROOT / "bases"
    stages = (
        ("", folder / "materials_options.yaml", cards.BUILD / "materials_base"),
        (".stage2", folder / "materials_stage2.yaml", checkpoint.parent),
    )
    dynamics = run_crystals(checkpoint, choose_crystals(read(TEST, ":")))
    path, record = cards.bundle(checkpoint, NAME, DESCRIPTION, stages)
    cards.write_card(NAME, describe(path, record, dynamics))


def choose_crystals(frames):
    """Return {name: Atoms}: relaxed held-out crystals of many kinds, as supercells."""
    relaxed = {}
    for atoms in frames:
        if atoms.info["group"] == "crystal" and atoms.info["kind"] == "relaxed":
            relaxed.setdefault(atoms.info["system"], atoms)
    names = sorted(relaxed)
    picked = names[:: max(1, len(names) // N_CRYSTALS)][:N_CRYSTALS]
    return {name: enlarge(relaxed[name]) for name in picked}


def enlarge(atoms):
    """Return the cell doubled along its shortest side until there are atoms enough."""
    while len(atoms) < FEWEST_ATOMS:
        times = [1, 1, 1]
        times[int(np.argmin(atoms.cell.lengths()))] = 2
        atoms = atoms.repeat(times)
    return atoms


def run_crystals(checkpoint, crystals):
    """Return a table of NVE runs: drift, and how far an atom has gone."""
    header = ["crystal", "atoms", *(f"NVE from {t} K" for t in TEMPERATURES)]
    lines = [header, ["---"] * len(header)]
    for name, crystal in tqdm(crystals.items(), desc="dynamics", disable=None):
        cells = [run(checkpoint, crystal.copy(), t) for t in TEMPERATURES]
        lines.append([name, str(len(crystal)), *cells])
    return cards.format_table(lines)


def run(checkpoint, atoms, temperature):
    """Return such as ``intact, -0.01``: drift in meV/atom/ps."""
    sites = atoms.positions.copy()
    # from a minimum half of it becomes potential energy
    MaxwellBoltzmannDistribution(
        atoms, temperature_K=2 * temperature, rng=np.random.default_rng(0)
    )
    Stationary(atoms)
    atoms.calc = PETCalculator(checkpoint, compile=True)
    dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    energies, farthest = [], 0.0
    for _ in range(round(1000 * TIME_PS / TIMESTEP_FS / INTERVAL)):
        dynamics.run(INTERVAL)
        energies.append(atoms.get_total_energy() / len(atoms))
        moved = np.linalg.norm(atoms.positions - sites, axis=1).max()
        farthest = max(farthest, float(moved))
    times = np.arange(1, len(energies) + 1) * INTERVAL * TIMESTEP_FS / 1000
    drift = 1000 * np.polyfit(times, energies, 1)[0]
    is_intact = farthest < LONGEST_MOVE
    state = "intact" if is_intact else f"an atom moved {farthest:.1f} Å"
    return f"{state}, {drift:+.3f}"


def describe(path, record, dynamics):
    """Return the text of the card."""
    head = cards.describe_model(
        NAME,
        record,
        "materials_card.py",
        what="A small PET for crystals, surfaces, alloys and melts",
        origin="SevenNet-0, itself a model of PBE energies of crystals",
    )
    errors = cards.describe_errors(
        NAME, path, TEST, record.metadata["epoch"], has_stress=True
    )
    return f"""{head}

{errors}

Against SevenNet-0. No set of elements of the test set is in the training set, nor,
for frames of one element, its structure.

{cards.describe_rotation(path, read_frames(str(TEST)))}

## Dynamics of held-out crystals

{TIME_PS:.0f} ps each, {TIMESTEP_FS} fs a step, from minima of SevenNet-0; drift in
meV/atom/ps.

{dynamics}

## Not to be trusted

Molecules, hydrogen, other elements, magnetic order, oxidation states that the training
set has not, pressures above some ten GPa, defects other than vacancies and
substitutions, phase diagrams, and anything where SevenNet-0 itself fails.
"""


if __name__ == "__main__":
    main()

"""Make three sets that no default was chosen on, for ``recipe.py --sets`` to try.

    pip install tblite
    python benchmarks/unseen_sets.py -o /tmp/unseen
    python benchmarks/recipe.py targets --data /tmp/unseen -o /tmp/recipe \\
        --sets alloy mixture base-pair

alloy: cells of 32 atoms of Ni, Cu, Pd, Pt and Au in random order on a face-centred
lattice, strained and displaced, by ASE's effective medium theory, with stress. mixture:
molecules of 2 to 14 atoms of ASE's G2 set, displaced, by GFN2-xTB. base-pair: adenine
and thymine in molecular dynamics at 400 K, by GFN2-xTB. Each has parts ``train``,
``val`` and ``test``.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2
from ase.data.s22 import create_s22_system
from ase.io import write
from ase.md.langevin import Langevin
from tblite.ase import TBLite

ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}
METALS = {"Ni": 3.52, "Cu": 3.61, "Pd": 3.89, "Pt": 3.92, "Au": 4.08}
# frames for training, validation and testing
SIZES = {
    "alloy": (60, 20, 60),
    "mixture": (100, 25, 100),
    "base-pair": (50, 20, 100),
}


def build_alloy(rng, _):
    """A frame of a random alloy with its labels."""
    symbols = rng.choice(list(METALS), size=32)
    atoms = bulk("Cu", "fcc", a=1.0, cubic=True) * 2
    atoms.symbols = symbols
    lattice = np.mean([METALS[symbol] for symbol in symbols])
    return label(deform(atoms, lattice, 0.08, rng), EMT())


def build_molecule(rng, number):
    """A frame of a displaced molecule with its labels."""
    names = sorted(
        name
        for name in g2.names
        if len(g2[name]) > 1
        and set(g2[name].symbols) <= ELEMENTS
        and not g2[name].get_initial_magnetic_moments().any()
    )
    atoms = molecule(names[number % len(names)])
    atoms.positions += rng.normal(scale=0.07, size=(len(atoms), 3))
    return label(atoms, TBLite(method="GFN2-xTB", verbosity=0))


def deform(atoms, lattice, displacement, rng):
    """Strain a cell by some percent and displace its atoms, Å."""
    strain = rng.normal(scale=0.02, size=(3, 3))
    cell = atoms.cell[:] * lattice @ (np.eye(3) + (strain + strain.T) / 2)
    atoms.set_cell(cell * (1 + rng.normal(scale=0.02)), scale_atoms=True)
    atoms.positions += rng.normal(scale=displacement, size=(len(atoms), 3))
    return atoms


def label(atoms, calculator):
    """Copy with energy, forces and, if periodic, stress; None where it fails."""
    atoms = atoms.copy()
    atoms.calc = calculator
    try:
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
        }
        if atoms.pbc.all():
            results["stress"] = atoms.get_stress()
    except CalculationFailed:
        return None
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def run_base_pair(n_frames, seed):
    """Frames of molecular dynamics of adenine and thymine, in random order."""
    rng = np.random.default_rng(seed)
    atoms = create_s22_system("Adenine-thymine_Watson-Crick_complex")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    dynamics = Langevin(
        atoms,
        units.fs,
        temperature_K=400,
        friction=0.02 / units.fs,
        rng=rng,
        fixcm=False,
    )
    dynamics.run(300)  # from rest to the temperature
    frames = []
    while len(frames) < n_frames:
        dynamics.run(15)
        frames.append(label(atoms, atoms.calc))
    return [frames[i] for i in rng.permutation(n_frames)]


BUILDERS = {"alloy": build_alloy, "mixture": build_molecule}


def make_frames(name, n_frames, seed):
    """Labelled frames of a set."""
    if name == "base-pair":
        return run_base_pair(n_frames, seed)
    rng = np.random.default_rng(seed)
    frames, number = [], 0
    while len(frames) < n_frames:
        frame = BUILDERS[name](rng, number)
        number += 1
        if frame is not None:
            frames.append(frame)
    return [frames[i] for i in rng.permutation(n_frames)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, sizes in SIZES.items():
        frames = make_frames(name, sum(sizes), arguments.seed)
        starts = np.cumsum((0, *sizes))
        for part, start, end in zip(
            ("train", "val", "test"), starts, starts[1:], strict=False
        ):
            path = arguments.output / f"{name}_{part}.xyz"
            write(path, frames[start:end])
            print(f"{path}: {end - start} frames")


if __name__ == "__main__":
    main()

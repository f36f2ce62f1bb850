"""Run held-out molecules for 20 ps with the bundled base model: are they stable?

    .venv/bin/python bases/base_dynamics.py CHECKPOINT

Ten molecules of the test set and a water cluster, far apart in one structure, so that
one evaluation serves all: NVE and NVT (Langevin) at 300 and 600 K. Needs bases/build
(see bases/README.md). About 14 minutes a run on one core. base_card.py makes a table of
what it writes, bases/build/dynamics.json.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.data import covalent_radii
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from tqdm import tqdm

from pet_calc import PETCalculator

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "bases" / "build"
RESULT = BUILD / "dynamics.json"
N_MOLECULES, SMALLEST, LARGEST = 10, 6, 16
N_WATERS = 5  # (H2O)5 is never trained on
TIME_PS, TIMESTEP_FS, INTERVAL = 20.0, 0.5, 40
FRICTION = 0.01 / units.fs
SPACING = 60.0  # Å, beyond the range of the model
# a bond longer than this many sums of covalent radii is broken
BONDED, BROKEN = 1.25, 1.75
RUNS = [("NVE", 300), ("NVE", 600), ("NVT", 300), ("NVT", 600)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--time", type=float, default=TIME_PS, help="ps of each run")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    systems = choose_systems(read(BUILD / "base_test.xyz", ":"))
    rows = []
    for ensemble, temperature in RUNS:
        rows += run(
            arguments.checkpoint, systems, ensemble, temperature, arguments.time
        )
        temporary = arguments.output.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows, indent=1))
        os.replace(temporary, arguments.output)
    print(format_table(rows))


def choose_systems(frames):
    """Return {name: Atoms}: minima of held-out molecules of many kinds, and water."""
    minima = {}
    for atoms in frames:
        info = atoms.info
        is_minimum = info["group"] == "molecule" and info["kind"] == "relaxed"
        if is_minimum and SMALLEST <= len(atoms) <= LARGEST:
            minima.setdefault(atoms.get_chemical_formula(), atoms)
    # evenly through the formulas, so that all elements come in
    names = sorted(minima)
    picked = names[:: max(1, len(names) // N_MOLECULES)][:N_MOLECULES]
    systems = {
        f"{name} ({minima[name].info['system']})": minima[name] for name in picked
    }
    clusters = [
        atoms
        for atoms in frames
        if atoms.info["group"] == "water_cluster" and len(atoms) == 3 * N_WATERS
    ]
    systems[f"(H2O){N_WATERS}"] = clusters[0] if clusters else build_ring()
    return systems


def build_ring():
    """Five water molecules in a ring, each giving one hydrogen bond."""
    water = molecule("H2O")
    cluster = Atoms()
    for k in range(N_WATERS):
        one = water.copy()
        one.rotate(-52.0, "x")
        one.translate([0, 2.4, 0])
        one.rotate(360.0 / N_WATERS * k, "z")
        cluster += one
    return cluster


def run(checkpoint, systems, ensemble, temperature, time_ps):
    """Return a row for each system: drift, mean temperature, broken bonds."""
    random = np.random.default_rng(0)
    whole, owner = Atoms(), []
    for number, atoms in enumerate(systems.values()):
        part = Atoms(atoms.numbers, atoms.positions - atoms.positions.mean(axis=0))
        speeds = np.sqrt(units.kB * temperature / part.get_masses())
        # from a minimum half of it becomes potential energy
        speeds *= np.sqrt(2.0) if ensemble == "NVE" else 1.0
        part.set_velocities(speeds[:, None] * random.standard_normal((len(part), 3)))
        Stationary(part)
        ZeroRotation(part)
        part.translate([SPACING * number, 0, 0])
        whole += part
        owner += [number] * len(part)
    owner = np.array(owner)
    first, second, lengths = neighbor_list("ijd", whole, 3.0)
    radii = covalent_radii[whole.numbers]
    sums = radii[first] + radii[second]
    bonds = (lengths < BONDED * sums) & (first < second)
    first, second, sums = first[bonds], second[bonds], sums[bonds]
    whole.calc = PETCalculator(checkpoint, compile=True)
    step = TIMESTEP_FS * units.fs
    if ensemble == "NVE":
        dynamics = VelocityVerlet(whole, step)
    else:
        dynamics = Langevin(
            whole,
            step,
            temperature_K=temperature,
            friction=FRICTION,
            fixcm=False,
            rng=random,
        )
    n_blocks = round(1000 * time_ps / TIMESTEP_FS / INTERVAL)
    energies, temperatures = [], []
    longest = np.zeros(len(first))
    for _ in tqdm(range(n_blocks), desc=f"{ensemble} {temperature} K", disable=None):
        dynamics.run(INTERVAL)
        kinetic = 0.5 * whole.get_masses() * (whole.get_velocities() ** 2).sum(axis=1)
        total = whole.get_potential_energies() + kinetic
        energies.append(np.bincount(owner, total))
        temperatures.append(np.bincount(owner, kinetic) / (1.5 * units.kB))
        apart = whole.positions[first] - whole.positions[second]
        longest = np.maximum(longest, np.linalg.norm(apart, axis=1) / sums)
    times = np.arange(1, n_blocks + 1) * INTERVAL * TIMESTEP_FS / 1000
    counts = np.bincount(owner)
    slopes = np.polyfit(times, np.array(energies), 1)[0]
    return [
        {
            "system": name,
            "ensemble": ensemble,
            "temperature": temperature,
            "time_ps": time_ps,
            "drift": 1000 * slopes[number] / counts[number],
            "mean_temperature": float(
                np.mean(temperatures, axis=0)[number] / counts[number]
            ),
            "broken": int((longest[owner[first] == number] > BROKEN).sum()),
        }
        for number, name in enumerate(systems)
    ]


def format_table(rows):
    """Return the rows as markdown, a line for each system."""
    header = ["system", *(f"{ensemble} {kelvin} K" for ensemble, kelvin in RUNS)]
    lines = [header, ["---"] * len(header)]
    for name in dict.fromkeys(row["system"] for row in rows):
        lines.append([name, *(describe(row) for row in rows if row["system"] == name)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe(row):
    """Return such as ``intact, +0.01``: meV/atom/ps for NVE, mean K for NVT."""
    state = f"{row['broken']} bonds broken" if row["broken"] else "intact"
    if row["ensemble"] == "NVE":
        return f"{state}, {row['drift']:+.3f}"
    return f"{state}, {row['mean_temperature']:.0f} K"


if __name__ == "__main__":
    main()

"""Energy drift of NVE dynamics, exact and with bfloat16 products.

    python benchmarks/precision_drift.py      # 4 x 4 ps of ethanol with pet-gfn1-xs

The molecule is relaxed and starts with velocities of 600 K, half of which become
potential energy, drawn anew for each run. The drift is the slope of the total energy.
"""

import argparse

import ase.build
import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from pet_calc import PETCalculator

TIMESTEP, INTERVAL = 0.5, 5


def measure(model, precision, steps, seed):
    """Return drift in meV/atom/ps and mean temperature in K."""
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.calc = PETCalculator(model, precision=precision, compile=True)
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=60)
    spread = np.sqrt(atoms.get_masses()[:, None] * units.kB * 600)
    momenta = spread * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
    energies, temperatures = [], []

    def record():
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())

    dynamics.attach(record, interval=INTERVAL)
    dynamics.run(steps)
    picoseconds = np.arange(len(energies)) * INTERVAL * TIMESTEP / 1000
    slope = np.polyfit(picoseconds, np.array(energies), 1)[0]
    return 1000 * slope / len(atoms), np.mean(temperatures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pet-gfn1-xs")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| precision | drift of each run, meV/atom/ps | mean temperature, K |")
    print("|---|---|---|")
    for precision in ("exact", "mixed"):
        found = [
            measure(arguments.model, precision, arguments.steps, seed)
            for seed in range(arguments.runs)
        ]
        drifts = ", ".join(f"{drift:.3f}" for drift, _ in found)
        temperature = np.mean([temperature for _, temperature in found])
        print(f"| {precision} | {drifts} | {temperature:.0f} |", flush=True)


if __name__ == "__main__":
    main()

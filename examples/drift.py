"""How well a model conserves energy: a run without thermostat, and what it drifts by.

python examples/drift.py best_model.ckpt test.xyz 20000
"""

import sys

import numpy as np
from ase import units
from ase.build import molecule
from ase.io import read
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

from pet_calc import PETCalculator

TIMESTEP_FS, TEMPERATURE, EVERY = 0.5, 300, 10
model = sys.argv[1] if len(sys.argv) > 1 else "pet-gfn1-xs"
atoms = read(sys.argv[2], 0) if len(sys.argv) > 2 else molecule("CH3CH2OH")
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 2000

atoms.calc = PETCalculator(model, dtype="float64")
speeds = np.sqrt(units.kB * TEMPERATURE / atoms.get_masses())
directions = np.random.default_rng(0).standard_normal((len(atoms), 3))
atoms.set_velocities(speeds[:, None] * directions)
Stationary(atoms)

dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
energies = []
dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=EVERY)
dynamics.run(steps)
picoseconds = np.arange(len(energies)) * EVERY * TIMESTEP_FS / 1000
slope, _ = np.polyfit(picoseconds, energies, 1)
print(f"{picoseconds[-1]:.1f} ps, last temperature {atoms.get_temperature():.0f} K")
print(f"energy drift {1000 * slope / len(atoms):+.4f} meV/atom/ps")

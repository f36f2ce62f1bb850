"""Molecular dynamics at constant temperature, written to a trajectory."""

import sys

from ase import units
from ase.build import molecule
from ase.io import Trajectory
from ase.md.langevin import Langevin

from pet_calc import PETCalculator

model = sys.argv[1] if len(sys.argv) > 1 else "pet-gfn1-xs"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
output = sys.argv[3] if len(sys.argv) > 3 else "dynamics.traj"

atoms = molecule("CH3CH2OH")
atoms.calc = PETCalculator(model)
dynamics = Langevin(
    atoms, timestep=0.5 * units.fs, temperature_K=300, friction=0.02 / units.fs
)
with Trajectory(output, "w", atoms) as trajectory:
    dynamics.attach(trajectory.write, interval=10)
    dynamics.run(steps)
print(f"{steps} steps, last temperature {atoms.get_temperature():.0f} K -> {output}")

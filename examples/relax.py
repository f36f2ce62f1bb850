"""Energy, forces, and a relaxed structure of one molecule."""

import sys

from ase.build import molecule
from ase.optimize import BFGS

from pet_calc import PETCalculator

# a checkpoint, an exported .pt file, or the bundled base
model = sys.argv[1] if len(sys.argv) > 1 else "pet-gfn1-xs"

atoms = molecule("CH3CH2OH")
atoms.calc = PETCalculator(model, dtype="float64")
print(f"energy {atoms.get_potential_energy():.4f} eV")
print(f"largest force {abs(atoms.get_forces()).max():.3f} eV/Å")

BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
print(f"relaxed energy {atoms.get_potential_energy():.4f} eV")
print(f"C-O bond {atoms.get_distance(1, 2):.3f} Å")

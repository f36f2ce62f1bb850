"""Two LoRA adapters side by side on one loaded base.

python examples/adapters.py base.ckpt one/adapter.safetensors two/adapter.safetensors
"""

import sys

import ase.build

from pet_calc import PETCalculator
from pet_calc.checkpoint.adapter import load_adapter

base, *files = sys.argv[1:]
atoms = ase.build.molecule("CH3CH2OH")
atoms.calc = PETCalculator(base, adapters={file: file for file in files})
for file in files:
    target = next(iter(load_adapter(file).targets))
    atoms.calc.set_adapter(file, target=target)
    print(f"{file}: {target} {atoms.get_potential_energy():.4f} eV")
atoms.calc.set_adapter(None)
print(f"the base alone: {atoms.get_potential_energy():.4f} eV")

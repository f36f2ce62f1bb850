"""Two LoRA adapters side by side on one loaded base.

python examples/adapters.py base.ckpt one/adapter.safetensors two/adapter.safetensors
"""

import sys

import ase.build

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.hub import find_model
from pet_calc.lora import AdapterBank

base, *files = sys.argv[1:]
model = load_checkpoint(find_model(base)).build_model()
bank = AdapterBank(model)
for file in files:
    bank.add(file, load_adapter(file))

atoms = ase.build.molecule("CH3CH2OH")
for name in bank.names:
    bank.activate(name)
    target = next(iter(load_adapter(name).targets))
    energy = PETCalculator(model, target=target).get_potential_energy(atoms)
    print(f"{name}: {target} {energy:.4f} eV")
bank.disable()
energy = PETCalculator(model).get_potential_energy(atoms)
print(f"the base alone: {energy:.4f} eV")

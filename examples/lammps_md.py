"""A simulation in LAMMPS: export, write the input, check step 0, run.

python examples/lammps_md.py best_model.ckpt 1000 md
"""

import subprocess
import sys
from pathlib import Path

from ase.build import molecule
from ase.io import write

from pet_calc.lammps import run_lammps

# a checkpoint, or the bundled base
model = sys.argv[1] if len(sys.argv) > 1 else "pet-gfn1-xs"
steps = sys.argv[2] if len(sys.argv) > 2 else "1000"
folder = Path(sys.argv[3] if len(sys.argv) > 3 else "md")


def pet_calc(*words):
    print("$ pet-calc", *words, flush=True)
    program = Path(sys.executable).with_name("pet-calc")
    subprocess.run([program, *map(str, words)], check=True)


atoms = molecule("H2O")
atoms.set_cell([3.1] * 3)
atoms.pbc = True
folder.mkdir(exist_ok=True)
write(folder / "water.xyz", atoms.repeat(2))

exported = folder / "model.pt"
pet_calc("export", model, "-o", exported)
pet_calc(
    *("lammps", "input", exported, "--structure", folder / "water.xyz"),
    *("--ensemble", "nvt", "--steps", steps, "-o", folder),
)
# the same as `cd md && pet-calc lammps run in.lmp`
raise SystemExit(run_lammps("in.lmp", cwd=folder).returncode)

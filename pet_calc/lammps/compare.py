"""Does LAMMPS say what the calculator says? Step 0 of a structure, in both."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from pet_calc.calculator import PETCalculator
from pet_calc.errors import PetCalcError
from pet_calc.lammps.inputs import RunOptions, build_setup, write_data
from pet_calc.lammps.orient import orient_for_lammps
from pet_calc.lammps.run import run_lammps

# LAMMPS's own constant for metal units, eV/Å^3 -> bar
BAR_PER_EV_A3 = 1.6021765e6

_STEP_0 = """
compute    virial all pressure NULL virial
thermo     1
thermo_style custom step pe c_virial[1] c_virial[2] c_virial[3] &
           c_virial[4] c_virial[5] c_virial[6]
run        0
write_dump all custom forces.dump id fx fy fz modify sort id format float %.17g
print      "$(pe:%.17g) $(c_virial[1]:%.17g) $(c_virial[2]:%.17g) &
$(c_virial[3]:%.17g) $(c_virial[6]:%.17g) $(c_virial[5]:%.17g) &
$(c_virial[4]:%.17g)" file energy.txt
"""


class Comparison(NamedTuple):
    """Largest differences between LAMMPS and the calculator, and the values."""

    energy: float
    """eV, of the whole structure in LAMMPS."""
    energy_difference: float
    """eV per atom."""
    force_difference: float
    """eV/Å, largest component."""
    pressure: float | None
    """bar, of the calculator without motion; None if not periodic in all directions."""
    pressure_difference: float | None
    """bar, largest component of the tensor."""
    tolerance: float
    """What the model's dtype allows for the forces, eV/Å."""

    @property
    def is_same(self) -> bool:
        """Whether all differences are roundings."""
        differences = [self.energy_difference, self.force_difference]
        if self.pressure_difference is not None:
            differences.append(self.pressure_difference / BAR_PER_EV_A3)
        return max(differences) <= self.tolerance

    def describe(self) -> str:
        """Return the values and differences, a line each."""
        lines = [
            f"energy    {self.energy:.6f} eV",
            f"compared  energy {self.energy_difference:.1e} eV/atom",
            f"          forces {self.force_difference:.1e} eV/Å",
        ]
        if self.pressure_difference is not None:
            lines.append(
                f"          pressure {self.pressure_difference:.1e} bar "
                f"(of {self.pressure:.6g})"
            )
        return "\n".join(lines)


def compare_step_0(
    atoms: Atoms,
    model: str | Path,
    options: RunOptions | None = None,
    *,
    n_ranks: int = 1,
) -> Comparison:
    """Evaluate a structure in LAMMPS and with the calculator, in one orientation.

    Args:
        atoms: any orientation.
        model: exported file.
        options: device and variant count here.
        n_ranks: MPI processes for LAMMPS.

    Raises:
        PetCalcError: if LAMMPS fails; the message is LAMMPS's.
    """
    options = options or RunOptions()
    model = Path(model).resolve()
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        write_data(atoms, folder / "structure.data")
        text = build_setup(atoms, os.fspath(model), options) + _STEP_0
        (folder / "in.lmp").write_text(text)
        done = run_lammps("in.lmp", n_ranks=n_ranks, cwd=folder, capture=True)
        if done.returncode != 0:
            output = done.stdout + done.stderr
            errors = [line for line in output.splitlines() if "ERROR" in line]
            raise PetCalcError(
                f"LAMMPS failed: {errors[0] if errors else output[-300:]}"
            )
        forces = np.loadtxt(folder / "forces.dump", skiprows=9, ndmin=2)[:, 1:]
        energy, *pressures = np.loadtxt(folder / "energy.txt")
    calculator = PETCalculator(model, target=options.variant, device=options.device)
    turned = orient_for_lammps(atoms)
    turned.calc = calculator
    pressure, pressure_difference = None, None
    if atoms.pbc.all():
        stress: Any = turned.get_stress() * BAR_PER_EV_A3
        pressure = float(-stress[:3].mean())
        pressure_difference = float(np.abs(stress + np.array(pressures)).max())
    own_forces = turned.get_forces()
    # seven or fifteen digits, and some 100 roundings
    relative = 1e-4 if str(calculator.dtype).endswith("float32") else 1e-9
    scale = max(1.0, float(np.abs(own_forces).max()))
    return Comparison(
        energy=float(energy),
        energy_difference=abs(energy - turned.get_potential_energy()) / len(atoms),
        force_difference=float(np.abs(forces - own_forces).max()),
        pressure=pressure,
        pressure_difference=pressure_difference,
        tolerance=relative * scale,
    )

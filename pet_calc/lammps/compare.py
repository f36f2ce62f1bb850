"""Does LAMMPS say what the calculator says? Step 0 of a structure, in both."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from pet_calc.calculator import PETCalculator
from pet_calc.errors import PetCalcError
from pet_calc.lammps.inputs import SimulationOptions, build_setup, write_data
from pet_calc.lammps.orient import find_rotation, orient_for_lammps
from pet_calc.lammps.run import explain_signal, run_lammps
from pet_calc.lammps.script import PairStyle, read_pair_style, read_setup

# LAMMPS's own constant for metal units, eV/Å^3 -> bar
BAR_PER_EV_A3 = 1.6021765e6
# energy in eV, length in Å, and LAMMPS's own pressure of an energy per volume of 1
_UNITS = {
    "metal": (1.0, 1.0, BAR_PER_EV_A3),
    "real": (1 / 23.060547830619, 1.0, 68568.415),
    "electron": (27.211386245988, 0.529177210903, 2.94210108e13),
}

# the names hold `pet_calc` lest the input has its own of that name
_STEP_0 = """
compute    pet_calc_energy all pair metatomic
compute    pet_calc_virial all pressure NULL pair
thermo     1
thermo_style custom step c_pet_calc_energy {pressure}
run        0
write_dump all custom "{folder}/forces.dump" id type mass x y z fx fy fz &
           modify sort id format float %.17g
print      "$(c_pet_calc_energy:%.17g) {values}" file "{folder}/energy.txt"
"""


class StepComparison(NamedTuple):
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
    turned: tuple[float, float] | None = None
    """How far the calculator's energy, eV per atom, and largest force component, eV/Å,
    are from those in the orientation of the structure's file; None if that is the
    same."""

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
        if self.turned is not None:
            energy, forces = self.turned
            lines.append(
                f"turned    as LAMMPS holds it, the structure has another orientation "
                f"than in its file: energy {1000 * energy:.2f} meV/atom, forces up to "
                f"{1000 * forces:.1f} meV/Å apart there (PET is not exactly invariant)"
            )
        return "\n".join(lines)


def compare_step_0(
    atoms: Atoms,
    model: str | Path,
    options: SimulationOptions | None = None,
    *,
    n_ranks: int = 1,
) -> StepComparison:
    """Evaluate a structure in LAMMPS and with the calculator, in one orientation.

    Args:
        atoms: any orientation.
        model: exported file.
        options: device and variant count here.
        n_ranks: MPI processes for LAMMPS.

    Raises:
        PetCalcError: if LAMMPS fails; the message is LAMMPS's.
    """
    # uncertain or not, step 0 is compared
    options = replace(options or SimulationOptions(), uncertainty_threshold=None)
    model = Path(model).resolve()
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        write_data(atoms, folder / "structure.data")
        text = build_setup(atoms, os.fspath(model), options)
        has_stress = bool(atoms.pbc.all())
        found = _run_step_0(text, folder, folder, has_stress, n_ranks=n_ranks)
    turned = orient_for_lammps(atoms)
    calculator = PETCalculator(model, target=options.variant, device=options.device)
    turned.calc = calculator
    comparison = _compare(turned, found, "metal")
    return comparison._replace(turned=_compare_orientations(atoms, turned, calculator))


def _compare_orientations(
    atoms: Atoms, turned: Atoms, calculator: PETCalculator
) -> tuple[float, float] | None:
    """Return what turning changes: energy per atom, largest force component."""
    rotation = find_rotation(atoms)
    if np.allclose(rotation, np.eye(3), atol=1e-6):
        return None
    as_in_file = atoms.copy()
    as_in_file.calc = calculator
    # the results of the calculator are those of its last structure
    energy, forces = turned.get_potential_energy(), turned.get_forces()
    energy -= as_in_file.get_potential_energy()
    forces = forces - as_in_file.get_forces(apply_constraint=False) @ rotation
    return abs(energy) / len(atoms), float(np.abs(forces).max())


def check_input(
    path: str | Path, *, n_ranks: int = 1, arguments: Sequence[str] = ()
) -> tuple[StepComparison, list[str]]:
    """Compare step 0 of an input file with the calculator.

    Everything before the first run or minimisation is executed, except fixes and what
    writes files; the structure is the one that LAMMPS then has.

    Args:
        path: the input; run in its folder.
        n_ranks: MPI processes for LAMMPS.
        arguments: further arguments of ``lmp``, such as ``["-var", "T", "300"]``.

    Returns:
        the comparison, and notes: commands that were left out, and elements that do
        not fit the masses.

    Raises:
        ConfigError: if the input cannot be compared.
        PetCalcError: if LAMMPS fails; the message is LAMMPS's.
    """
    path = Path(path).resolve()
    kept, left_out = read_setup(path)
    is_direct = any("non_conservative" in line for line in kept)
    with tempfile.TemporaryDirectory(prefix="pet-calc-") as name:
        folder = Path(name)
        text = "\n".join(kept) + "\n"
        found = _run_step_0(
            text, folder, path.parent, not is_direct, arguments, n_ranks=n_ranks
        )
        style = read_pair_style((folder / "log.lammps").read_text(), path.parent, path)
        atoms = _read_atoms(folder / "forces.dump", style)
    notes = [f"left out: {line}" for line in left_out]
    notes += _find_odd_masses(found.rows, style)
    keywords = style.keywords
    is_direct = keywords.get("non_conservative") in ("on", "yes", "true")
    atoms.calc = PETCalculator(
        style.model,
        target=keywords.get("variant"),
        device=None if keywords.get("device") == "auto" else keywords.get("device"),
        non_conservative=is_direct,
    )
    return _compare(
        atoms, found, style.units, float(keywords.get("scale", 1.0)), is_direct
    ), notes


class _Step0(NamedTuple):
    """What LAMMPS found, in its own units."""

    energy: float
    pressures: np.ndarray
    """In Voigt's order; empty if not asked for."""
    rows: np.ndarray
    """Columns type, mass, x, y, z, fx, fy, fz, sorted by atom ID."""


def _run_step_0(
    setup: str,
    folder: Path,
    cwd: Path,
    has_stress: bool,
    arguments: Sequence[str] = (),
    *,
    n_ranks: int,
) -> _Step0:
    """Run a setup in ``cwd``; all that is written goes to ``folder``."""
    # LAMMPS's order is xx yy zz xy xz yz
    names = [f"c_pet_calc_virial[{k}]" for k in (1, 2, 3, 6, 5, 4) if has_stress]
    probe = _STEP_0.format(
        folder=folder,
        pressure=" ".join(names),
        values=" ".join(f"$({name}:%.17g)" for name in names),
    )
    script = folder / "in.lmp"
    script.write_text(setup + probe)
    log = ["-echo", "log", "-log", str(folder / "log.lammps")]
    done = run_lammps(
        script, n_ranks=n_ranks, cwd=cwd, arguments=[*arguments, *log], capture=True
    )
    if done.returncode != 0:
        raise PetCalcError(_explain_failure(done, folder / "log.lammps"))
    energy, *pressures = np.loadtxt(folder / "energy.txt", ndmin=1)
    rows = np.loadtxt(folder / "forces.dump", skiprows=9, ndmin=2)[:, 1:]
    return _Step0(float(energy), np.array(pressures), rows)


def _explain_failure(done: subprocess.CompletedProcess[str], log: Path) -> str:
    """Return LAMMPS's own message, or what killed it, with a log that stays."""
    output = done.stdout + done.stderr
    errors = [line for line in output.splitlines() if "ERROR" in line]
    if errors:
        return f"LAMMPS failed: {errors[0]}"
    kept = Path(tempfile.mkdtemp(prefix="pet-calc-lammps-")) / log.name
    if log.is_file():
        shutil.copyfile(log, kept)
    killed = explain_signal(done.returncode, kept)
    if killed is not None:
        return killed
    last = " / ".join(output.strip().splitlines()[-3:])
    return f"LAMMPS ended with status {done.returncode}: {last} (its log is {kept})"


def _read_atoms(dump: Path, style: PairStyle) -> Atoms:
    """Return LAMMPS's structure in Å, with charge and spin as the style has them."""
    symbols = [
        chemical_symbols[int(word)] if word.isdigit() else word
        for word in style.elements
    ]
    atoms: Any = ase.io.read(dump, format="lammps-dump-text", specorder=symbols)
    atoms.calc = None
    length = _UNITS[style.units][1]
    atoms.set_cell(atoms.cell.array * length)
    atoms.positions *= length
    atoms.info["charge"] = float(style.keywords.get("charge", 0))
    atoms.info["spin"] = float(style.keywords.get("spin", 1))
    return atoms


def _find_odd_masses(rows: np.ndarray, style: PairStyle) -> list[str]:
    """Return a note for each atom type whose mass is that of another element."""
    notes = []
    for kind in np.unique(rows[:, 0]).astype(int):
        word = style.elements[kind - 1]
        number = int(word) if word.isdigit() else atomic_numbers[word]
        mass = float(rows[rows[:, 0] == kind, 1].mean())
        # isotopes and repartitioned hydrogen masses are within 3
        if abs(mass - atomic_masses[number]) > 3.0:
            notes.append(
                f"type {kind} is {chemical_symbols[number]} in pair_coeff, but has "
                f"mass {mass:g}: is the order of the elements right?"
            )
    return notes


def _compare(
    atoms: Atoms,
    found: _Step0,
    units: str,
    scale: float = 1.0,
    is_direct: bool = False,
) -> StepComparison:
    """Return the differences to the calculator that is on the atoms."""
    ev, length, per_volume = _UNITS[units]
    energy = found.energy * ev / scale
    forces = found.rows[:, 5:] * ev / length / scale
    if is_direct:
        # the calculator takes the mean off, LAMMPS does not
        forces = forces - forces.mean(axis=0)
    own_forces = atoms.get_forces()
    pressure, pressure_difference = None, None
    if atoms.pbc.all() and len(found.pressures):
        to_bar = ev / length**3 / per_volume * BAR_PER_EV_A3 / scale
        stress: Any = atoms.get_stress() * BAR_PER_EV_A3
        pressure = float(-stress[:3].mean())
        pressure_difference = float(np.abs(stress + found.pressures * to_bar).max())
    # seven or fifteen digits, and some 100 roundings
    calculator: Any = atoms.calc
    relative = 1e-4 if str(calculator.dtype).endswith("float32") else 1e-9
    largest = max(1.0, float(np.abs(own_forces).max()))
    return StepComparison(
        energy=energy,
        energy_difference=abs(energy - atoms.get_potential_energy()) / len(atoms),
        force_difference=float(np.abs(forces - own_forces).max()),
        pressure=pressure,
        pressure_difference=pressure_difference,
        tolerance=relative * largest,
    )

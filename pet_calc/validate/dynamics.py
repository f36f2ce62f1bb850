"""A short run without a thermostat: does it keep its energy, and stay whole?"""

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from pet_calc.check.structures import find_closest
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import Array
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import Row

TEMPERATURE = 300.0
# fs: hydrogen vibrates with a period of 10
_TIMESTEP, _TIMESTEP_OF_HYDROGEN = 1.0, 0.5
# sums of covalent radii; nearer, atoms have fallen into a hole
_MERGED = 0.5
# kT in a run that began at 300 K, by which it has exploded
_HOTTEST = 20 * TEMPERATURE
# eV/Å: beyond, a structure is none of 300 K, and what it does would say nothing of the
# model; steps at most that make it smaller
_LARGEST_FORCE, _MOST_STEPS = 5.0, 50
_TO_MEV = 1000.0


def check_drift(potential: Potential, atoms: Atoms, picoseconds: float) -> Row:
    """Run NVE dynamics from 300 K, and return the row on its energy.

    Args:
        potential: what is validated.
        atoms: of two atoms or more.
        picoseconds: length of the run.
    """
    atoms = atoms.copy()
    atoms.set_constraint()
    atoms.calc = potential.calculator
    before = ""
    if np.abs(atoms.get_forces()).max() > _LARGEST_FORCE:
        BFGS(atoms, logfile=None).run(fmax=_LARGEST_FORCE / 2, steps=_MOST_STEPS)
        before = "; its forces were relaxed first"
    _heat(atoms)
    timestep = _TIMESTEP_OF_HYDROGEN if 1 in atoms.numbers else _TIMESTEP
    n_steps = max(10, round(1000 * picoseconds / timestep))
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    energies, temperatures = [atoms.get_total_energy()], [atoms.get_temperature()]
    shown = f"{n_steps * timestep / 1000:g} ps, {timestep:g} fs a step{before}"
    for step in range(n_steps):
        dynamics.run(1)
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())
        if reason := _find_end(atoms, temperatures[-1]):
            time = (step + 1) * timestep
            return Row(
                "drift",
                float("nan"),
                f"{shown}: ended after {time:g} fs, {reason}",
                potential.is_float32,
            )
    drift = _TO_MEV * measure_drift(np.array(energies), timestep / 1000) / len(atoms)
    return Row(
        "drift",
        abs(drift),
        f"{drift:+.2g}; {shown}, {len(atoms)} atoms, from {TEMPERATURE:.0f} K; mean "
        f"temperature {np.mean(temperatures):.0f} K",
        potential.is_float32,
    )


def measure_drift(energies: Array, timestep: float) -> float:
    """Return the drift between both halves, averaged so that vibrations cancel.

    Each half has weights that begin and end at 0: without them, where in a vibration
    the run ends would look like a drift.

    Args:
        energies: [n] at equal times.
        timestep: between them; the drift is per unit of that.
    """
    half = len(energies) // 2
    weights = np.hanning(half + 2)[1:-1]
    weights /= weights.sum()
    change = weights @ energies[-half:] - weights @ energies[:half]
    return float(change / (timestep * (len(energies) - half)))


def _heat(atoms: Atoms) -> None:
    """Give the atoms momenta of the temperature, at rest as a whole."""
    draws = np.random.default_rng(5).standard_normal((len(atoms), 3))
    momenta = draws * np.sqrt(atoms.get_masses() * units.kB * TEMPERATURE)[:, None]
    masses = atoms.get_masses()[:, None]
    momenta -= masses * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)


def _find_end(atoms: Atoms, temperature: float) -> str:
    """Return why a run makes no sense any more, empty if it does."""
    if not np.isfinite(atoms.positions).all() or not np.isfinite(temperature):
        return "energies are no numbers"
    closest = find_closest(LabeledFrame.from_atoms(atoms))
    if closest is not None and closest[0] < _MERGED:
        share, _, pair = closest
        return f"{pair} at {share:.2f} of their covalent radii: they fell together"
    if temperature > _HOTTEST:
        return f"at {temperature:.0f} K: it exploded"
    return ""

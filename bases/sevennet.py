"""SevenNet-0 labels, relaxation and MD, and the check of labels by finite differences.

The weights come with the `sevenn` package. SevenNet-0 (11 July 2024) was trained on
MPtrj: PBE, with +U for some transition metals in oxides and fluorides.
"""

import warnings
from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from runs import start_langevin, take_snapshots

FORCE_STEP = 0.02  # Å; energies are float32, about 1e-5 eV of noise
STRAIN_STEP = 0.005


@lru_cache(maxsize=1)
def sevennet() -> Calculator:
    """Return the calculator, on one thread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # accelerators that need a GPU
        from sevenn.calculator import SevenNetCalculator

        torch.set_num_threads(1)
        return SevenNetCalculator("7net-0", device="cpu")


def label(atoms: Atoms, **info: object) -> Atoms | None:
    """Return a copy with energy, forces and stress, or None if they are not finite."""
    frame = Atoms(
        atoms.numbers, np.round(atoms.positions, 8), cell=atoms.cell, pbc=True
    )
    frame.wrap()
    frame.calc = sevennet()
    results = {
        "energy": float(frame.get_potential_energy()),
        "forces": frame.get_forces().astype(float),
        "stress": frame.get_stress().astype(float),
    }
    if not all(np.isfinite(value).all() for value in results.values()):
        return None
    frame.calc = SinglePointCalculator(frame, **results)
    frame.info.update(info)
    return frame


def relax(atoms: Atoms, steps: int = 25) -> Atoms:
    """Return a copy with cell and positions relaxed; need not reach the minimum.

    Raises:
        RuntimeError: if the cell runs away from where it started.
    """
    work = atoms.copy()
    work.calc = sevennet()
    FIRE(FrechetCellFilter(work), logfile=None, maxstep=0.1).run(fmax=0.05, steps=steps)
    change = work.get_volume() / atoms.get_volume()
    if not 0.4 < change < 2.5:
        raise RuntimeError(f"the volume changed by a factor {change:.2f}")
    work.calc = None
    return work


def molecular_dynamics(
    atoms: Atoms,
    temperature: float,
    snapshots: int,
    stride: int,
    rng: np.random.Generator,
    *,
    start: int = 0,
) -> list[Atoms]:
    """Return bare snapshots of a Langevin run with 2 fs steps at fixed cell."""
    work = atoms.copy()
    work.calc = sevennet()
    dynamics = start_langevin(
        work, temperature, rng, timestep_fs=2.0, friction_per_fs=0.05
    )
    dynamics.run(start)
    return list(take_snapshots(dynamics, snapshots, stride))


def check_label(frame: Atoms, rng: np.random.Generator) -> dict:
    """Compare forces and stress with four-point differences of energies.

    Returns:
        The largest differences over one force component of four atoms, eV/Å, and two
        components of the stress, eV/Å^3.
    """
    forces, stress = frame.get_forces(), frame.get_stress(voigt=False)
    force_error = stress_error = 0.0
    for _ in range(4):
        atom, axis = int(rng.integers(len(frame))), int(rng.integers(3))
        shift = np.zeros((len(frame), 3))
        shift[atom, axis] = 1.0

        def moved(step: float, shift: np.ndarray = shift) -> Atoms:
            other = frame.copy()
            other.positions += step * shift
            return other

        slope = _differentiate(moved, FORCE_STEP)
        force_error = max(force_error, abs(slope + forces[atom, axis]))
    for i, j in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5

        def strained(step: float, strain: np.ndarray = strain) -> Atoms:
            other = frame.copy()
            other.set_cell(frame.cell @ (np.eye(3) + step * strain), scale_atoms=True)
            return other

        slope = _differentiate(strained, STRAIN_STEP) / frame.get_volume()
        stress_error = max(stress_error, abs(slope - stress[i, j]))
    return {
        "formula": frame.get_chemical_formula(),
        "force_error": round(force_error, 6),
        "largest_force": round(float(np.abs(forces).max()), 4),
        "stress_error": round(stress_error, 8),
        "largest_stress": round(float(np.abs(stress).max()), 6),
    }


def _differentiate(build, step: float) -> float:
    energies = []
    for factor in (-2, -1, 1, 2):
        atoms = build(factor * step)
        atoms.calc = sevennet()
        energies.append(float(atoms.get_potential_energy()))
    far, near = energies[3] - energies[0], energies[2] - energies[1]
    return (8 * near - far) / (12 * step)

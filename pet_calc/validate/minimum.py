"""The minimum that a structure relaxes to: vibrations, phonons, elastic constants."""

import itertools
import tempfile
import warnings
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.phonons import Phonons

from pet_calc.data.labels import Array
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import Row
from pet_calc.validate.structures import rattle

# atoms beyond which a Hessian takes minutes
MOST_ATOMS, MOST_ATOMS_OF_CELL = 60, 16
# eV/Å, and steps
_FMAX, _MOST_STEPS = 1e-3, 300
# Å: off the symmetry, so that a saddle point is left; and along an imaginary mode
_NUDGE, _PUSH = 0.01, 0.2
# Å of a displacement, and the strain for elastic constants
_DISPLACEMENT, _STRAIN = 0.01, 0.003
# Å that a supercell for phonons has at least, which is twice a perovskite's cell, and
# atoms at most
_SUPERCELL, _MOST_OF_SUPERCELL = 7.5, 128
# eV for sqrt(eV/Å^2/amu), and eV/Å^3 in GPa
_TO_EV = units._hbar * 1e10 / np.sqrt(units._e * units._amu)
# the second half of Voigt's six counts twice in products
_MANDEL = np.sqrt([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])


def check_molecule(potential: Potential, atoms: Atoms) -> Row:
    """Return the row on the lowest vibration of a relaxed molecule.

    A saddle point is left along its imaginary mode, once.
    """
    relaxed, how = relax(potential, atoms)
    modes, softest = compute_vibrations(potential, relaxed)
    if modes[0] < 0:
        relaxed.positions += _PUSH * softest
        relaxed, how = relax(potential, relaxed)
        modes, _ = compute_vibrations(potential, relaxed)
    return Row(
        "modes",
        float(modes[0]),
        f"{how}; {len(modes)} vibrations, up to {modes[-1]:.0f} cm^-1",
        potential.is_float32,
    )


def check_crystal(potential: Potential, atoms: Atoms) -> list[Row]:
    """Return the rows on phonons and elastic constants of a relaxed cell."""
    relaxed, how = relax(potential, atoms)
    change = 100 * (relaxed.get_volume() / atoms.get_volume() - 1)
    modes, repeats = compute_phonons(relaxed, potential)
    constants = compute_elastic(relaxed, potential)
    eigenvalues = np.linalg.eigvalsh(constants * np.outer(_MANDEL, _MANDEL))
    bulk = constants[:3, :3].mean()
    return [
        Row(
            "modes",
            float(modes.min()),
            f"{how}, volume {change:+.1f} %; wave vectors of {repeats} cells, up to "
            f"{modes.max():.0f} cm^-1",
            potential.is_float32,
        ),
        Row(
            "elastic",
            float(eigenvalues[0]),
            f"largest {eigenvalues[-1]:.0f} GPa, bulk modulus {bulk:.0f} GPa",
            potential.is_float32,
        ),
    ]


def relax(potential: Potential, atoms: Atoms) -> tuple[Atoms, str]:
    """Return the minimum, of cell and positions if periodic, and how it was found."""
    atoms = rattle(atoms, _NUDGE)
    atoms.calc = potential.calculator
    what: Any = FrechetCellFilter(atoms) if atoms.pbc.all() else atoms
    optimizer = BFGS(what, logfile=None)
    # near a saddle point the first matrix of BFGS may take many steps
    is_there = bool(optimizer.run(fmax=_FMAX, steps=_MOST_STEPS))
    n_steps = optimizer.get_number_of_steps()
    how = "relaxed" if is_there else "not relaxed to 1 meV/Å"
    return atoms, f"{how} in {n_steps} steps"


def compute_vibrations(potential: Potential, atoms: Atoms) -> tuple[Array, Array]:
    """Return the frequencies of a molecule without its rigid motions, and the softest.

    The frequencies are in cm^-1, ascending, those imaginary below zero. The motion of
    the first, [n_atoms, 3], moves an atom by at most 1.
    """
    n = 3 * len(atoms)
    moved = []
    for k, sign in itertools.product(range(n), (1, -1)):
        copy = atoms.copy()
        copy.positions[k // 3, k % 3] += sign * _DISPLACEMENT
        moved.append(copy)
    forces = np.stack([a.forces.reshape(-1) for a in potential.evaluate(moved)])
    hessian = (forces[1::2] - forces[::2]) / (2 * _DISPLACEMENT)
    hessian = 0.5 * (hessian + hessian.T)
    root = np.repeat(np.sqrt(atoms.get_masses()), 3)
    internal = _find_internal(atoms, root)
    weighted = hessian / np.outer(root, root)
    squares, vectors = np.linalg.eigh(internal.T @ weighted @ internal)
    frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) * _TO_EV / units.invcm
    softest = (internal @ vectors[:, 0] / root).reshape(-1, 3)
    return np.asarray(frequencies), softest / np.abs(softest).max()


def compute_phonons(atoms: Atoms, potential: Potential) -> tuple[Array, str]:
    """Return the frequencies at all wave vectors that fit a supercell, in cm^-1.

    Those imaginary are below zero. Also returns the supercell, as in ``3x3x3``.
    """
    repeats = choose_supercell(atoms)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # of imaginary modes: they are the result here
        warnings.simplefilter("ignore")
        phonons = Phonons(
            atoms.copy(),
            potential.calculator,
            supercell=repeats,
            delta=_DISPLACEMENT,
            name=f"{folder}/phonons",
        )
        phonons.run()
        phonons.read(acoustic=True)
        points = [
            [i / n for i, n in zip(index, repeats, strict=True)]
            for index in itertools.product(*map(range, repeats))
        ]
        energies = np.asarray(phonons.band_structure(points, verbose=False))
    return energies / units.invcm, "x".join(map(str, repeats))


def compute_elastic(atoms: Atoms, potential: Potential) -> Array:
    """Return the elastic constants with relaxed atoms, [6, 6] in GPa (Voigt)."""
    rows = []
    for k in range(6):
        stresses = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            i, j = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[k]
            # half of Voigt's shear on each side
            size = sign * _STRAIN * (1.0 if i == j else 0.5)
            strain[i, j] = strain[j, i] = size
            copy = atoms.copy()
            copy.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + strain), True)
            copy.calc = potential.calculator
            BFGS(copy, logfile=None).run(fmax=_FMAX, steps=_MOST_STEPS)
            stresses.append(copy.get_stress())
        rows.append((stresses[0] - stresses[1]) / (2 * _STRAIN))
    constants = np.array(rows) / units.GPa
    return np.asarray(0.5 * (constants + constants.T))


def _find_internal(atoms: Atoms, root: Array) -> Array:
    """Return vectors that span all motions but those of the whole, [n, n_internal]."""
    centred = atoms.positions - atoms.get_center_of_mass()
    rigid = []
    for axis in np.eye(3):
        rigid.append(np.tile(axis, len(atoms)) * root)
        rigid.append(np.cross(axis, centred).reshape(-1) * root)
    vectors, sizes, _ = np.linalg.svd(np.array(rigid).T, full_matrices=True)
    # of a straight molecule one turn is none
    n_rigid = int((sizes > 1e-3 * sizes.max()).sum())
    internal: Array = vectors[:, n_rigid:]
    return internal


def choose_supercell(atoms: Atoms) -> tuple[int, int, int]:
    """Return how often a cell is repeated, by doubling.

    Even numbers have the wave vectors at the boundary of the zone, where most crystals
    that are unstable are so.
    """
    repeats = np.array([1, 1, 1])
    lengths = atoms.cell.lengths()
    while (lengths * repeats).min() < _SUPERCELL:
        following = repeats.copy()
        following[int(np.argmin(lengths * repeats))] *= 2
        if len(atoms) * following.prod() > _MOST_OF_SUPERCELL:
            break
        repeats = following
    return int(repeats[0]), int(repeats[1]), int(repeats[2])

"""GFN1-xTB labels and the ways to leave the minimum: modes, MD, internal coordinates.

Every function takes a seeded generator; nothing here keeps state between systems, so
a system's frames do not depend on what ran before it.
"""

import contextlib
import hashlib

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from runs import start_langevin, take_snapshots
from smiles3d import COVALENT_RADIUS, MolecularGraph, bonded_pairs
from tblite.ase import TBLite

LABEL_ACCURACY = (
    0.1  # tblite's own factor; at 1.0 forces carry up to 2e-4 eV/Å of noise
)
MIN_MODE = 80 / 8065.54  # eV; softer modes are sampled as if this stiff
HESSIAN_STEP = 0.01  # Å


def xtb(accuracy: float = 1.0, **options: object) -> TBLite:
    """Return a fresh GFN1-xTB calculator that prints nothing."""
    return TBLite(method="GFN1-xTB", accuracy=accuracy, verbosity=0, **options)


def label(atoms: Atoms, **info: object) -> Atoms | None:
    """Return a labelled copy (stress if periodic), or None if the SCF did not converge.

    The SCF always starts from scratch: the label depends on the geometry alone.
    """
    frame = Atoms(
        atoms.numbers, np.round(atoms.positions, 8), cell=atoms.cell, pbc=atoms.pbc
    )
    try:
        calc = xtb(LABEL_ACCURACY)
        frame.calc = calc
        results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces()}
        if atoms.pbc.all():
            results["stress"] = frame.get_stress()
    except Exception as error:  # tblite raises RuntimeError, ASE wraps some of them
        if "converge" not in str(error).lower() and "scf" not in str(error).lower():
            raise
        return None
    if not all(np.isfinite(value).all() for value in results.values()):
        return None
    frame.calc = SinglePointCalculator(frame, **results)
    frame.info.update(info)
    return frame


def relax(atoms: Atoms, fmax: float = 0.03, steps: int = 200) -> Atoms:
    """Return a relaxed copy with a bare geometry; need not reach fmax."""
    work = atoms.copy()
    work.calc = xtb()
    BFGS(work, logfile=None, maxstep=0.15).run(fmax=fmax, steps=steps)
    work.calc = None
    return work


def topology_key(symbols: list[str], bonds: set[tuple[int, int]]) -> str:
    """Return a hash of elements and connectivity (Weisfeiler-Lehman, six rounds)."""
    around: list[list[int]] = [[] for _ in symbols]
    for a, b in bonds:
        around[a].append(b)
        around[b].append(a)
    names = list(symbols)
    for _ in range(6):
        names = [
            _short_hash(names[i] + "|" + ",".join(sorted(names[j] for j in around[i])))
            for i in range(len(symbols))
        ]
    return _short_hash(",".join(sorted(names)))


def vibrations(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Return mode energies [n_modes] in eV and mass-weighted vectors [n_modes, 3n].

    Forward differences of the forces, good enough to sample with; translations and
    rotations are projected out.
    """
    work = atoms.copy()
    work.calc = xtb()
    n = len(work)
    hessian = np.zeros((3 * n, 3 * n))
    start = work.get_positions()
    at_start = work.get_forces().ravel()
    for k in range(3 * n):
        shifted = start.copy()
        shifted.flat[k] += HESSIAN_STEP
        work.positions = shifted
        hessian[k] = (at_start - work.get_forces().ravel()) / HESSIAN_STEP
    roots = np.repeat(np.sqrt(work.get_masses()), 3)
    weighted = 0.5 * (hessian + hessian.T) / np.outer(roots, roots)
    frame = start - atoms.get_center_of_mass()
    rigid = [np.tile(axis, n) * roots for axis in np.eye(3)]
    rigid += [np.cross(axis, frame).ravel() * roots for axis in np.eye(3)]
    left, singular, _ = np.linalg.svd(np.array(rigid).T, full_matrices=False)
    basis = left[:, singular > 1e-3 * singular[0]]
    keep = np.eye(3 * n) - basis @ basis.T
    values, vectors = np.linalg.eigh(keep @ weighted @ keep)
    # the projected-out directions have eigenvalue 0 and overlap with `basis`
    internal = np.linalg.norm(basis.T @ vectors, axis=0) < 0.5
    energies = units._hbar * units.m * np.sqrt(units._e / units._amu)
    omega = energies / units._e * np.sqrt(np.abs(values[internal]))
    return np.maximum(omega, MIN_MODE), vectors[:, internal].T


def displace_along_modes(
    atoms: Atoms,
    modes: tuple[np.ndarray, np.ndarray],
    temperature: float,
    rng: np.random.Generator,
) -> Atoms:
    """Return a copy drawn from the classical harmonic distribution at K kelvin."""
    omega, vectors = modes
    hbar = units._hbar * units.m * np.sqrt(units._e / units._amu) / units._e
    # Å amu^1/2 per mode: sqrt(kT) / omega, with omega in sqrt(eV / Å^2 / amu)
    amplitude = np.sqrt(units.kB * temperature) / (omega / hbar)
    # two sigma at most: the harmonic tails of soft modes are far off the real surface
    draw = np.clip(rng.normal(size=len(omega)), -2, 2) * amplitude
    roots = np.repeat(np.sqrt(atoms.get_masses()), 3)
    moved = atoms.copy()
    moved.positions += (draw @ vectors / roots).reshape(-1, 3)
    return moved


def molecular_dynamics(
    atoms: Atoms,
    temperature: float,
    snapshots: int,
    stride: int,
    rng: np.random.Generator,
    timestep_fs: float = 1.0,
) -> list[Atoms]:
    """Return bare snapshots of a short Langevin run; stops early when SCF fails."""
    work = atoms.copy()
    work.calc = xtb()
    dynamics = start_langevin(
        work, temperature, rng, timestep_fs=timestep_fs, friction_per_fs=0.02
    )
    frames: list[Atoms] = []
    with contextlib.suppress(RuntimeError):
        frames.extend(take_snapshots(dynamics, snapshots, stride))
    return frames


def rotatable_bonds(graph: MolecularGraph) -> list[tuple[int, int, np.ndarray]]:
    """List single bonds outside rings as (a, b, atoms on b's side), both ends heavy."""
    found = []
    for a, b, side in movable_bonds(graph):
        is_torsion = len(graph.neighbors(a)) > 1 and len(side) > 1
        if graph.order(a, b) == 1 and is_torsion:
            found.append((a, b, side))
    return found


def movable_bonds(graph: MolecularGraph) -> list[tuple[int, int, np.ndarray]]:
    """List all bonds outside rings as (a, b, atoms on b's side, the smaller one)."""
    found = []
    n = len(graph.symbols)
    for a, b in graph.orders:
        side, frontier = {b}, [b]
        while frontier:
            for c in graph.neighbors(frontier.pop()):
                if c not in side and not (c == a and len(side) == 1):
                    side.add(c)
                    frontier.append(c)
        if a in side:
            continue
        if len(side) > n / 2:
            a, b, side = b, a, set(range(n)) - side
        found.append((a, b, np.array(sorted(side))))
    return found


def stretch(atoms: Atoms, bond: tuple[int, int, np.ndarray], factor: float) -> Atoms:
    """Return a copy with one bond scaled, the far side moving along."""
    a, b, side = bond
    moved = atoms.copy()
    moved.positions[side] += (factor - 1) * (atoms.positions[b] - atoms.positions[a])
    return moved


def turn(
    atoms: Atoms, bond: tuple[int, int, np.ndarray], degrees: float, axis: np.ndarray
) -> Atoms:
    """Return a copy with the bond's far side turned about an axis through atom a."""
    a, _, side = bond
    moved = atoms[side]
    moved.rotate(degrees, axis, center=atoms.positions[a])
    result = atoms.copy()
    result.positions[side] = moved.positions
    return result


def shortest_contact(atoms: Atoms) -> float:
    """Return the smallest distance over the covalent radius sum, 9 for one atom."""
    if len(atoms) < 2:
        return 9.0
    radii = np.array([COVALENT_RADIUS[s] for s in atoms.get_chemical_symbols()])
    first, second = np.triu_indices(len(atoms), 1)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[first, second]
    return float((distances / (radii[first] + radii[second])).min())


def has_bonds_of(graph: MolecularGraph, atoms: Atoms) -> bool:
    """Say whether a geometry shows exactly the bonds of a graph."""
    wanted = {(min(pair), max(pair)) for pair in graph.orders}
    return bonded_pairs(graph.symbols, atoms.positions) == wanted


def _short_hash(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:16]

"""Two atoms alone, and two neighbours in the structure, pushed together."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list

from pet_calc.data.labels import Array
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import Row
from pet_calc.validate.walls import NEAREST, Curve

# in sums of covalent radii: dense where holes are
_DENSE_TO, _SPARSE = 1.2, np.arange(1.2, 2.05, 0.1)
STEP = 0.02
# atoms in one evaluation, each with one neighbour
_MOST_ATOMS = 4000
# no axis of a lattice, nor a plane of symmetry
_DIRECTION = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
# neighbours, in sums of covalent radii
_BONDED = 1.4
# pairs that a row names
_MOST_NAMED = 3


def scan_dimers(
    potential: Potential,
    elements: Iterable[int],
    step: float = STEP,
    progress: Callable[[Any], Any] | None = None,
) -> list[Curve]:
    """Return the curve of each pair of elements, the lowest wall first.

    Many dimers share one evaluation, too far apart to see each other. The energy is
    counted from that of the two atoms beyond the cutoff.

    Args:
        potential: what is validated.
        elements: atomic numbers.
        step: between distances, in sums of covalent radii.
        progress: wraps the evaluations.
    """
    pairs = list(itertools.combinations_with_replacement(sorted(elements), 2))
    far = potential.cutoff + 0.5
    scans = [_choose_distances(pair, potential.cutoff, step) for pair in pairs]
    dimers = [
        (pair, distance)
        for pair, distances in zip(pairs, scans, strict=True)
        for distance in (*distances, far)
    ]
    n = _MOST_ATOMS // 2
    parts: Iterable[Any] = [dimers[i : i + n] for i in range(0, len(dimers), n)]
    parts = progress(parts) if progress else parts
    energies = np.concatenate([_evaluate(potential, part, far) for part in parts])
    curves, start = [], 0
    for pair, distances in zip(pairs, scans, strict=True):
        end = start + len(distances)
        curves.append(
            _build_curve(pair, distances, energies[start:end] - energies[end])
        )
        start = end + 1
    return sorted(curves, key=_rank)


def scan_contacts(
    potential: Potential, atoms: Atoms, n_contacts: int = 1000, step: float = STEP
) -> list[Curve]:
    """Return the curve of the nearest neighbours of each pair of elements.

    One of the two moves straight towards the other, all else stays.

    Args:
        potential: what is validated.
        atoms: of two atoms or more.
        n_contacts: pairs of elements at most, those nearest by their radii.
        step: between distances, in sums of covalent radii.
    """
    radii = covalent_radii[atoms.numbers]
    reach = _BONDED * 2 * float(radii.max())
    first, second, distances, vectors = neighbor_list("ijdD", atoms, reach)
    shares = distances / (radii[first] + radii[second])
    nearest: dict[tuple[int, int], int] = {}
    for k in np.argsort(shares, kind="stable").tolist():
        i, j = first[k], second[k]
        pair = tuple(sorted((int(atoms.numbers[i]), int(atoms.numbers[j]))))
        if i != j and shares[k] < _BONDED:
            nearest.setdefault(pair, k)  # type: ignore[arg-type]
    curves = []
    for pair, k in list(nearest.items())[:n_contacts]:
        bond = float(radii[first[k]] + radii[second[k]])
        own = float(distances[k])
        scan = NEAREST * bond + np.arange(0.0, own - NEAREST * bond, step * bond)
        scan = np.append(scan, own)
        moved = []
        for distance in scan:
            copy = atoms.copy()
            copy.positions[second[k]] -= vectors[k] * (1 - distance / own)
            moved.append(copy)
        energies = np.array([each.energy for each in potential.evaluate(moved)])
        curves.append(_build_curve(pair, scan, energies - energies[-1]))
    return sorted(curves, key=_rank)


def judge_curves(name: str, curves: Sequence[Curve], potential: Potential) -> Row:
    """Return the row of the lowest wall, which names the lowest ones."""
    row = Row(name, curves[0].wall.height, "", potential.is_float32)
    if row.verdict == "ok":
        count = f"{len(curves)} pairs" if len(curves) > 1 else curves[0].name
        return Row(name, row.value, f"{count}, looked at up to that", row.is_float32)
    low = [curve for curve in curves if curve.wall.height < row.limits[0]]
    named = "; ".join(curve.describe() for curve in low[:_MOST_NAMED])
    more = f"; {len(low)} of {len(curves)} pairs below" if len(curves) > 1 else ""
    return Row(name, row.value, named + more, row.is_float32)


def _rank(curve: Curve) -> tuple[float, float]:
    # of walls that are high enough, the softest first
    return curve.wall.height, curve.wall.place / curve.bond


def _choose_distances(pair: tuple[int, int], cutoff: float, step: float) -> Array:
    bond = float(covalent_radii[list(pair)].sum())
    dense = np.arange(NEAREST, _DENSE_TO, step)
    distances = bond * np.concatenate([dense, _SPARSE])
    kept: Array = distances[distances < max(cutoff, bond)]
    return kept


def _build_curve(pair: tuple[int, int], distances: Array, energies: Array) -> Curve:
    bond = float(covalent_radii[list(pair)].sum())
    one, other = (chemical_symbols[number] for number in pair)
    return Curve((one, other), bond, np.asarray(distances), np.asarray(energies))


def _evaluate(potential: Potential, dimers: Sequence[Any], far: float) -> Array:
    """Return the energies of dimers, on a lattice that keeps them apart, in eV."""
    n_side = int(np.ceil(len(dimers) ** (1 / 3)))
    spacing = 2 * far + 1.0
    numbers, positions = [], []
    for k, (pair, distance) in enumerate(dimers):
        place = np.array([k % n_side, k // n_side % n_side, k // n_side**2])
        numbers += list(pair)
        positions += [spacing * place, spacing * place + distance * _DIRECTION]
    energies = potential.compute_energies(Atoms(numbers, positions))
    summed: Array = energies.reshape(-1, 2).sum(axis=1)
    return summed

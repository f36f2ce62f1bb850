"""Jumps of energy and forces while an atom moves straight through the cutoff.

A path is sampled evenly, and its least smooth intervals are halved again and again.
What a smooth function changes by is halved with them; a jump stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from pet_calc.data.labels import Array
from pet_calc.validate.potential import Answer, Potential
from pet_calc.validate.report import Row

# Å of a path inside bulk, and beyond the cutoff outside of it
_INSIDE, _BEYOND = 1.0, 0.5
# random directions of which the one is taken that keeps atoms apart best
_N_DIRECTIONS = 12
# eV and eV/Å of rounding, which does not stand out
_NOISE = 1e-8
# times those beside it: a smooth function changes by less from one sample to the next
_OUTLIER = 4.0
_TO_MEV = 1000.0


@dataclass(frozen=True)
class Sampling:
    """How closely paths are looked at."""

    n_paths: int
    """Atoms that are moved."""
    spacing: float = 0.08
    """Å between samples."""
    finest: float = 1e-7
    """Å at the end of halving."""
    n_chosen: int = 3
    """Intervals of a path that are halved: those of the largest changes, as many that
    stand out from the ones beside them, for energy and forces alike."""


@dataclass(frozen=True)
class Path:
    """An atom that moves straight, and nothing else."""

    atoms: Atoms
    atom: int
    direction: Array
    """[3], of length 1."""
    length: float
    """Å."""

    def place(self, distance: float) -> Atoms:
        """Return the structure with the atom moved by a distance in Å."""
        copy = self.atoms.copy()
        copy.positions[self.atom] += distance * self.direction
        return copy


@dataclass
class _Interval:
    path: Path
    of_forces: bool
    ends: tuple[float, float]
    answers: tuple[Answer, Answer]

    @property
    def change(self) -> float:
        return _measure(self.path, self.ends, self.answers)[int(self.of_forces)]


def check_smoothness(
    potential: Potential, atoms: Atoms, sampling: Sampling
) -> list[Row]:
    """Return the rows on jumps of the energy and of forces.

    Args:
        potential: what is validated.
        atoms: of two atoms or more.
        sampling: how closely it is looked at.
    """
    paths = choose_paths(atoms, potential.cutoff, sampling.n_paths)
    intervals = [i for path in paths for i in _sample(potential, path, sampling)]
    while max(b - a for a, b in (i.ends for i in intervals)) > sampling.finest:
        middles = [sum(interval.ends) / 2 for interval in intervals]
        answers = potential.evaluate(
            [i.path.place(m) for i, m in zip(intervals, middles, strict=True)]
        )
        intervals = [
            _halve(*each) for each in zip(intervals, middles, answers, strict=True)
        ]
    rows = []
    total = sum(path.length for path in paths)
    for name, of_forces in (("energy jump", False), ("force jump", True)):
        worst = max((i for i in intervals if i.of_forces == of_forces), key=_of_change)
        symbol = chemical_symbols[worst.path.atoms.numbers[worst.path.atom]]
        rows.append(
            Row(
                name,
                _TO_MEV * worst.change,
                f"paths of {total:.1f} Å in all; largest as atom "
                f"{worst.path.atom} ({symbol}) has moved by {worst.ends[0]:.4f} Å",
                potential.is_float32,
            )
        )
    return rows


def choose_paths(atoms: Atoms, cutoff: float, n_paths: int) -> list[Path]:
    """Return paths on which neighbours come and go.

    In bulk an atom moves through its surroundings, else out of them until the cutoff
    lies behind it.

    Args:
        atoms: of two atoms or more.
        cutoff: of the model, Å.
        n_paths: how many, of as many atoms.
    """
    generator = np.random.default_rng(4)
    chosen = generator.permutation(len(atoms))[:n_paths].tolist()
    if atoms.pbc.all():
        return [_find_way(atoms, atom, generator) for atom in chosen]
    free = ~atoms.pbc
    centre = atoms.positions.mean(axis=0)
    # those outside have no others in their way
    outer = np.argsort(-np.linalg.norm((atoms.positions - centre)[:, free], axis=1))
    paths = []
    for atom in outer[:n_paths].tolist():
        direction = np.where(free, atoms.positions[atom] - centre, 0.0)
        norm = float(np.linalg.norm(direction))
        # flat structures: any free axis
        direction = direction / norm if norm > 1e-3 else free / np.sqrt(free.sum())
        paths.append(Path(atoms, atom, direction, cutoff + _BEYOND))
    return paths


def _find_way(atoms: Atoms, atom: int, generator: np.random.Generator) -> Path:
    """Return the path of some that comes nearest to no other atom."""
    directions = generator.standard_normal((_N_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    paths = [Path(atoms, atom, direction, _INSIDE) for direction in directions]
    others = [i for i in range(len(atoms)) if i != atom]
    radii = covalent_radii[atoms.numbers]

    def room(path: Path) -> float:
        places = [path.place(share * path.length) for share in (0.5, 1.0)]
        return min(
            (p.get_distances(atom, others, mic=True) / (radii[atom] + radii[others]))
            .min()
            .item()
            for p in places
        )

    return max(paths, key=room) if others else paths[0]


def _sample(potential: Potential, path: Path, sampling: Sampling) -> list[_Interval]:
    """Return the intervals of a path that are the least smooth."""
    n_intervals = max(6, round(path.length / sampling.spacing))
    places = np.linspace(0.0, path.length, n_intervals + 1)
    answers = potential.evaluate([path.place(place) for place in places])
    energies = np.array(
        [
            _measure(path, (places[k], places[k + 1]), (answers[k], answers[k + 1]))[0]
            for k in range(n_intervals)
        ]
    )
    forces = np.stack([answer.forces for answer in answers])
    steps = np.diff(forces, axis=0)
    # of a smooth function a step is about the mean of those on both sides; the next but
    # one, so that a jump does not show in those beside it
    padded = np.concatenate([steps[2:0:-1], steps, steps[-2:-4:-1]])
    bends = np.abs(steps - 0.5 * (padded[:-4] + padded[4:])).max(axis=(1, 2))
    chosen = [
        (of_forces, k)
        for of_forces, sizes in ((False, energies), (True, bends))
        for k in _choose(sizes, sampling.n_chosen)
    ]
    return [
        _Interval(
            path,
            of_forces,
            (float(places[k]), float(places[k + 1])),
            (answers[k], answers[k + 1]),
        )
        for of_forces, k in chosen
    ]


def _choose(sizes: Array, n: int) -> list[int]:
    """Return the largest ones, and those that stand out from their neighbours."""
    is_outlier = np.zeros(len(sizes), dtype=bool)
    is_outlier[1:-1] = sizes[1:-1] > _OUTLIER * (
        np.maximum(sizes[2:], sizes[:-2]) + _NOISE
    )
    order = np.argsort(-sizes)
    return list(dict.fromkeys([*order[:n], *order[is_outlier[order]][:n]]))


def _measure(
    path: Path, ends: tuple[float, float], answers: tuple[Answer, Answer]
) -> tuple[float, float]:
    """Return by how much the energy (beyond the work) and a force change, eV, eV/Å."""
    one, other = answers
    along = 0.5 * (one.forces + other.forces)[path.atom] @ path.direction
    work = float(along) * (ends[1] - ends[0])
    energy = abs(other.energy - one.energy + work)
    return energy, float(np.abs(other.forces - one.forces).max())


def _halve(interval: _Interval, middle: float, answer: Answer) -> _Interval:
    """Return the half in which more happens."""
    (start, end), (first, last) = interval.ends, interval.answers
    halves: Sequence[_Interval] = [
        _Interval(interval.path, interval.of_forces, (start, middle), (first, answer)),
        _Interval(interval.path, interval.of_forces, (middle, end), (answer, last)),
    ]
    return max(halves, key=_of_change)


def _of_change(interval: _Interval) -> float:
    return interval.change

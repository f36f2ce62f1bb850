"""Energies of atoms that are pushed together: is there a wall, and how high is it?"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pet_calc.data.labels import Array
from pet_calc.validate.limits import WALL

# distances here are in sums of two covalent radii (ASE's, Cordero 2008). Below 0.8 only
# multiple bonds and oxides of large atoms have their minimum, N2 at 0.77, BaO at 0.69,
# V2 at 0.58, and no diatomic molecule below 0.55
COMPRESSED, SHORTEST_BOND = 0.8, 0.55
# bonds end there: a well inside of another one is no bond
OUTERMOST = 1.25
# how near atoms are pushed
NEAREST = 0.3
# eV by which an energy has to fall again behind a barrier to be a hole, and not a
# shoulder of the wall
FALL = 0.2


@dataclass(frozen=True)
class Wall:
    """How high the energy rises before it falls, or as far as it was looked at."""

    height: float
    """eV above the lowest point outside, at most ``WALL``."""
    place: float
    """Distance of the top, Å."""
    is_hole: bool
    """Whether the energy falls behind it, or never rises."""


@dataclass
class Curve:
    """Energy over distance of two atoms that come together."""

    symbols: tuple[str, str]
    bond: float
    """Sum of the covalent radii, Å."""
    distances: Array
    """Å, ascending."""
    energies: Array
    """eV, above those of the atoms apart or of the structure undisturbed."""
    wall: Wall = field(init=False)

    def __post_init__(self) -> None:
        """Judge the curve."""
        self.wall = find_wall(self.distances, self.energies, self.bond)

    @property
    def name(self) -> str:
        """Such as ``H-O``."""
        return "-".join(self.symbols)

    def describe(self) -> str:
        """Return what happens to atoms that are pushed together."""
        wall, share = self.wall, self.wall.place / self.bond
        where = f"at {wall.place:.2f} Å ({share:.2f} of the radii)"
        if not wall.is_hole:
            return f"{self.name} rises to {wall.height:.1f} eV only, {where}"
        if wall.height <= 0:
            return f"{self.name} has no wall, falls in from {wall.place:.2f} Å"
        return f"{self.name} falls in over {wall.height:.1f} eV {where}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pair": list(self.symbols),
            "covalent_sum": self.bond,
            "wall": self.wall.height,
            "at": self.wall.place,
            "is_hole": self.wall.is_hole,
            "distances": np.round(self.distances, 6).tolist(),
            "energies": np.round(self.energies, 6).tolist(),
        }


def find_wall(distances: Array, energies: Array, bond: float) -> Wall:
    """Return the wall that atoms meet inside ``COMPRESSED`` of their radii.

    From the lowest point outside of that the curve is followed inwards: first straight
    down to the minimum, if it lies further in, then up until it falls again.

    Args:
        distances: [n] in Å, ascending.
        energies: [n] in eV.
        bond: sum of the covalent radii, Å.
    """
    if not np.isfinite(energies).all():
        broken = distances[~np.isfinite(energies)].max()
        return Wall(0.0, float(broken), is_hole=True)
    edge = int(np.searchsorted(distances, COMPRESSED * bond - 1e-9))
    edge = min(edge, len(distances) - 1)
    start = edge + int(energies[edge:].argmin())
    bottom = _descend(energies, start)
    if bottom < edge:
        top, well = _find_outer_well(energies, start, distances < OUTERMOST * bond)
        if well is not None:
            height = min(float(energies[top] - energies[well]), WALL)
            return Wall(height, float(distances[top]), is_hole=True)
    if distances[bottom] < SHORTEST_BOND * bond:
        return Wall(0.0, float(distances[start]), is_hole=True)
    lowest = float(energies[bottom])
    i = top = bottom
    while i >= 0:
        if energies[i] > energies[top]:
            top = i
        height = min(float(energies[top]) - lowest, WALL)
        if height >= WALL:
            break
        if energies[i] < energies[top] - FALL:
            i = _descend(energies, i)
            is_bond = distances[i] >= SHORTEST_BOND * bond
            if i < edge and not (is_bond and distances[top] >= OUTERMOST * bond):
                return Wall(height, float(distances[top]), is_hole=True)
            # a well further out, or a bond that atoms part from over a barrier
            top = i
            lowest = min(lowest, float(energies[i]))
        i -= 1
    return Wall(height, float(distances[top]), is_hole=False)


def _find_outer_well(
    energies: Array, start: int, is_near: npt.NDArray[np.bool_]
) -> tuple[int, int | None]:
    """Return the top and the bottom of a well outside of one that is followed in."""
    top = start
    for i in range(start, int(is_near.sum())):
        if energies[i] > energies[top]:
            top = i
        if energies[i] < energies[top] - FALL:
            well = i + int(energies[i : int(is_near.sum())].argmin())
            return top, well
    return top, None


def _descend(energies: Array, start: int) -> int:
    """Return where the energy, followed inwards, stops falling."""
    while start > 0 and energies[start - 1] < energies[start]:
        start -= 1
    return start

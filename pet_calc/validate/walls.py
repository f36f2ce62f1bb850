"""Energies of atoms that are pushed together: is there a wall, and how high is it?"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pet_calc.data.labels import Array
from pet_calc.validate.limits import WALL

# distances here are in sums of two covalent radii (ASE's, Cordero 2008). Below 0.8 only
# multiple bonds and oxides of large atoms have their minimum, N2 at 0.77, BaO at 0.69,
# V2 at 0.58, and no diatomic molecule below 0.55
COMPRESSED, SHORTEST_BOND = 0.8, 0.55
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

    From there the curve is followed inwards: first down to the minimum, if it lies
    inside, then up until it falls again.

    Args:
        distances: [n] in Å, ascending.
        energies: [n] in eV.
        bond: sum of the covalent radii, Å.
    """
    if not np.isfinite(energies).all():
        broken = distances[~np.isfinite(energies)].max()
        return Wall(0.0, float(broken), is_hole=True)
    start = int(np.searchsorted(distances, COMPRESSED * bond - 1e-9))
    start = min(start, len(distances) - 1)
    outside = start + int(energies[start:].argmin())
    k = start
    while k > 0 and energies[k - 1] < energies[k]:
        k -= 1
    lowest = float(energies[k:].min())
    if distances[k] < SHORTEST_BOND * bond:
        # atoms slide in, at most over what lies before 0.8
        top = k + int(energies[k : outside + 1].argmax())
        height = float(energies[top] - energies[outside])
        return Wall(min(height, WALL), float(distances[top]), is_hole=True)
    top = k
    for i in range(k, -1, -1):
        if energies[i] > energies[top]:
            top = i
        height = float(energies[top] - lowest)
        if height >= WALL:
            return Wall(WALL, float(distances[top]), is_hole=False)
        if energies[i] < energies[top] - FALL:
            return Wall(height, float(distances[top]), is_hole=True)
    return Wall(height, float(distances[top]), is_hole=False)

"""A neighbour list that is kept between steps until an atom has moved too far."""

from typing import NamedTuple

import numpy as np

from pet_calc.data.neighbors import (
    Booleans,
    Floats,
    Integers,
    compute_pairs,
    find_reverse,
    mask_cell,
)


class Pairs(NamedTuple):
    """A full neighbour list, sorted by centre, with each pair's reverse."""

    centers: Integers
    neighbors: Integers
    cell_shifts: Integers
    reverse: Integers


class PairCache:
    """Serves neighbour lists that are complete up to ``cutoff``.

    Lists are made up to ``cutoff + skin`` and reused while no atom has moved more than
    half the skin. They may hold pairs beyond the cutoff, which the model drops, so the
    results do not depend on the skin.
    """

    def __init__(self, cutoff: float, *, skin: float) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.n_builds = 0
        """How often the list was made anew."""
        self._pairs: Pairs | None = None
        self._positions = np.zeros((0, 3))
        self._cell = np.zeros((3, 3))
        self._pbc = np.zeros(3, dtype=bool)

    def update(self, positions: Floats, cell: Floats, pbc: Booleans) -> Pairs:
        """Return the pairs of these positions; arguments as in ``compute_pairs``."""
        box = mask_cell(cell, pbc)
        if self._pairs is not None and self._is_valid(positions, box, pbc):
            return self._pairs
        centers, neighbors, shifts = compute_pairs(
            positions, cell, pbc, self.cutoff + self.skin
        )
        reverse = find_reverse(centers, neighbors, shifts)
        self._pairs = Pairs(centers, neighbors, shifts, reverse)
        self._positions, self._cell = positions.copy(), box
        self._pbc = np.array(pbc, dtype=bool)
        self.n_builds += 1
        return self._pairs

    def _is_valid(self, positions: Floats, box: Floats, pbc: Booleans) -> bool:
        if positions.shape != self._positions.shape:
            return False
        if not np.array_equal(self._pbc, pbc) or not np.array_equal(self._cell, box):
            return False
        moved = np.square(positions - self._positions).sum(axis=1).max(initial=0.0)
        return bool(moved <= (0.5 * self.skin) ** 2)

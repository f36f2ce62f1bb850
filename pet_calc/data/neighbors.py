"""Full neighbour lists in one fixed order, with each pair's reverse."""

import numpy as np

from pet_calc.data.neighbor_search import (
    Booleans,
    Floats,
    Integers,
    check_cell,
    check_positions,
    compute_heights,
    find_pairs,
)
from pet_calc.errors import DataError

__all__ = [
    "Booleans",
    "Floats",
    "Integers",
    "check_cell",
    "compute_pairs",
    "find_close_pair",
    "find_reverse",
    "mask_cell",
]

# up to here all distances at once are faster than a cell list
DENSE_ATOMS = 300

_LARGEST_KEY = 2**62


def compute_pairs(
    positions: Floats, cell: Floats, pbc: Booleans, cutoff: float
) -> tuple[Integers, Integers, Integers]:
    """Return every pair i->j closer than ``cutoff``, each also as j->i.

    Args:
        positions: [n_atoms, 3] in Å, inside the cell or not.
        cell: [3, 3]; vectors of directions that are not periodic do not matter.
        pbc: [3].
        cutoff: in Å; the cell may be smaller.

    Returns:
        centers [n_pairs], neighbors [n_pairs] and cell_shifts [n_pairs, 3], with
        r_ij = r_j + shift @ cell - r_i. Sorted by centre, then neighbour, then shift,
        so that the order does not depend on vesin's version or threads.

    Raises:
        DataError: as ``find_pairs``, which says what goes by which algorithm.
    """
    # zero first: what is not periodic may hold anything
    i, j, shifts = find_pairs(
        np.asarray(positions, dtype=np.float64),
        mask_cell(cell, pbc),
        np.asarray(pbc, bool),
        cutoff,
    )
    columns = np.column_stack([i, j, shifts])
    order = np.argsort(_encode(columns))
    columns = columns[order]
    return columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2:].copy()


def find_reverse(
    centers: Integers, neighbors: Integers, cell_shifts: Integers
) -> Integers:
    """Return for each pair i->j the index of j->i with the opposite shift.

    The pairs may come in any order. A list in which a pair has no partner, or is there
    twice, raises ``DataError``.
    """
    columns = np.column_stack([centers, neighbors, cell_shifts]).astype(np.int64)
    opposite = columns[:, [1, 0, 2, 3, 4]] * np.array([1, 1, -1, -1, -1])
    codes = _encode(np.concatenate([columns, opposite]))
    keys, opposite_keys = codes[: len(columns)], codes[len(columns) :]
    is_sorted = bool((keys[1:] > keys[:-1]).all())
    order = np.arange(len(keys)) if is_sorted else np.argsort(keys)
    opposite_order = np.argsort(opposite_keys)
    sorted_keys = keys[order]
    if (sorted_keys[1:] == sorted_keys[:-1]).any():
        raise DataError("the neighbour list has a pair twice")
    if not np.array_equal(sorted_keys, opposite_keys[opposite_order]):
        raise DataError(
            "the neighbour list is not full: some pair i->j has no partner j->i with "
            "the opposite cell shift"
        )
    reverse = np.empty(len(columns), dtype=np.int64)
    reverse[opposite_order] = order
    return reverse


def mask_cell(cell: Floats, pbc: Booleans) -> Floats:
    """Return ``cell`` with zero rows where it is not periodic (metatomic's form)."""
    return np.where(np.asarray(pbc, bool)[:, None], cell, 0.0).astype(np.float64)


def find_close_pair(
    positions: Floats, cell: Floats, pbc: Booleans, distance: float
) -> tuple[int, int, float] | None:
    """Return the closest two atoms (i, j, Å) if nearer than a small ``distance``.

    Periodic images count, an atom's own as well. The cell must have passed
    ``check_cell``.

    Raises:
        DataError: for positions that are not finite, or beyond all bounds.
    """
    box = mask_cell(cell, pbc)
    periodic = np.asarray(pbc, bool)
    n_atoms = len(positions)
    check_positions(positions)
    heights = compute_heights(box, periodic)
    if n_atoms <= DENSE_ATOMS and heights.min(initial=np.inf) > 2 * distance:
        # nearest image by rounding: exact for distances below half of each height
        fractional = positions @ np.linalg.pinv(box)
        i, j = np.triu_indices(n_atoms, k=1)
        images = np.round(fractional[i] - fractional[j]) @ box
        distances = np.linalg.norm(positions[i] - positions[j] - images, axis=1)
    else:
        # 1 Å: the cell list gets slow for bins much smaller than the atoms' spacing
        i, j, shifts = find_pairs(positions, box, periodic, max(distance, 1.0))
        vectors = positions[j] - positions[i] + shifts @ box
        distances = np.linalg.norm(vectors, axis=1)
    if len(distances) == 0:
        return None
    closest = int(distances.argmin())
    if distances[closest] >= distance:
        return None
    return int(i[closest]), int(j[closest]), float(distances[closest])


def _encode(rows: Integers) -> Integers:
    """Return one integer per row of [n, 5], ordered and unique as the rows are.

    Where the product of the columns' ranges would overflow, the columns so far are
    replaced by their ranks, which are below n.
    """
    codes = np.zeros(len(rows), dtype=np.int64)
    if len(rows) == 0:
        return codes
    span = 1  # a Python integer, which cannot overflow
    for column in rows.T:
        low, high = int(column.min()), int(column.max())
        width = high - low + 1
        if span * width > _LARGEST_KEY:
            codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
            span = int(codes.max()) + 1
        if span * width > _LARGEST_KEY:
            column = np.unique(column, return_inverse=True)[1].reshape(-1)
            low, width = 0, int(column.max()) + 1
        codes = codes * width + (column - low)
        span *= width
    return codes

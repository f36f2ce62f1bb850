"""All pairs within a distance, whatever the geometry: the one door to vesin.

vesin divides space into boxes. It is fast, but cells or systems that are very long
and thin end the process with a floating-point signal or take for ever, so those go to
a tree, which does not care about empty space. Nothing else may call vesin.
"""

import numpy as np
import numpy.typing as npt
from ase.geometry import minkowski_reduce
from scipy.spatial import cKDTree
from vesin import NeighborList

from pet_calc.errors import DataError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

# sine of the flattest solid angle, and shortest vector in Å, that still span a lattice
FLATTEST_CELL = 1e-6
SHORTEST_VECTOR = 1e-3

# Å; beyond this float64 does not resolve the 1e-6 Å that forces need
LARGEST_EXTENT = 1e9

# images of one atom within reach: a million times more than in any matter
MOST_IMAGES = 50_000

# vesin 0.6 makes at most 1e5 boxes, and divides by zero where one direction would get
# none; it gets slow with the square of the boxes in one direction
_MOST_BOXES = 5e4
_LONGEST_ROW = 250
_MOST_IMAGES_IN_VESIN = 5_000


def find_pairs(
    positions: Floats, box: Floats, periodic: Booleans, distance: float
) -> tuple[Integers, Integers, Integers]:
    """Return all pairs i->j within a distance, in no order: i, j, shifts.

    r_ij = r_j + shift @ box - r_i. Each pair is there as j->i too: both are judged by
    the same number, also where rounding decides.

    Args:
        positions: [n_atoms, 3] in Å, inside the cell or not.
        box: [3, 3], zero in directions that are not periodic.
        periodic: [3].
        distance: in Å; the cell may be smaller.

    Raises:
        DataError: for numbers that are not finite or too large, and for cells that
            span no lattice or are absurdly small.
    """
    check_cell(box, periodic)
    check_positions(positions)
    if len(positions) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty.copy(), np.zeros((0, 3), dtype=np.int64)
    largest = max(np.abs(positions).max(), np.abs(box).max())
    # what rounding can hide from the search; the vectors below decide
    reach = distance * (1 + 1e-9) + 16 * float(np.finfo(np.float64).eps * largest)
    if _suits_vesin(positions, box, periodic, reach):
        calculator = NeighborList(cutoff=reach, full_list=True)
        i, j, shifts = calculator.compute(positions, box, periodic, "ijS")
        i, j, shifts = (column.astype(np.int64) for column in (i, j, shifts))
    else:
        i, j, shifts = _find_in_tree(positions, box, periodic, reach)
    # one sum after the other: the reverse is minus this to the last digit
    vectors = positions[j] - positions[i]
    for axis in range(3):
        vectors = vectors + shifts[:, axis, None] * box[axis]
    is_near = np.square(vectors).sum(axis=1) <= distance * distance
    if is_near.all():
        return i, j, shifts
    return i[is_near], j[is_near], shifts[is_near]


def check_positions(positions: Floats) -> None:
    """Raise ``DataError`` unless all positions are numbers within bounds."""
    if len(positions) == 0:
        return
    largest = np.abs(positions).max()
    if not np.isfinite(largest):
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise DataError(f"positions are not finite, first that of atom {atom}")
    if largest > LARGEST_EXTENT:
        atom = int(np.abs(positions).max(axis=1).argmax())
        raise DataError(
            f"atom {atom} is {largest:.3g} A from the origin: float64 does not resolve "
            f"bonds beyond {LARGEST_EXTENT:g} A; wrap or shift the positions"
        )


def check_cell(cell: Floats, pbc: Booleans) -> None:
    """Raise ``DataError`` if the periodic vectors do not span a usable lattice."""
    vectors = np.asarray(cell, dtype=np.float64)[np.asarray(pbc, bool)]
    if len(vectors) == 0:
        return
    if not np.isfinite(vectors).all():
        raise DataError("the cell is not finite")
    if np.abs(vectors).max() > LARGEST_EXTENT:
        raise DataError(
            f"the cell has a vector of {np.abs(vectors).max():.3g} A, and "
            f"{LARGEST_EXTENT:g} A is the limit; set pbc to False in that direction"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.min() > SHORTEST_VECTOR:
        flatness = np.linalg.svd(vectors / lengths[:, None], compute_uv=False).min()
        if flatness > FLATTEST_CELL:
            return
    raise DataError(
        f"the periodic cell vectors {np.round(vectors, 6).tolist()} are zero or "
        "linearly dependent; set the cell, or pbc to False"
    )


def check_images(box: Floats, periodic: Booleans, distance: float) -> None:
    """Raise ``DataError`` if an atom sees too many images of itself.

    Args:
        box: as for ``find_pairs``; it must have passed ``check_cell``.
        periodic: [3].
        distance: in Å, how far an atom sees.
    """
    reduced, _ = _reduce(box, np.asarray(periodic, bool))
    _check_heights(compute_heights(reduced, np.asarray(periodic, bool)), distance)


def compute_heights(box: Floats, periodic: Booleans) -> Floats:
    """Return the distances between the lattice planes of the periodic directions."""
    if not periodic.any():
        return np.zeros(0)
    heights: Floats = 1 / np.linalg.norm(np.linalg.pinv(box[periodic]), axis=0)
    return heights


def _suits_vesin(
    positions: Floats, box: Floats, periodic: Booleans, reach: float
) -> bool:
    heights = compute_heights(box, periodic)
    if np.prod(2 * reach / heights + 1) > _MOST_IMAGES_IN_VESIN:
        return False
    # vesin bounds open directions itself; along which axes is not ours to know
    diagonal = float(np.linalg.norm(np.ptp(positions, axis=0)))
    extents = np.full(3, diagonal)
    extents[: len(heights)] = heights
    n_boxes = np.maximum(np.floor(extents / reach), 1.0)
    if n_boxes.max() > _LONGEST_ROW:
        return False
    excess = max(1.0, float(np.prod(n_boxes)) / _MOST_BOXES)
    return bool(n_boxes.min() / np.cbrt(excess) >= 2) or excess == 1.0


def _reduce(box: Floats, periodic: Booleans) -> tuple[Floats, Integers]:
    """Return the most compact cell of the lattice, and the turns that make it."""
    if not periodic.any():
        return box, np.eye(3, dtype=np.int64)
    compact, operation = minkowski_reduce(box, periodic)
    reduced = np.where(periodic[:, None], compact, 0.0)
    return reduced, np.rint(operation).astype(np.int64)


def _check_heights(heights: Floats, reach: float) -> None:
    n_images = float(np.prod(2 * reach / heights + 1)) if len(heights) else 1.0
    if n_images > MOST_IMAGES:
        raise DataError(
            f"the cell is so small that an atom sees {n_images:.2g} images of itself "
            f"within {reach:.3g} A; check the cell and its unit"
        )


def _find_in_tree(
    positions: Floats, box: Floats, periodic: Booleans, reach: float
) -> tuple[Integers, Integers, Integers]:
    """Return all pairs within ``reach`` by a tree over the atoms and their images."""
    reduced, turns = _reduce(box, periodic)
    heights = compute_heights(reduced, periodic)
    _check_heights(heights, reach)
    inverse = np.linalg.pinv(reduced) if periodic.any() else np.zeros((3, 3))
    fractional = positions @ inverse
    turns_home = np.floor(fractional).astype(np.int64) * periodic
    wrapped = positions - turns_home @ reduced
    fractional = fractional - turns_home

    margin = np.zeros(3)
    # the slack covers atoms that rounding left just outside the cell
    margin[periodic] = reach / heights + 1e-6
    ranges = [np.arange(-int(np.ceil(m)), int(np.ceil(m)) + 1) for m in margin]
    owners, shifts = [], []
    for shift in np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3):
        moved = fractional + shift
        is_close = (~periodic | ((moved >= -margin) & (moved <= 1 + margin))).all(1)
        owner = np.flatnonzero(is_close)
        owners.append(owner)
        shifts.append(np.broadcast_to(shift, (len(owner), 3)))
    owner_of, shift_of = np.concatenate(owners), np.concatenate(shifts)
    images = cKDTree(wrapped[owner_of] + shift_of @ reduced)
    found = cKDTree(wrapped).sparse_distance_matrix(
        images, reach, output_type="ndarray"
    )
    i = found["i"].astype(np.int64)
    j, shift = owner_of[found["j"]], shift_of[found["j"]]
    is_pair = (i != j) | shift.any(axis=1)
    i, j, shift = i[is_pair], j[is_pair], shift[is_pair]
    total = shift - turns_home[j] + turns_home[i]
    return i, j, total @ turns

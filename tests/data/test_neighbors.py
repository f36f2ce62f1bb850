import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from pet_calc.data.neighbors import (
    compute_pairs,
    find_close_pair,
    find_reverse,
    mask_cell,
)
from pet_calc.errors import DataError

CUTOFF = 4.7
NO_PBC = np.zeros(3, dtype=bool)
ALL_PBC = np.ones(3, dtype=bool)
NAMES = [
    "molecule",
    "bulk",
    "slab",
    "one-atom cell",
    "tiny cell",
    "triclinic",
    "wire",
    "isolated atom",
    "far apart",
]


def compute(atoms, cutoff=CUTOFF):
    return compute_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_those_of_ase(structures, name):
    atoms = structures[name]
    centers, neighbors, shifts = compute(atoms)
    i, j, s = neighbor_list("ijS", atoms, CUTOFF)
    ours = sorted(zip(centers, neighbors, *shifts.T, strict=True))
    assert ours == sorted(zip(i, j, *s.T, strict=True))
    assert [a.dtype for a in (centers, neighbors, shifts)] == [np.int64] * 3


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_sorted_and_within_the_cutoff(structures, name):
    atoms = structures[name]
    centers, neighbors, shifts = compute(atoms)
    assert (np.diff(centers) >= 0).all()
    vectors = atoms.positions[neighbors] - atoms.positions[centers]
    vectors += shifts @ atoms.cell.array
    assert (np.linalg.norm(vectors, axis=1) <= CUTOFF).all()


@pytest.mark.parametrize("name", NAMES)
def test_reverse_swaps_the_atoms_and_the_shift(structures, name):
    centers, neighbors, shifts = compute(structures[name])
    reverse = find_reverse(centers, neighbors, shifts)
    np.testing.assert_array_equal(centers[reverse], neighbors)
    np.testing.assert_array_equal(shifts[reverse], -shifts)
    np.testing.assert_array_equal(reverse[reverse], np.arange(len(centers)))
    # an image of itself is never its own reverse: the shift is not zero
    assert (reverse != np.arange(len(centers))).all()


def test_reverse_does_not_need_sorted_pairs(structures):
    pairs = compute(structures["triclinic"])
    order = np.random.default_rng(0).permutation(len(pairs[0]))
    centers, neighbors, shifts = (column[order] for column in pairs)
    reverse = find_reverse(centers, neighbors, shifts)
    np.testing.assert_array_equal(centers[reverse], neighbors)
    np.testing.assert_array_equal(shifts[reverse], -shifts)


def test_reverse_survives_numbers_whose_product_overflows():
    big = 2**40
    centers = np.array([0, big, 5, 7])
    neighbors = np.array([big, 0, 7, 5])
    shifts = np.array([[big, -big, 1], [-big, big, -1], [0, 0, big], [0, 0, -big]])
    reverse = find_reverse(centers, neighbors, shifts)
    np.testing.assert_array_equal(reverse, [1, 0, 3, 2])


def test_a_half_list_is_refused(structures):
    centers, neighbors, shifts = compute(structures["bulk"])
    half = centers < neighbors
    with pytest.raises(DataError, match="not full"):
        find_reverse(centers[half], neighbors[half], shifts[half])


def test_a_pair_given_twice_is_refused(structures):
    pairs = compute(structures["molecule"])
    with pytest.raises(DataError, match="twice"):
        find_reverse(*(np.concatenate([column, column]) for column in pairs))


def test_no_atoms_have_no_pairs():
    centers, neighbors, shifts = compute_pairs(
        np.zeros((0, 3)), np.zeros((3, 3)), NO_PBC, 5.0
    )
    assert centers.shape == neighbors.shape == (0,)
    assert shifts.shape == (0, 3)
    assert find_reverse(centers, neighbors, shifts).shape == (0,)


@pytest.mark.parametrize("name", ["molecule", "slab", "wire"])
@pytest.mark.parametrize("vector", [[0, 0, 0], [0.1, 0.2, 0.1], [np.nan, 0, 0]])
def test_a_vector_that_is_not_periodic_does_not_matter(structures, name, vector):
    atoms = structures[name]
    expected = compute(atoms)
    cell = atoms.cell.array.copy()
    cell[~atoms.pbc] = vector
    found = compute_pairs(atoms.positions, cell, atoms.pbc, CUTOFF)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not mask_cell(cell, atoms.pbc)[~atoms.pbc].any()


@pytest.mark.parametrize(
    "cell",
    [
        np.zeros((3, 3)),
        np.diag([4.0, 4.0, 0.0]),
        [[1, 0, 0], [0, 1, 0], [1, 1, 0]],
        [[4, 0, 0], [0, 4, 0], [0, 0, np.nan]],
    ],
)
def test_a_degenerate_periodic_cell_is_refused(cell):
    with pytest.raises(DataError, match="cell"):
        compute_pairs(np.zeros((1, 3)), np.array(cell, float), ALL_PBC, 5.0)


def test_positions_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        compute_pairs(np.full((1, 3), np.nan), np.zeros((3, 3)), NO_PBC, 5.0)


@pytest.mark.parametrize("n_others", [0, 400])  # the direct and the cell-list way
def test_a_close_pair_is_found_across_the_boundary(n_others):
    cell = np.array([[30, 0, 0], [7, 30, 0], [-5, 8, 30.0]])
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), -1).reshape(-1, 3)
    others = (0.06 + grid[:n_others] / 9) @ cell
    pair = np.array([[0.001, 0.5, 0.5], [0.9999, 0.5, 0.5]]) @ cell
    positions = np.concatenate([others, pair])
    found = find_close_pair(positions, cell, ALL_PBC, 0.05)
    assert found is not None
    assert sorted(found[:2]) == [n_others, n_others + 1]
    assert found[2] == pytest.approx(0.0011 * 30, rel=1e-9)
    assert find_close_pair(positions, cell, NO_PBC, 0.05) is None


def test_an_atom_on_its_own_image_is_a_close_pair():
    cell = np.diag([0.04, 5.0, 5.0])
    assert find_close_pair(np.zeros((1, 3)), cell, ALL_PBC, 0.05) is not None

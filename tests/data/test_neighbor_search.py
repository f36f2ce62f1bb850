"""Any geometry gets the pairs that ASE finds, or an error with its name."""

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import build_model

from pet_calc.calculator import PETCalculator
from pet_calc.data import neighbor_search
from pet_calc.data.neighbors import compute_pairs, find_close_pair, find_reverse
from pet_calc.errors import DataError

CUTOFF = 4.5
# pairs closer to the cutoff than this may be in one list and not in the other
UNDECIDED = 1e-6


def collect(atoms, centers, neighbors, shifts):
    """The pairs as a set, without those at the cutoff."""
    vectors = atoms.positions[neighbors] - atoms.positions[centers]
    lengths = np.linalg.norm(vectors + shifts @ atoms.cell.array, axis=1)
    sure = np.abs(lengths - CUTOFF) > UNDECIDED
    assert (lengths[sure] < CUTOFF).all()
    columns = np.column_stack([centers, neighbors, shifts])[sure]
    assert len(np.unique(columns, axis=0)) == len(columns)
    return set(map(tuple, columns.tolist()))


def compute(atoms):
    pairs = compute_pairs(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    find_reverse(*pairs)  # raises unless each pair has its partner
    return collect(atoms, *pairs)


def compute_as_ase(atoms):
    return collect(atoms, *neighbor_list("ijS", atoms, CUTOFF + UNDECIDED))


lengths = st.one_of(
    st.floats(1.5, 12.0), st.floats(12.0, 300.0), st.sampled_from([1e4, 1e5, 1e6])
)
tilts = st.floats(-1.5, 1.5)
coordinates = st.one_of(
    st.floats(-0.5, 1.5), st.floats(-30.0, 30.0), st.sampled_from([0.0, 0.5, 1.0, -1.0])
)


@st.composite
def structures(draw):
    """One to six atoms in a cell of any shape, with any boundaries."""
    sides = [draw(lengths) for _ in range(3)]
    cell = np.diag(sides)
    smallest = min(sides)
    cell[1, 0], cell[2, 0], cell[2, 1] = (draw(tilts) * smallest for _ in range(3))
    pbc = [draw(st.booleans()) for _ in range(3)]
    n_atoms = draw(st.integers(1, 6))
    scaled = np.array([[draw(coordinates) for _ in range(3)] for _ in range(n_atoms)])
    return Atoms("H" * n_atoms, cell=cell, positions=scaled @ cell, pbc=pbc)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(structures())
def test_pairs_are_those_of_ase(atoms):
    assert compute(atoms) == compute_as_ase(atoms)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(structures())
def test_the_tree_finds_what_vesin_finds(atoms):
    box = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    found = neighbor_search._find_in_tree(atoms.positions, box, atoms.pbc, CUTOFF)
    assert collect(atoms, *found) == compute_as_ase(atoms)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(structures(), st.integers(-(10**6), 10**6), st.integers(0, 2))
def test_lattice_vectors_move_atoms_without_changing_the_pairs(atoms, turns, axis):
    before = compute(atoms)
    moved = atoms.copy()
    if atoms.pbc[axis] and abs(turns) * np.abs(atoms.cell[axis]).max() < 1e8:
        moved.positions[0] += turns * atoms.cell.array[axis]
    pairs = compute_pairs(moved.positions, moved.cell.array, moved.pbc, CUTOFF)
    find_reverse(*pairs)
    assert abs(len(pairs[0]) - len(before)) <= 2 * (turns != 0) * len(before) * 1e-3 + 2


def build_extreme(kind, size):
    """The shapes that ended the process, or did not end."""
    cell, pbc = np.diag([3.0, 3.0, 3.0]), [True, True, True]
    positions = np.array([[0.0, 0, 0], [1.5, 1.5, 1.0]])
    if kind == "needle":
        cell[2, 2] = size
    elif kind == "plate":
        cell[0, 0] = cell[1, 1] = size
    elif kind == "slab":
        pbc, positions[1, 2] = [True, True, False], size
    elif kind == "wire":
        pbc, positions[1, 1:] = [True, False, False], size
    elif kind == "open":
        pbc, positions[1, 2] = [False] * 3, size
    elif kind == "skew":
        cell[1, 0] = 3 * min(size, 1e5)  # the same lattice; flatter is refused
    elif kind == "outside":
        positions[1, 2] += 3 * size
    return Atoms("H2", cell=cell, positions=positions, pbc=pbc)


KINDS = ["needle", "plate", "slab", "wire", "open", "skew", "outside"]


@pytest.mark.parametrize("size", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_long_thin_shapes_have_the_pairs_of_short_ones(kind, size):
    atoms = build_extreme(kind, size)
    # far enough for nothing to be seen across, and the same for multiples of the cell
    short = build_extreme(kind, 30.0)
    count = compute_pairs(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    expected = compute_pairs(short.positions, short.cell.array, short.pbc, CUTOFF)
    assert len(count[0]) == len(expected[0])
    find_reverse(*count)


@pytest.mark.parametrize("kind", KINDS)
def test_close_pairs_are_looked_for_in_any_shape(kind):
    atoms = build_extreme(kind, 1e6)
    arguments = (atoms.positions, atoms.cell.array, atoms.pbc)
    assert find_close_pair(*arguments, 0.05) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_calculator_answers_for_any_shape(kind):
    calculator = PETCalculator(build_model(), compile=False)
    atoms = build_extreme(kind, 1e6)
    atoms.numbers[:] = 14
    short = build_extreme(kind, 30.0)
    short.numbers[:] = 14
    # 1e6 Å: positions are known to 1e-10 Å
    np.testing.assert_allclose(
        calculator.get_property("forces", atoms),
        calculator.get_property("forces", short),
        atol=1e-8,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": [[np.nan, 0, 0]]}, "not finite"),
        ({"positions": [[np.inf, 0, 0]]}, "not finite"),
        ({"positions": [[1e12, 0, 0]]}, "from the origin"),
        ({"cell": [[4, 0, 0], [0, np.nan, 0], [0, 0, 4]]}, "cell is not finite"),
        ({"cell": np.diag([4, 4, np.inf])}, "cell is not finite"),
        ({"cell": np.diag([4, 4, 1e12])}, "limit"),
        ({"cell": np.diag([4, 4, 0])}, "linearly dependent"),
        ({"cell": [[1, 0, 0], [0, 1, 0], [1, 1, 1e-9]]}, "linearly dependent"),
        ({"cell": np.diag([2e-3, 2e-3, 4])}, "images of itself"),
    ],
)
def test_what_cannot_be_searched_is_named(change, message):
    values = {"positions": [[0.0, 0, 0]], "cell": np.eye(3) * 4, **change}
    atoms = Atoms("Si", pbc=True, **values)
    with pytest.raises(DataError, match=message):
        compute(atoms)
    with pytest.raises(DataError, match=message):
        PETCalculator(build_model(), compile=False).get_potential_energy(atoms)


def test_a_molecule_may_have_a_cell_that_is_not_finite():
    atoms = Atoms("Si2", positions=[[0, 0, 0], [2.2, 0, 0]])
    calculator = PETCalculator(build_model(), compile=False)
    expected = calculator.get_property("forces", atoms)
    odd = atoms.copy()
    odd.cell[:] = np.nan
    np.testing.assert_array_equal(calculator.get_property("forces", odd), expected)

"""Farthest points: the greedy choice, from seeds or from a first point."""

import sys

import numpy as np
import pytest

from pet_calc.errors import ConfigError
from pet_calc.select.farthest import choose_farthest, require_library


def choose_by_hand(points, n_points, seeds, start):
    """The same, by all distances."""
    taken, distances = [], []
    for _ in range(n_points):
        there = [*seeds, *points[taken]]
        if there:
            steps = points[:, None] - np.array(there)
            nearest = np.linalg.norm(steps, axis=2).min(axis=1)
            best = int(nearest.argmax())
            distances.append(nearest[best])
        else:
            best = start
            distances.append(np.inf)
        taken.append(best)
    return taken, distances


@pytest.mark.parametrize("n_seeds", [0, 1, 6])
def test_each_point_is_the_farthest_from_those_before(n_seeds):
    pytest.importorskip("skmatter")
    rng = np.random.default_rng(0)
    # far from the origin, as features of one substance are
    points = 100.0 + rng.standard_normal((40, 5))
    seeds = 100.0 + rng.standard_normal((n_seeds, 5))
    found = choose_farthest(points, 7, seeds=seeds, start=3)
    taken, distances = choose_by_hand(points, 7, seeds, 3)
    assert found.indices.tolist() == taken
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)


def test_all_points_are_taken_where_there_are_too_few():
    pytest.importorskip("skmatter")
    points = np.arange(6.0).reshape(3, 2)
    assert sorted(choose_farthest(points, 10).indices) == [0, 1, 2]
    assert choose_farthest(points[:1], 10).indices.tolist() == [0]
    seeded = choose_farthest(points[:1], 10, seeds=points[1:])
    assert seeded.indices.tolist() == [0]
    assert seeded.distances[0] == pytest.approx(np.sqrt(8.0))


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skmatter.sample_selection", None)
    with pytest.raises(ConfigError, match=r"pip install 'pet-calc\[select\]'"):
        require_library()

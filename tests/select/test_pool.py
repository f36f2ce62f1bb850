"""The pool: the most uncertain of a stream, near copies once, in flat memory."""

import numpy as np
import pytest

from pet_calc.select.features import Candidate
from pet_calc.select.pool import Pool


def fill(pool, points, values, near=0.0):
    for point, value in zip(points, values, strict=True):
        pool.add(Candidate(None, np.array([point, 0.0]), value), near)
        assert len(pool.candidates) < 2 * pool.size
    pool.close()
    return sorted(float(c.features[0]) for c in pool.candidates)


def test_the_most_uncertain_frames_stay_in_whatever_order_they_come():
    rng = np.random.default_rng(0)
    values = rng.permutation(100).astype(float)
    pool = Pool(10, is_ranked=True)
    fill(pool, np.arange(100), values)
    assert sorted(c.uncertainty for c in pool.candidates) == list(range(90, 100))
    assert (pool.n_dropped, pool.n_copies) == (90, 0)
    # the features are still those of their frames
    own = [c.features[0] for c in pool.candidates]
    np.testing.assert_array_equal(pool.features[:, 0], own)


def test_of_near_copies_the_most_uncertain_one_stays():
    pool = Pool(10, is_ranked=True)
    assert fill(pool, [0.0, 5.0, 0.1, 5.1], [1, 4, 2, 3], 0.2) == [0.1, 5.0]
    assert pool.n_copies == 2


def test_a_frame_may_stand_for_several_copies():
    pool = Pool(10, is_ranked=True)
    assert fill(pool, [0.0, 0.3, 0.15], [1, 1, 2], 0.2) == [0.15]
    assert pool.n_copies == 2


def test_without_uncertainty_the_first_of_near_copies_stays():
    pool = Pool(10, is_ranked=False)
    assert fill(pool, [0.0, 0.1, 5.0], [None] * 3, 0.2) == [0.0, 5.0]


def test_without_uncertainty_the_frames_that_stay_are_spread():
    pytest.importorskip("skmatter")
    points = np.concatenate([np.linspace(0, 1, 50), [10.0], np.linspace(1, 2, 50)])
    pool = Pool(5, is_ranked=False)
    found = fill(pool, points, [None] * len(points))
    assert len(found) == 5
    assert 10.0 in found
    # the others cover 0 to 2
    assert max(np.diff(found[:4])) <= 1.0
    assert pool.n_dropped == 96

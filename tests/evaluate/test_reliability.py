"""Errors against uncertainties in sums."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import spearmanr

from pet_calc.evaluate.reliability import Reliability


def draw(n=20_000, seed=0):
    """Errors that are normal with the uncertainties that are stated."""
    rng = np.random.default_rng(seed)
    deviations = 10.0 ** rng.uniform(-3, -1, n)
    return deviations * rng.standard_normal(n), deviations


def build(errors, deviations):
    found = Reliability()
    found.add(errors, deviations)
    return found


def test_normal_errors_are_covered_as_normal_ones_are():
    one, two = build(*draw()).find_coverage()
    assert one == pytest.approx(0.683, abs=0.01)
    assert two == pytest.approx(0.954, abs=0.005)


def test_the_table_goes_from_sure_to_unsure_in_rows_of_like_size():
    rows = build(*draw()).tabulate()
    assert len(rows) == 5
    assert all(3000 < row["n_frames"] < 5000 for row in rows)
    predicted = [row["uncertainty"] for row in rows]
    assert predicted == sorted(predicted)
    for row in rows:
        assert row["error"] == pytest.approx(row["uncertainty"], rel=0.05)


def test_rank_correlation_is_spearman_s_up_to_the_width_of_a_bin():
    errors, deviations = draw(2000)
    expected = spearmanr(np.abs(errors), deviations).statistic
    assert build(errors, deviations).correlate_ranks() == pytest.approx(
        expected, abs=5e-3
    )


@pytest.mark.parametrize("values", [[0.1] * 8, [0.1, 0.2]])
def test_equal_or_few_uncertainties_have_no_rank_correlation(values):
    assert build(np.arange(len(values)), np.array(values)).correlate_ranks() is None


def test_parts_add_up_to_the_whole():
    errors, deviations = draw(500)
    parts = build(errors[:200], deviations[:200])
    parts.merge(build(errors[200:], deviations[200:]))
    whole, merged = (json.dumps(x.to_dict()) for x in (build(*draw(500)), parts))
    ours, theirs = json.loads(merged), json.loads(whole)
    for row, other in zip(ours.pop("table"), theirs.pop("table"), strict=True):
        assert row == pytest.approx(other)
    assert ours == theirs


def test_size_does_not_grow_with_the_number_of_frames():
    def measure(n):
        return len(json.dumps(asdict(build(*draw(n)))))

    assert measure(100_000) < 2 * measure(5000)


def test_nothing_finite_is_needed():
    found = build(np.array([0.0, np.inf, 1.0]), np.array([0.0, 1.0, np.nan]))
    assert found.count == 3
    assert found.find_coverage() == (pytest.approx(1 / 3), pytest.approx(1 / 3))

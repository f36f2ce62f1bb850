"""Rows, their limits and verdicts, and what is printed of them."""

import json

import ase.build
import numpy as np
import pytest
from support.potentials import build_potential

from pet_calc.validate.limits import LIMITS
from pet_calc.validate.report import Row, ValidationReport
from pet_calc.validate.walls import Curve


def test_every_limit_has_a_reason_and_fails_beyond_its_warning():
    for name, limit in LIMITS.items():
        assert limit.reason.endswith("."), name
        for is_float32 in (False, True):
            warn, fail = limit.get(is_float32=is_float32)
            assert (fail < warn) if limit.is_least else (warn < fail), name


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("forces", 0.01, "ok"),
        ("forces", 0.02, "warn"),
        ("forces", 2.0, "fail"),
        ("forces", float("nan"), "fail"),
        ("dimers", 10.0, "ok"),
        ("dimers", 9.9, "warn"),
        ("dimers", 1.9, "fail"),
        ("modes", -3.0, "ok"),
        ("elastic", -0.1, "fail"),
    ],
)
def test_a_row_is_judged_by_its_limits(name, value, verdict):
    assert Row(name, value).verdict == verdict


def test_float32_has_limits_of_its_own():
    assert Row("forces", 2.0, is_float32=True).verdict == "ok"
    assert Row("rotation", 2.0, is_float32=True).verdict == "warn"


def test_the_worst_row_decides_and_the_others_are_counted():
    report = ValidationReport("m", "s", [Row("forces", 0.0), Row("stress", 0.01)])
    assert report.verdict == "warn"
    report.rows.append(Row("dimers", 0.0, "N-N has no wall"))
    assert report.verdict == "fail"
    assert report.summarize() == "1 fail (dimers), 1 warn (stress), 1 ok"
    lines = report.to_text().splitlines()
    assert lines[-1] == "fail  1 fail (dimers), 1 warn (stress), 1 ok"
    assert lines[-2] == "      -> N-N has no wall"


def test_lines_of_the_table_fit_a_terminal():
    rows = [Row(name, -123.456, "word " * 60) for name in LIMITS]
    text = ValidationReport("m", "s", rows).to_text()
    assert max(map(len, text.splitlines())) <= 100


def test_a_report_is_json_also_where_a_row_has_no_number():
    curve = Curve(("H", "O"), 0.97, np.array([0.3, 0.6, 0.9]), np.array([9, 2.0, 0]))
    report = ValidationReport("m", "s", [Row("drift", float("nan"))], curves=[curve])
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["rows"][0]["value"] is None
    assert values["rows"][0]["verdict"] == "fail"
    assert values["dimers"][0]["pair"] == ["H", "O"]
    assert "dimers" not in report.to_dict(with_curves=False)


def test_a_potential_answers_one_by_one_as_all_at_once():
    """Without a model that takes batches the calculator is asked."""
    potential = build_potential()
    bulk = ase.build.bulk("Al", "fcc", 3.4)
    water = ase.build.molecule("H2O")
    first, second = potential.evaluate([bulk, water])
    assert first.stress.shape == (3, 3)
    assert second.stress is None
    bulk.calc = potential.calculator
    np.testing.assert_allclose(first.stress, bulk.get_stress(voigt=False), atol=1e-12)

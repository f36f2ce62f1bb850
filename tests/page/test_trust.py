"""What the page says on physics and uncertainty, where they were looked at."""

import numpy as np
import pytest
from support.pages import EVIL

from pet_calc.evaluate.reliability import Reliability
from pet_calc.page.read import ReadRun
from pet_calc.page.trust import judge_physics, list_physics, plot_trust
from pet_calc.page.verdict import judge

DRIFT = {
    "name": "drift",
    "value": 0.02,
    "unit": "meV/atom/ps",
    "warn": 0.1,
    "fail": 1.0,
    "is_least": False,
    "verdict": "ok",
    "meaning": "energy that NVE makes",
    "detail": "1 ps, 64 atoms",
}
WALLS = {
    **DRIFT,
    "name": "dimers",
    "value": 12.0,
    "unit": "eV",
    "is_least": True,
    "detail": "",
}


def build_run(tmp_path, rows, key="physics"):
    report = {
        "validation": {"energy_mae": 0.01, "forces_mae": 0.05},
        "zero_step": {"energy_mae": 0.02, "forces_mae": 0.1},
        "best_epoch": 3,
        key: {"rows": rows, "skipped": {"phonons": "no crystal"}, "frame": EVIL},
    }
    return ReadRun(tmp_path, report, is_ended=True)


@pytest.mark.parametrize("key", ["physics", "validate"])
def test_each_check_is_a_row_with_its_limit_and_verdict(tmp_path, key):
    table = list_physics(build_run(tmp_path, [DRIFT, WALLS], key))
    shown = [[cell.text for cell in row] for row in table.rows]
    assert shown[0][:4] == ["drift", "0.02 meV/atom/ps", "below 0.1", "good"]
    assert shown[1][:4] == ["dimers", "12 eV", "above 0.1", "good"]
    assert shown[2][3:] == ["not made", "-", "no crystal"]
    assert table.rows[0][1].key == f"{key}.rows.0.value"


def test_the_drift_takes_the_place_of_the_advice_to_measure_it(tmp_path):
    with_drift = " ".join(s.text for s in judge(build_run(tmp_path, [DRIFT])))
    assert "Drift of the energy without a thermostat: 0.02 meV/atom/ps" in with_drift
    assert "1 check is good" in with_drift
    assert "No dynamics was run" not in with_drift
    without = " ".join(s.text for s in judge(build_run(tmp_path, [])))
    assert "No dynamics was run" in without


def test_a_check_that_fails_forbids_dynamics(tmp_path):
    bad = {**DRIFT, "verdict": "fail", "value": None}
    (sentence,) = judge_physics(build_run(tmp_path, [bad, WALLS]))
    assert sentence.tone == "bad"
    assert "1 check is good; drift fails (1 ps, 64 atoms)" in sentence.text
    assert "no dynamics" in sentence.text


def test_the_short_form_without_dynamics_does_not_say_that_some_was_run(tmp_path):
    text = " ".join(s.text for s in judge(build_run(tmp_path, [WALLS])))
    assert "Physics (" in text
    assert "No dynamics was run" in text


def test_calibration_is_drawn_from_the_table_of_the_report(tmp_path):
    reliability = Reliability()
    rng = np.random.default_rng(0)
    deviations = rng.uniform(0.001, 0.01, 200)
    reliability.add(deviations * rng.standard_normal(200), deviations)
    values = reliability.to_dict()
    run = ReadRun(
        tmp_path, {"uncertainty": {"energy/pbe": {"reliability": values}}}, True
    )
    (plot,) = plot_trust(run)
    assert plot.name == "calibration_energy-pbe"
    wanted = [1000 * row["error"] for row in values["table"]]
    assert plot.columns["found (meV/atom)"] == wanted
    assert sum(plot.columns["frames"]) == 200

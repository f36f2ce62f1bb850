"""How a training ends on the command line."""

import pytest

from pet_calc.cli.run_report import finish_run
from pet_calc.train.report import RunReport


def build_report(folder, **values):
    common = {"method": "lora", "target": "energy", "n_steps": 0, "best_epoch": 0}
    path = str(folder / "best_model.ckpt")
    return RunReport(**common, seconds=0.0, best_model=path, **values)


@pytest.mark.parametrize(
    ("end", "values", "status"),
    [("diverged", {}, 1), ("interrupted", {"signal": 15}, 143)],
)
def test_a_run_without_a_result_ends_with_a_status(tmp_path, end, values, status):
    """`finetune ... && export ...` must not go on with the base."""
    with pytest.raises(SystemExit) as ended:
        finish_run(build_report(tmp_path, end=end, **values))
    assert ended.value.code == status


def test_a_finished_run_ends_with_none(tmp_path):
    finish_run(build_report(tmp_path, end="finished"))

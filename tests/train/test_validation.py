"""Whether an error is still sinking: what it says of the length of a run."""

from types import SimpleNamespace

import pytest
from support.runs import build_options, read_log

from pet_calc.config import TrainOptions, replace
from pet_calc.page.read import read_run
from pet_calc.page.verdict import judge, list_next_steps
from pet_calc.train import loop, validation
from pet_calc.train.run import run_training
from pet_calc.train.task import RunState
from pet_calc.train.validation import is_falling, still_improves


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def sink(n, rate=0.9):
    return [rate**k for k in range(n)]


@pytest.mark.parametrize(
    ("losses", "best", "is_improving"),
    [
        (sink(21), 20, True),
        (sink(21, rate=0.9997), 20, False),  # 0.1 % in the last fifth is nothing
        ([*sink(11), *[0.35] * 10], 10, False),  # flat since the middle
        ([*sink(16), 0.3, 0.28, 0.25, 0.23, 0.19], 15, False),  # better before
        ([*sink(19), 0.2, 0.2], 18, True),  # the last one need not be the best
        ([1.0, 0.5], 1, True),  # one epoch alone
        ([1.0, 2.0], 0, False),
    ],
)
def test_a_run_that_ended_while_its_error_was_sinking(losses, best, is_improving):
    n_since = len(losses) - 1 - best
    assert still_improves(losses, n_since) == is_improving


def test_one_lucky_epoch_does_not_hide_a_fall():
    assert is_falling([1.0, 0.95, 0.5, 0.9, 0.8, 0.78], 3)
    assert not is_falling([1.0, 0.95, 0.5, 0.9, 0.96, 0.97], 3)
    assert not is_falling([0.5], 1)


def test_a_run_that_still_improves_says_how_to_go_on(tmp_path, monkeypatch):
    # the rate is so low that the error sinks to the end, by a little
    monkeypatch.setattr(validation, "_FALL", 0.0)
    options = build_options(
        tmp_path,
        method="full",
        learning_rate=1e-4,
        epochs=10,
        train={"augmentation": "none"},
    )
    report = run(options)
    assert report.next_epochs == 20
    assert "resume the run and go on to 20" in report.to_text()
    found = read_run(tmp_path / "run")
    assert any("go on to 20" in sentence.text for sentence in judge(found))
    name, command = list_next_steps(found)[0]
    assert name == "still improving: go on"
    assert command.split()[:2] == ["pet-calc", "finetune"]
    assert str(tmp_path / "run" / "options_resolved.yaml") in command
    assert command.endswith("--resume --set training.num_epochs=20")


def test_patience_waits_while_the_error_sinks():
    """The best epoch of a noisy run may be a lucky one."""
    options = TrainOptions(early_stopping_patience=3)

    def is_stale(*losses):
        state = RunState(epoch=5, best_epoch=2, losses=list(losses))
        return loop.Trainer._is_stale(SimpleNamespace(options=options, state=state))

    assert not is_stale(1.0, 0.95, 0.5, 0.9, 0.8, 0.78)
    assert is_stale(1.0, 0.95, 0.5, 0.9, 0.96, 0.97)


def test_the_best_epoch_has_the_least_absolute_errors(tmp_path):
    """All frames of a set in one step: the sum follows from the errors."""
    report = run_training(
        build_options(tmp_path, train={"batch_size": 8}), show_progress=False
    )
    rows = read_log(tmp_path / "run")
    for row in rows:
        errors = 10**0.5 * row["val_energy_mae"] + row["val_forces_mae"]
        assert row["metric"] == pytest.approx(errors, rel=1e-9)
    least = min(rows, key=lambda row: row["metric"])
    assert report.best_epoch == least["epoch"]


def test_a_run_that_goes_on_compares_like_with_like(tmp_path):
    """The best epoch so far is judged by the number that picks from now on."""
    options = build_options(tmp_path, train={"best_model_metric": "loss"})
    run_training(options, show_progress=False, stop_after=3)
    changed = replace(
        options, train=replace(options.train, best_model_metric="mae_sum")
    )
    run_training(changed, show_progress=False, is_resumed=True)
    rows = read_log(tmp_path / "run")
    before = min(rows[:3], key=lambda row: row["val_loss"])["val_mae_sum"]
    assert rows[3]["is_best"] == (rows[3]["val_mae_sum"] < before)

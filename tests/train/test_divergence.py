"""Rates that are too high: found early, halved, said once; never a silent base."""

import json
import logging

import pytest
import torch
import yaml
from support.frames import write_frames
from support.levels import write_levels
from support.runs import (
    assert_same_state,
    build_options,
    check_resume,
    read_log,
    write_base,
)

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import read_options, replace
from pet_calc.errors import DataError
from pet_calc.train import loop
from pet_calc.train.divergence import (
    MOST_RESTARTS,
    StartWatch,
    describe_late_divergence,
)
from pet_calc.train.report import RunReport
from pet_calc.train.results import warn_of_the_start
from pet_calc.train.run import run_training
from pet_calc.train.task import RunState

# the tiny base bears a quarter of it
TOO_HIGH = 0.2


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def test_a_run_that_diverges_begins_again_at_half_the_rate(tmp_path, caplog):
    options = build_options(tmp_path, learning_rate=TOO_HIGH, epochs=12)
    with caplog.at_level("WARNING", "pet_calc"):
        report = run(options)
    assert report.end == "finished"
    first = report.restarts[0]
    assert (first["learning_rate"], first["step"]) == (TOO_HIGH, 3)
    assert "times that before the first step" in first["why"]
    assert report.learning_rate == TOO_HIGH / 2 ** len(report.restarts)
    # once each, and where people and programs look
    said = [text for text in caplog.messages if text.startswith("diverged")]
    assert len(said) == len(report.restarts)
    assert "at learning rate 0.2:" in said[0]
    assert "begins again at 0.1" in said[0]
    assert set(said) <= set(report.facts["warnings"])
    assert "diverged" in report.to_text()
    saved = json.loads((tmp_path / "run" / "report.json").read_text())
    assert saved["restarts"] == report.restarts
    # the log is that of the last attempt
    rows = read_log(tmp_path / "run")
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert {row["restarts"] for row in rows} == {len(report.restarts)}


def test_what_begins_again_is_what_begins_at_that_rate(tmp_path):
    high = build_options(tmp_path, output="high", learning_rate=TOO_HIGH, epochs=12)
    report = run(high)
    low = replace(
        high,
        output=str(tmp_path / "low"),
        train=replace(high.train, learning_rate=report.learning_rate),
    )
    assert run(low).restarts == []
    one, other = (
        load_checkpoint(tmp_path / name / "last_model.ckpt") for name in ("high", "low")
    )
    assert_same_state(one.state, other.state)


@pytest.mark.parametrize("epochs", [2, 12])
def test_a_resumed_run_remembers_that_it_began_again(tmp_path, epochs):
    train = {"ema_decay": 0.5, "checkpoint_interval": 100}
    options = build_options(
        tmp_path, learning_rate=TOO_HIGH, epochs=epochs, train=train
    )
    check_resume(options, tmp_path)


def test_several_targets_and_replay_begin_again_together(tmp_path):
    write_levels(tmp_path)
    data = [
        {
            "systems": str(tmp_path / f"{name}.xyz"),
            "targets": {
                f"energy/{name}": {
                    "key": f"e_{name}",
                    "forces": {"key": f"f_{name}"},
                    "stress": False,
                }
            },
        }
        for name in "ab"
    ]
    finetune = {"method": "full", "read_from": write_base(tmp_path)}
    training = {"num_epochs": 2, "batch_size": 4, "learning_rate": TOO_HIGH}
    values = {
        "architecture": {"training": {**training, "finetune": finetune}},
        "device": "cpu",
        "base_precision": 64,
        "output": str(tmp_path / "run"),
        "training_set": data,
        "validation_set": data,
        "replay_set": write_frames(tmp_path, name="replay.xyz", seed=8),
    }
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(values))
    options = read_options(tmp_path / "options.yaml")
    report = run(options)
    assert report.restarts
    assert report.end in ("finished", "diverged")


def test_a_run_that_diverges_at_every_rate_says_so_and_what_to_do(
    tmp_path, monkeypatch, caplog
):
    take_step = loop.Trainer._take_step

    def spoil(self, *args):
        loss = take_step(self, *args)
        return loss * float("nan")

    monkeypatch.setattr(loop.Trainer, "_take_step", spoil)
    options = build_options(tmp_path)
    with caplog.at_level("WARNING", "pet_calc"):
        report = run(options)
    assert report.end == "diverged"
    assert report.best_epoch == 0
    assert len(report.restarts) == MOST_RESTARTS + 1
    assert "no epoch beat the base" not in caplog.text
    assert "diverged at every learning rate from 0.01 to 0.00063" in caplog.text
    assert "pet-calc check" in caplog.text
    # the model that is left is the base
    assert report.validation == report.zero_step
    # nothing that is resumed helps, but a rate of its own
    assert run(options, is_resumed=True).end == "diverged"
    monkeypatch.setattr(loop.Trainer, "_take_step", take_step)
    low = replace(options, train=replace(options.train, learning_rate=0.001))
    again = run(low, is_resumed=True)
    assert (again.end, again.learning_rate, again.restarts) == ("finished", 0.001, [])


def test_a_gradient_that_is_not_finite_begins_again_at_once(tmp_path, monkeypatch):
    steps = []
    clip = torch.nn.utils.clip_grad_norm_

    def spoil(parameters, norm):
        steps.append(1)
        value = clip(parameters, norm)
        return value * float("nan") if len(steps) == 2 else value

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    report = run(build_options(tmp_path, epochs=12))
    assert [each["step"] for each in report.restarts] == [1]
    assert "not finite" in report.restarts[0]["why"]
    assert report.n_steps == 36
    # at the lower rate it learns
    assert report.best_epoch > 0
    assert report.validation["loss"] < report.zero_step["loss"]


def test_after_the_start_a_gradient_that_is_not_finite_is_an_error(
    tmp_path, monkeypatch
):
    """By then there is something to lose, and labels are as likely a cause."""
    options = build_options(tmp_path, epochs=8, learning_rate=0.003)
    clip = torch.nn.utils.clip_grad_norm_
    steps = []

    def spoil(parameters, norm):
        steps.append(1)
        value = clip(parameters, norm)
        return value * float("nan") if len(steps) == 20 else value

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(
        DataError, match=r"step 19: .* diverged; lower the learning rate"
    ):
        run(options)


def judge(losses, *, zero=1.0, steps=3, n_epochs=100, n_restarts=0, train_losses=None):
    """What is found of epochs of some steps with these losses, the last of them."""
    watch = StartWatch(torch.nn.Linear(2, 2), steps * n_epochs)
    state = RunState(losses=[zero], restarts=[{}] * n_restarts)
    found = ""
    for epoch, loss in enumerate(losses, 1):
        state.epoch, state.step = epoch, steps * epoch
        state.losses.append(loss)
        state.train_losses.append((train_losses or losses)[epoch - 1])
        found = watch.judge_epoch(state, is_last=epoch == n_epochs)
    return found


@pytest.mark.parametrize(
    ("losses", "options", "is_found"),
    [
        ([70.0], {}, True),  # LoRA of rank 32 at twice its rate, aspirin
        ([3.1, 1.4, 0.5], {}, False),  # rank 8 at twice its rate: good in the end
        ([3.1], {"steps": 20}, False),
        ([1.7], {"steps": 60}, True),  # all weights at ten times their rate, Li3PS4
        ([1.3], {"steps": 60}, False),
        ([1.7], {"steps": 60, "n_restarts": MOST_RESTARTS}, False),  # may recover
        ([1.7], {"n_epochs": 1}, True),  # or the run would end with it
        ([float("nan")], {}, True),
        ([0.9, 70.0], {}, True),  # LoRA at six times its rate: ahead in the warm-up
        ([0.9, 1.7], {}, False),
        ([0.9, 1.7], {"steps": 60}, True),
        ([0.9, 70.0], {"n_epochs": 2}, False),  # half of it is there: much to lose
        ([1e-5], {"zero": 1e-9}, False),  # 3 meV/A are no divergence
    ],
)
def test_what_counts_as_diverging(losses, options, is_found):
    assert bool(judge(losses, **options)) == is_found


# carbon at three times the default rate
LOST = [0.4, 0.2, 0.5, 0.9]


@pytest.mark.parametrize(
    ("losses", "options", "is_found"),
    [
        (LOST, {"steps": 10}, True),
        (LOST[:3], {"steps": 10}, False),  # one epoch of ten steps
        (LOST[:3], {"steps": 20, "n_epochs": 20}, True),
        (LOST, {"steps": 10, "n_epochs": 7}, False),  # half of it is there
        (LOST, {"steps": 10, "n_epochs": 50}, False),  # a long run: too few steps
        (
            LOST,
            {"steps": 10, "train_losses": [0.4, 0.3, 0.2, 0.1]},
            False,
        ),  # overfitted
        ([0.4, 0.2, 0.35, 0.3], {"steps": 10}, False),
        ([0.4, 0.2, 0.5, 0.3], {"steps": 10}, False),
    ],
)
def test_a_run_that_loses_what_it_had_is_found(losses, options, is_found):
    assert bool(judge(losses, **{"n_epochs": 40, **options})) == is_found


def test_a_long_first_epoch_is_given_up_before_its_end():
    watch = StartWatch(torch.nn.Linear(2, 2), 1000)
    state = RunState()
    found = []
    for step in range(1, 101):
        state.step = step
        found.append(bool(watch.judge_step(state, 25.0 if step > 50 else 2.0, 1.0)))
    assert found.index(True) == 99


def test_a_healthy_run_logs_nothing_of_it(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "pet_calc"):
        report = run(build_options(tmp_path))
    assert report.restarts == []
    assert "diverge" not in caplog.text
    assert "restart" not in report.to_text()


def test_a_run_that_ends_far_above_its_start_is_named():
    """Even where an early epoch was better: the best model alone would hide it."""
    late = describe_late_divergence([1.0, 0.8, 3.0, 9.0])
    assert "9 times that before the first step" in late
    assert describe_late_divergence([1.0, 3.0, 0.8, 1.1]) == ""


def test_a_base_that_is_left_after_restarts_is_not_left_without_their_cause(caplog):
    report = RunReport(
        method="lora",
        target="energy",
        end="finished",
        n_steps=36,
        best_epoch=0,
        seconds=1.0,
        best_model="best_model.ckpt",
        learning_rate=0.05,
        restarts=[{"learning_rate": 0.1, "step": 3, "why": ""}],
    )
    with caplog.at_level("WARNING", "pet_calc"):
        warn_of_the_start(report, has_base=True)
    assert "diverged at learning rate 0.1" in caplog.text
    assert "0.05 is still too high" in caplog.text

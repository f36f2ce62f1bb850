"""Who computes the steps of a run: the compiled engine or PyTorch."""

import logging
import re

import pytest
import torch
from support.frames import write_frames
from support.models import build_model
from support.runs import build_options, write_base

from pet_calc.config import TrainOptions, replace
from pet_calc.engine import switch
from pet_calc.errors import ConfigError
from pet_calc.train import steps
from pet_calc.train.run import run_training
from pet_calc.train.steps import LONG_RUN, choose_predictor


def refuse_to_estimate():
    raise AssertionError("nobody needs to know how long the run takes")


def test_auto_compiles_for_long_runs_only(monkeypatch, caplog):
    monkeypatch.setattr(steps, "is_built", lambda part: False)
    caplog.set_level(logging.INFO)
    model = build_model()
    choose_predictor("auto", model, ["energy"], lambda: LONG_RUN - 1.0)
    assert "149 s is too short to compile" in caplog.text
    caplog.clear()
    choose_predictor("auto", model, ["energy"], lambda: LONG_RUN)
    assert "by the compiled engine" in caplog.text


def test_auto_takes_what_is_there(monkeypatch, caplog):
    monkeypatch.setattr(steps, "is_built", lambda part: True)
    caplog.set_level(logging.INFO)
    choose_predictor("auto", build_model(), ["energy"], refuse_to_estimate)
    assert caplog.messages == ["training steps by the compiled engine"]


def test_without_a_compiler_pytorch_goes_on_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(steps, "is_built", lambda part: False)
    monkeypatch.setattr(steps, "find_build_obstacle", lambda: "no C++ compiler found")
    caplog.set_level(logging.INFO)
    choose_predictor("auto", build_model(), ["energy"], refuse_to_estimate)
    assert "by PyTorch" in caplog.text
    assert "no C++ compiler found" in caplog.text
    with pytest.raises(ConfigError, match=r"compile: true .* no C\+\+ compiler"):
        choose_predictor(True, build_model(), ["energy"], refuse_to_estimate)


def test_a_compiler_that_fails_ends_no_run(monkeypatch, caplog):
    def fail():
        raise ConfigError("compiling the trainer failed: no such header")

    monkeypatch.setattr(steps, "TrainingEngine", fail)
    caplog.set_level(logging.INFO)
    predictor = choose_predictor("auto", build_model(), ["energy"], lambda: LONG_RUN)
    assert not predictor.is_compiled
    assert "by PyTorch, not by the compiled engine: compiling the" in caplog.text
    with pytest.raises(ConfigError, match="no such header"):
        choose_predictor(True, build_model(), ["energy"], refuse_to_estimate)


def test_a_model_that_the_engine_cannot_run(caplog):
    caplog.set_level(logging.INFO)
    model = build_model(transformer_type="PostLN")
    choose_predictor("auto", model, ["energy"], refuse_to_estimate)
    assert "PostLN" in caplog.text
    with pytest.raises(ConfigError, match="PostLN"):
        choose_predictor(True, model, ["energy"], refuse_to_estimate)
    assert (
        choose_predictor(False, model, ["energy"], refuse_to_estimate).count_bytes()
        == 0
    )


def write_wide_base(folder):
    """A base with layers that mixed precision changes."""
    return write_base(folder, d_pet=32, d_node=64, d_head=32, d_feedforward=32)


def run_both(tmp_path, **flags):
    """Reports of the same run by PyTorch and by the engine."""
    options = build_options(tmp_path, **flags)
    reports = []
    for compile in (False, True):
        train = replace(options.train, compile=compile)
        output = str(tmp_path / f"compile-{compile}")
        changed = replace(options, train=train, output=output)
        reports.append(run_training(changed, show_progress=False))
    return reports


@pytest.mark.parametrize("method", ["lora", "heads", "full"])
def test_a_run_by_the_engine_equals_one_by_pytorch(tmp_path, method):
    pytorch, engine = run_both(tmp_path, method=method, epochs=3)
    assert engine.best_epoch == pytorch.best_epoch
    assert engine.zero_step == pytest.approx(pytorch.zero_step, rel=1e-9)
    # Adam divides by the gradient's size, so rounding grows from step to step
    assert engine.validation == pytest.approx(pytorch.validation, rel=1e-5)
    assert engine.validation != engine.zero_step


def test_replayed_frames_go_through_the_engine_too(tmp_path):
    replay = (write_frames(tmp_path, 4, seed=5, name="replay.xyz"),)
    pytorch, engine = run_both(tmp_path, epochs=2, replay=replay)
    assert engine.validation == pytest.approx(pytorch.validation, rel=1e-5)


def test_four_epochs_by_the_engine_equal_two_plus_two_bit_for_bit(tmp_path):
    options = build_options(tmp_path, train={"compile": True})
    whole = run_training(options, show_progress=False)
    halves = replace(options, output=str(tmp_path / "halves"))
    run_training(halves, show_progress=False, stop_after=2)
    again = run_training(halves, show_progress=False, is_resumed=True)
    assert again.validation == whole.validation


def test_the_bound_on_memory_counts_the_engine(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_both(tmp_path, method="full", epochs=1)
    sizes = [float(found) for found in re.findall(r"memory: ([\d.]+) kB", caplog.text)]
    pytorch, engine = sizes
    # without its own buffers the engine would seem to need next to nothing
    assert engine > 0.1 * pytorch


def test_a_run_resumed_without_the_engine_says_so(tmp_path, caplog):
    options = build_options(tmp_path, train={"compile": True})
    run_training(options, show_progress=False, stop_after=2)
    slow = replace(options, train=replace(options.train, compile=False))
    run_training(slow, show_progress=False, is_resumed=True)
    assert "began with steps by the compiled engine" in caplog.text


def test_a_run_is_timed_before_it_starts_and_nothing_of_it_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "is_built", lambda part: False)
    timed = run_training(build_options(tmp_path), show_progress=False)
    plain = build_options(tmp_path, output="plain", train={"compile": False})
    assert run_training(plain, show_progress=False).validation == timed.validation


def test_mixed_precision_trains_and_validates_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(switch, "multiplies_bfloat16", lambda: True)
    options = build_options(tmp_path, base=write_wide_base(tmp_path), dtype="float32")
    reports = []
    for is_mixed in (False, True):
        train = replace(
            options.train, compile=False, mixed_precision=is_mixed, learning_rate=1e-3
        )
        output = str(tmp_path / f"mixed-{is_mixed}")
        changed = replace(options, train=train, output=output)
        reports.append(run_training(changed, show_progress=False))
    exact, mixed = reports
    assert mixed.zero_step == exact.zero_step
    assert mixed.validation != exact.validation
    assert mixed.validation == pytest.approx(exact.validation, rel=0.1)


def test_mixed_precision_is_refused_where_it_gains_nothing(monkeypatch):
    def choose(dtype):
        model = build_model(dtype=dtype)
        choose_predictor("auto", model, ["energy"], refuse_to_estimate, is_mixed=True)

    monkeypatch.setattr(switch, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="no products in bfloat16"):
        choose(torch.float32)
    monkeypatch.setattr(switch, "multiplies_bfloat16", lambda: True)
    with pytest.raises(ConfigError, match="the model is in float64"):
        choose(torch.float64)
    with pytest.raises(ConfigError, match="mixed_precision: expected this or compile"):
        TrainOptions(mixed_precision=True, compile=True)

"""Runs that stop and go on: bit for bit, or refused."""

import os
import signal
import sys

import pytest
from ase.io import write
from support.frames import build_frames
from support.runs import assert_same_state, build_options, read_log, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import read_options, replace
from pet_calc.errors import ConfigError, DataError
from pet_calc.train import loop
from pet_calc.train.run import run_training


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def test_four_epochs_equal_two_plus_two_bit_for_bit(tmp_path):
    train = {"ema_decay": 0.9, "checkpoint_interval": 100}
    whole = build_options(tmp_path, output="whole", train=train)
    halves = replace(whole, output=str(tmp_path / "halves"))
    run(whole)
    assert run(halves, stop_after=2).end == "stopped"
    assert run(halves, is_resumed=True).end == "finished"
    for name in ("best_model.ckpt", "last_model.ckpt"):
        one = load_checkpoint(tmp_path / "whole" / name)
        other = load_checkpoint(tmp_path / "halves" / name)
        assert_same_state(one.state, other.state)
    rows = [read_log(tmp_path / name) for name in ("whole", "halves")]
    for one, other in zip(*rows, strict=True):
        del one["seconds"], other["seconds"]
        assert one == other


def test_a_signal_in_mid_epoch_loses_nothing(tmp_path, monkeypatch):
    whole = build_options(tmp_path, output="whole")
    cut = replace(whole, output=str(tmp_path / "cut"))
    run(whole)
    take_step = loop.Trainer._take_step

    def interrupt(self, *args):
        loss = take_step(self, *args)
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(loop.Trainer, "_take_step", interrupt)
    assert run(cut).end == "interrupted"
    monkeypatch.setattr(loop.Trainer, "_take_step", take_step)
    assert run(cut, is_resumed=True).end == "finished"
    one = load_checkpoint(tmp_path / "whole" / "last_model.ckpt")
    other = load_checkpoint(tmp_path / "cut" / "last_model.ckpt")
    assert_same_state(one.state, other.state)


def test_resuming_with_other_options_is_said(tmp_path, caplog):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    changed = replace(options, seed=7, train=replace(options.train, batch_size=2))
    with caplog.at_level("WARNING", "pet_calc"):
        run(changed, is_resumed=True, stop_after=2)
    assert "(architecture.training.batch_size, seed)" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "pet_calc"):
        run(changed, is_resumed=True)
    assert "other options" not in caplog.text


def test_a_run_of_before_the_energys_warm_up_says_that_it_had_none(tmp_path, caplog):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    path = tmp_path / "run" / "options_resolved.yaml"
    path.write_text(path.read_text().replace("    energy_warmup: 0.75\n", ""))
    assert "energy_warmup" not in path.read_text()
    with caplog.at_level("WARNING", "pet_calc"):
        run(options, is_resumed=True)
    assert "(architecture.training.energy_warmup)" in caplog.text


@pytest.mark.parametrize(
    ("target", "head_mode"), [("energy/new", "train"), ("energy", "freeze")]
)
def test_a_run_of_before_heads_had_lora_goes_on_as_it_was(tmp_path, target, head_mode):
    before = run(
        build_options(tmp_path, target=target, head_mode=head_mode), stop_after=1
    )
    path = tmp_path / "run" / "options_resolved.yaml"
    written = path.read_text()
    assert f"head_mode: {head_mode}" in written
    path.write_text(written.replace(f"head_mode: {head_mode}", "head_mode: auto"))
    report = run(read_options(path), is_resumed=True)
    assert report.end == "finished"
    assert report.n_trainable == before.n_trainable


def test_a_run_of_before_combinations_had_lora_goes_on_as_it_was(tmp_path, caplog):
    layers = ["input_linear", "output_linear", "mlp", "compress"]
    before = run(build_options(tmp_path, lora_targets=layers), stop_after=1)
    with caplog.at_level("WARNING", "pet_calc"):
        report = run(build_options(tmp_path), is_resumed=True)
    assert "other options" not in caplog.text
    assert report.end == "finished"
    assert report.n_trainable == before.n_trainable
    whole = run(build_options(tmp_path, output="whole", epochs=1))
    assert whole.n_trainable > before.n_trainable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rank": 4},
            "rank: expected 2, with which the run in .* began, got 4; .* as in "
            ".*/options_resolved.yaml, or",
        ),
        ({"method": "full"}, "method: expected lora, .*, got full"),
        ({"target": "energy/pbe0"}, "targets: expected .'energy'., .*'energy/pbe0'"),
        ({"composition": "keep"}, "composition.mode: expected fit, .*, got keep"),
    ],
)
def test_resuming_with_what_makes_another_model_is_refused(tmp_path, change, message):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    before = (tmp_path / "run" / "options_resolved.yaml").read_bytes()
    base = options.finetune.base
    data = str(tmp_path / "train.xyz")
    changed = build_options(tmp_path, base=base, data=data, **change)
    with pytest.raises(ConfigError, match=message):
        run(changed, is_resumed=True)
    assert (tmp_path / "run" / "options_resolved.yaml").read_bytes() == before


def test_resuming_from_another_base_is_refused(tmp_path):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    (tmp_path / "other").mkdir()
    other = write_base(tmp_path / "other", d_feedforward=16)
    changed = build_options(tmp_path, base=other, data=str(tmp_path / "train.xyz"))
    with pytest.raises(ConfigError, match="--base: expected the model that the run"):
        run(changed, is_resumed=True)


def test_resuming_on_changed_data_is_refused_unless_asked_for(tmp_path, caplog):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    write(tmp_path / "train.xyz", build_frames(seed=5))
    with pytest.raises(
        DataError, match=r"train\.xyz: not the data .*--resume-with-new"
    ):
        run(options, is_resumed=True)
    with caplog.at_level("WARNING", "pet_calc"):
        assert run(options, is_resumed=True, accepts_new_data=True).end == "finished"
    assert "goes on with other data" in caplog.text


@pytest.mark.parametrize("is_new", [True, False])
def test_only_other_data_are_checked_as_at_a_start(tmp_path, monkeypatch, is_new):
    options = build_options(tmp_path)
    run(options, stop_after=1)
    if is_new:
        write(tmp_path / "train.xyz", build_frames(seed=5))
    checked = []
    module = sys.modules[run_training.__module__]
    monkeypatch.setattr(module, "check_data", lambda *args: checked.append(args))
    run(options, is_resumed=True, accepts_new_data=True)
    assert bool(checked) == is_new


def test_a_chain_of_short_sessions_is_one_run(tmp_path):
    """Each leaves its state, also where no checkpoint was due."""
    train = {"checkpoint_interval": 100}
    whole = build_options(tmp_path, output="whole", train=train)
    run(whole)
    short = replace(whole, output=str(tmp_path / "short"))
    for last in (1, 2, 3, 4):
        report = run(short, stop_after=last, is_resumed=last > 1)
        assert report.n_steps == 3 * last
    one, other = (
        load_checkpoint(tmp_path / name / "last_model.ckpt")
        for name in ("whole", "short")
    )
    assert_same_state(one.state, other.state)
    assert read_log(tmp_path / "short")[-1]["epoch"] == 4


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_error_in_validation_leaves_what_was_trained(tmp_path, monkeypatch, epoch):
    whole = build_options(tmp_path, output="whole")
    run(whole)
    cut = replace(whole, output=str(tmp_path / "cut"))
    evaluate, take_step = loop.Trainer._evaluate, loop.Trainer._take_step

    def fail(self, *args):
        if self.state.step == 3 * epoch:
            raise RuntimeError("the machine went away")
        return evaluate(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_evaluate", fail)
        with pytest.raises(RuntimeError, match="went away"):
            run(cut)
    steps = []

    def count(self, *args):
        steps.append(self.state.step)
        return take_step(self, *args)

    monkeypatch.setattr(loop.Trainer, "_take_step", count)
    run(cut, is_resumed=True)
    # no step is taken twice
    assert steps == list(range(3 * epoch, 12))
    one, other = (
        load_checkpoint(tmp_path / name / "last_model.ckpt")
        for name in ("whole", "cut")
    )
    assert_same_state(one.state, other.state)
    assert [row["epoch"] for row in read_log(tmp_path / "cut")] == [1, 2, 3, 4]


def test_a_run_that_goes_on_by_its_own_options_keeps_its_best_model(tmp_path):
    """`train RUN/options_resolved.yaml --resume` names the model after these."""
    # better than the base after two epochs, so that it does not begin again
    options = build_options(tmp_path, learning_rate=0.003)
    run(options, stop_after=2)
    before = (tmp_path / "run" / "best_model.ckpt").read_bytes()
    # nothing is better than what there is
    idle = replace(options, train=replace(options.train, learning_rate=1.0))
    report = run(idle, is_resumed=True, run_name="options_resolved", stop_after=3)
    names = [path.name for path in (tmp_path / "run").glob("best_model*")]
    assert names == ["best_model.ckpt"]
    assert (tmp_path / "run" / "best_model.ckpt").read_bytes() == before
    report = run(options, is_resumed=True, run_name="options_resolved")
    assert report.best_model.endswith("best_model.ckpt")


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="nothing to resume"):
        run(build_options(tmp_path), is_resumed=True)

"""The progress bar, and the log file of a run."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from support.runs import build_options

from pet_calc.errors import DataError
from pet_calc.train.progress import LOG_NAME, RunLog, TrainingBar, keep_log, log_epoch
from pet_calc.train.run import run_training

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S")


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def read_log(folder):
    return (folder / LOG_NAME).read_text(encoding="utf-8")


def build_bar(**kwargs):
    loader = SimpleNamespace(only=range(10), n_steps=4)
    return TrainingBar(loader, 3, torch.device("cpu"), hide=False, **kwargs)


def test_the_bar_counts_frames_and_shows_errors_and_memory(capsys):
    bar = build_bar()
    for step in range(1, 13):
        bar.show_step(step)
        if step % 4 == 0:
            bar.show_epoch(f"epoch {step // 4}")
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "30/30" in last
    assert "frame/s" in last
    assert re.search(r"epoch 3, \d+\.\d GB", last)


def test_the_bar_of_a_resumed_run_begins_where_it_ended(capsys):
    build_bar(n_steps_done=6).close()
    assert "15/30" in capsys.readouterr().err


def test_a_run_leaves_what_it_said_with_the_time(tmp_path):
    with_info = logging.getLogger("pet_calc")
    level = with_info.level
    with_info.setLevel(logging.INFO)
    try:
        report = run(build_options(tmp_path, epochs=2))
        first = read_log(tmp_path / "run")
        run(build_options(tmp_path, epochs=2), is_resumed=True)
    finally:
        with_info.setLevel(level)
    assert LINE.match(first)
    assert re.search(r" epoch 2, E [\d.]+ meV/atom, F [\d.]+ meV/Å\n", first)
    assert report.to_text() in first
    assert report.peak_memory > 1e7
    # a resumed run writes after it, a new one anew
    assert read_log(tmp_path / "run").startswith(first)
    assert read_log(tmp_path / "run").count("method     lora") == 2
    run(build_options(tmp_path, epochs=2), may_overwrite=True)
    assert read_log(tmp_path / "run").count("method     lora") == 1


def test_the_log_of_a_run_ends_with_its_error(tmp_path):
    def fail():
        with keep_log() as log:
            log.open(tmp_path)
            logging.getLogger("pet_calc.data").warning("a frame is odd")
            raise DataError("step 3: the gradient is not finite")

    with pytest.raises(DataError, match="not finite"):
        fail()
    lines = read_log(tmp_path).splitlines()
    assert [line[20:] for line in lines] == [
        "warning: a frame is odd",
        "error: step 3: the gradient is not finite",
    ]


def test_a_run_that_cannot_begin_leaves_no_log(tmp_path):
    with pytest.raises(DataError), keep_log() as log:
        raise DataError("no frames")
    assert isinstance(log, RunLog)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_epochs_are_marked_where_a_bar_shows_them(caplog):
    logger = logging.getLogger("pet_calc.train.test")
    with caplog.at_level(logging.INFO, logger="pet_calc"):
        log_epoch(logger, "epoch 1", is_in_bar=True)
    (record,) = caplog.records
    assert record.is_in_bar

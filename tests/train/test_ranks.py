"""Several processes do what one does: losses, files, signals, resuming, stopping."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from support.frames import write_frames
from support.levels import write_levels
from support.runs import write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.model.hypers import TargetSpec

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["-m", "pet_calc.cli.main", "train"]


def write_options(folder, name="options.yaml", targets=None, **training):
    """A run of 3 steps an epoch over 13 frames, the last one of a single frame."""
    data = write_frames(folder, n_frames=13)
    values = {
        "architecture": {
            "training": {
                "num_epochs": 3,
                "batch_size": 4,
                "learning_rate": 0.01,
                "ema_decay": 0.9,
                "finetune": {
                    "method": "full",
                    "read_from": write_base(folder, targets=targets),
                },
                **training,
            }
        },
        "device": "cpu",
        "base_precision": 64,
        "training_set": data,
        "validation_set": write_frames(folder, n_frames=5, seed=1, name="val.xyz"),
        "test_set": write_frames(folder, n_frames=3, seed=2, name="test.xyz"),
    }
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def environment(**extra):
    values = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}
    return {**os.environ, **values}


def run(command, **kwargs):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def start_pair(*args):
    """Start two processes as torchrun would, to signal one of them alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *TRAIN, *map(str, args)],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **common),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def finish(processes, status=0):
    ends = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, ends, strict=True):
        assert process.returncode == status, errors[-3000:]
    return ends


def read_log(folder):
    rows = [json.loads(r) for r in (folder / "log.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows


def assert_same_run(folder, other, best="best_model_options.ckpt"):
    """Equal but for the order of sums, in float64."""
    rows, other_rows = read_log(folder), read_log(other)
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other_row, rel=1e-8)
    for name in (best, "last_model.ckpt"):
        one, two = load_checkpoint(folder / name), load_checkpoint(other / name)
        assert one.state.keys() == two.state.keys()
        for key, value in one.state.items():
            torch.testing.assert_close(value, two.state[key], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_two_processes_replay_and_train_direct_heads_as_one_does(tmp_path):
    direct = TargetSpec("non_conservative_force", "force", "eV/A", "atom", "f", [3])
    options = write_options(
        tmp_path, targets=[TargetSpec.for_energy(), direct], replay={"generate": 5}
    )
    values = yaml.safe_load(options.read_text())
    values["retain_set"] = write_frames(tmp_path, n_frames=3, seed=4, name="old.xyz")
    options.write_text(yaml.safe_dump(values))
    run([*TRAIN, options, "-o", tmp_path / "one", "--quiet"])
    run([*TORCHRUN, *TRAIN, options, "-o", tmp_path / "two", "--quiet"])
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert "val_direct_forces_mae" in read_log(tmp_path / "one")[0]
    reports = [
        json.loads((tmp_path / name / "report.json").read_text())["forgetting"]
        for name in ("one", "two")
    ]
    one, two = (report["outputs"]["energy"]["ratio"] for report in reports)
    assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_two_targets_of_a_frame_as_one_does(tmp_path):
    options = write_options(tmp_path)
    values = yaml.safe_load(options.read_text())
    write_levels(tmp_path)
    targets = {
        f"energy/{name}": {"key": f"e_{name}", "forces": {"key": f"f_{name}"}}
        for name in "ab"
    }
    both = {"systems": str(tmp_path / "both.xyz"), "targets": targets}
    del values["test_set"]
    values |= {"training_set": both, "validation_set": both}
    options.write_text(yaml.safe_dump(values))
    run([*TRAIN, options, "-o", tmp_path / "one", "--quiet"])
    run([*TORCHRUN, *TRAIN, options, "-o", tmp_path / "two", "--quiet"])
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert "val_energy/b.energy_mae" in read_log(tmp_path / "one")[0]


def test_two_processes_of_torchrun_train_as_one_does(tmp_path):
    options = write_options(tmp_path, uncertainty=True)
    run([*TRAIN, options, "-o", tmp_path / "one", "--quiet"])
    done = run([*TORCHRUN, *TRAIN, options, "-o", tmp_path / "two", "--quiet"])
    assert_same_run(tmp_path / "one", tmp_path / "two")
    reports = [
        json.loads((tmp_path / name / "report.json").read_text())
        for name in ("one", "two")
    ]
    assert reports[1]["test"] == pytest.approx(reports[0]["test"], rel=1e-8)
    # predictions of all processes are kept, in the order of the frames
    for mine, theirs in zip(reports[1]["kept"], reports[0]["kept"], strict=True):
        assert mine["n_frames"] == theirs["n_frames"]
        for name in ("before", "after"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4)
    sources = [[entry["source"] for entry in report["worst"]] for report in reports]
    assert sources[0] == sources[1]
    one, two = (report["uncertainty"]["energy"] for report in reports)
    for name in ("n_train", "scale", "ridge"):
        assert two[name] == pytest.approx(one[name], rel=1e-6)
    # one process speaks and writes
    assert done.stdout.count("model      ") == 1
    assert done.stderr.count("train set:") == 1
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(tmp_path, signalled):
    options = write_options(tmp_path, num_epochs=300, learning_rate=1e-4)
    folder = tmp_path / "two"
    processes = start_pair(options, "-o", folder, "--quiet")
    deadline = time.monotonic() + 120
    log = folder / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 5):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[signalled].send_signal(signal.SIGTERM)
    ends = finish(processes, status=128 + signal.SIGTERM)
    assert "add --resume to go on" in ends[0][1]
    n_rows = len(read_log(folder))
    assert n_rows < 300
    # three epochs more are enough to see that it goes on
    short = write_options(tmp_path, num_epochs=n_rows + 3, learning_rate=1e-4)
    finish(start_pair(short, "-o", folder, "--quiet", "--resume"))
    rows = read_log(folder)
    assert [row["epoch"] for row in rows] == list(range(1, n_rows + 4))
    assert rows[-1]["step"] == 4 * len(rows)


@pytest.mark.slow
def test_two_processes_resume_where_they_stopped(tmp_path):
    options = write_options(tmp_path)
    run([*TRAIN, options, "-o", tmp_path / "one", "--quiet"])
    folder = tmp_path / "two"
    finish(start_pair(options, "-o", folder, "--quiet", "--stop-after", 1))
    finish(start_pair(options, "-o", folder, "--quiet", "--resume"))
    assert_same_run(tmp_path / "one", folder)


@pytest.mark.slow
def test_two_processes_stop_early_together(tmp_path):
    options = write_options(
        tmp_path, num_epochs=50, learning_rate=1e-300, early_stopping_patience=2
    )
    finish(start_pair(options, "-o", tmp_path / "two", "--quiet"))
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["end"] == "early"
    assert len(read_log(tmp_path / "two")) < 50


@pytest.mark.slow
def test_two_processes_that_diverge_begin_again_together(tmp_path):
    options = write_options(tmp_path, learning_rate=0.3)
    run([*TRAIN, options, "-o", tmp_path / "one", "--quiet"])
    finish(start_pair(options, "-o", tmp_path / "two", "--quiet"))
    reports = [
        json.loads((tmp_path / name / "report.json").read_text())
        for name in ("one", "two")
    ]
    assert reports[0]["restarts"]
    rates = [[r["learning_rate"] for r in each["restarts"]] for each in reports]
    assert rates[0] == rates[1]
    assert_same_run(tmp_path / "one", tmp_path / "two")

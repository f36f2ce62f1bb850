"""Two processes give the file and the errors that one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from support.frames import build_frames
from support.runs import write_base

from pet_calc.config.data_options import DatasetOptions
from pet_calc.evaluate.prediction_file import PredictionWriter
from pet_calc.evaluate.run import EvaluationOptions, run_evaluation

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
EVAL = ["-m", "pet_calc.cli.main", "eval"]


def run(*command, status=0):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done


@pytest.fixture
def inputs(tmp_path):
    """A base, and frames of five blocks: the last round is of one only."""
    frames = []
    for i, atoms in enumerate(build_frames(60)):
        if atoms.pbc.all():
            atoms = atoms.repeat(4)
            if i % 2:
                atoms.info["REF_energy"] = 1.0 + i
        frames.append(atoms)
    assert 4000 < sum(map(len, frames)) < 5500
    ase.io.write(tmp_path / "frames.xyz", frames)
    return write_base(tmp_path), str(tmp_path / "frames.xyz")


def evaluate(prefix, inputs, path, *flags):
    """Run ``pet-calc eval``; return what it prints without the file's name.

    torch 2.8 prints lines of its own where processes meet.
    """
    command = [*prefix, *EVAL, *inputs, "--device", "cpu", "--quiet", *flags]
    done = run(*command, "-o", path, "--json", path.with_suffix(".json"))
    lines = done.stdout.replace(str(path), "FILE").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[Gloo]"))


def assert_same(one, two):
    """Batches are cut elsewhere, so the last digits may differ."""
    values = [json.loads(path.with_suffix(".json").read_text()) for path in (one, two)]
    assert values[1] == pytest.approx(values[0], rel=1e-12)
    found = [ase.io.read(path, ":") for path in (one, two)]
    assert len(found[0]) == 60
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        assert a.info["pet_energy"] == pytest.approx(b.info["pet_energy"])
        assert a.info["pet_model"] == b.info["pet_model"]
        # extended XYZ has 8 digits after the point
        np.testing.assert_allclose(
            a.arrays["pet_forces"], b.arrays["pet_forces"], atol=2e-8
        )


def test_two_processes_give_the_file_and_errors_of_one(inputs, tmp_path):
    one, two = tmp_path / "one.xyz", tmp_path / "two.xyz"
    text = evaluate([], inputs, one)
    assert evaluate(TORCHRUN, inputs, two) == text
    assert_same(one, two)
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(inputs, tmp_path, monkeypatch):
    one, two = tmp_path / "one.xyz", tmp_path / "two.xyz"
    text = evaluate([], inputs, one)
    write = PredictionWriter.add

    def interrupt(writer, batch):
        write(writer, batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionWriter, "add", interrupt)
    base, data = inputs
    options = EvaluationOptions(base, DatasetOptions(systems=data), device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(options, output=two)
    assert two.with_name("two.xyz.partial").exists()
    assert evaluate(TORCHRUN, inputs, two, "--resume") == text
    assert_same(one, two)


@pytest.mark.slow
def test_where_the_first_process_cannot_begin_none_of_them_hangs(inputs, tmp_path):
    (tmp_path / "two.xyz.partial").write_text("of unknown origin")
    flags = ["-o", tmp_path / "two.xyz", "--resume", "--device", "cpu"]
    done = run(*TORCHRUN, *EVAL, *inputs, *flags, status=1)
    assert "error: " in done.stderr
    assert "two.xyz.partial.json that says how far it got" in done.stderr
    assert "error: the first process could not begin" in done.stderr
    assert "[rank1]: Traceback" not in done.stderr

"""Predictions on disk: in order, whole frames only, and gone on with after an end."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms
from support.frames import build_frames, write_frames
from support.models import build_model
from support.runs import write_base
from support.structures import get_results

from pet_calc import PETCalculator
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.errors import ConfigError
from pet_calc.evaluate.predict import BatchPredictor
from pet_calc.evaluate.prediction_file import open_predictions
from pet_calc.evaluate.run import EvaluationOptions, run_evaluation
from pet_calc.system.locks import hold_lock

ROOT = Path(__file__).resolve().parents[2]
RUN = {"model": "a", "target": "energy"}


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture
def batches(model, tmp_path):
    """Four batches of one frame each."""
    frames = read_frames(write_frames(tmp_path, n_frames=4))
    return list(BatchPredictor(model, "energy", batch_tokens=1).predict(frames))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "predicted.xyz"


def write(path, batches, **options):
    with open_predictions(path, RUN, **options) as writer:
        for batch in islice(batches, writer.n_frames, None):
            writer.add(batch)
    return writer


def stop_after(path, batches):
    """Write some batches and be interrupted."""

    def interrupt():
        yield from batches
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, interrupt())
    return path.with_name(path.name + ".partial")


def test_predictions_are_written_in_order(model, path, batches):
    write(path, batches)
    found = ase.io.read(path, ":")
    calculator = PETCalculator(model)
    assert len(found) == len(batches)
    for atoms, batch in zip(found, batches, strict=True):
        frame = batch.predictions[0].frame
        expected = get_results(calculator, frame.to_atoms())
        # extended XYZ has 8 digits after the point
        assert atoms.info["pet_energy"] == pytest.approx(expected["energy"])
        np.testing.assert_allclose(
            atoms.arrays["pet_forces"], expected["forces"], atol=2e-8
        )
        np.testing.assert_array_equal(atoms.pbc, frame.pbc)
    assert list(path.parent.iterdir()) == [path]


def test_what_the_file_had_stays_and_predictions_are_no_labels(tmp_path, path):
    """The labels, info, arrays and references of the frames, in their order."""
    frames = build_frames(4)
    for i, atoms in enumerate(frames):
        atoms.info |= {"REF_energy": -1.5 - i, "config_type": "bulk", "name": "a b"}
        atoms.info["mtt::r2scan_energy"] = 2.5
        atoms.arrays["REF_forces"] = 0.5 * atoms.get_forces()
        atoms.set_constraint(FixAtoms([0]))
        atoms.set_tags([i] * len(atoms))
    data = tmp_path / "data.xyz"
    ase.io.write(data, frames)
    options = EvaluationOptions(
        write_base(tmp_path),
        DatasetOptions(systems=str(data)),
        device="cpu",
        compile=False,
    )
    expected = run_evaluation(options, output=path).errors
    for before, after in zip(
        ase.io.read(data, ":"), ase.io.read(path, ":"), strict=True
    ):
        assert after.calc.results.keys() == before.calc.results.keys()
        assert after.get_potential_energy() == before.get_potential_energy()
        own = {n for n in after.info if n.startswith("pet_")}
        is_bulk = before.pbc.all()
        assert own == {"pet_energy", "pet_model"} | (
            {"pet_stress"} if is_bulk else set()
        )
        assert {n: v for n, v in after.info.items() if n not in own} == before.info
        assert after.info["pet_model"].startswith("base.ckpt sha256 ")
        assert set(after.arrays) == {*before.arrays, "pet_forces"}
        for name, values in before.arrays.items():
            np.testing.assert_array_equal(after.arrays[name], values)
        assert len(after.constraints) == len(before.constraints) == 1
        assert before.get_potential_energy() != after.info["pet_energy"]
    # the labels of a second evaluation are those of the first
    again = EvaluationOptions(
        options.model,
        DatasetOptions(systems=str(path)),
        device="cpu",
        compile=False,
    )
    second = run_evaluation(again, output=tmp_path / "again.xyz")
    assert second.errors == expected
    notes = " ".join(second.census.notes)
    assert "predictions of base.ckpt sha256" in notes
    # and those predictions are replaced, not piled up
    assert (tmp_path / "again.xyz").read_text() == path.read_text()


def test_names_that_extended_xyz_has_for_itself_are_changed(model, path, caplog):
    (atoms, *_) = build_frames(1)
    atoms.info |= {"energy": 5.0, "Lattice": "cubic"}
    atoms.arrays["mtt::spins"] = np.arange(len(atoms))
    frame = LabeledFrame.from_atoms(atoms, source="x, frame 0")
    frame.atoms = atoms
    write(path, list(BatchPredictor(model, "energy").predict([frame])))
    (found,) = ase.io.read(path, ":")
    assert found.info["other_energy"] == 5.0
    assert found.info["other_Lattice"] == "cubic"
    assert found.arrays["mtt_spins"].tolist() == list(range(len(atoms)))
    assert "'mtt::spins' is written as 'mtt_spins'" in caplog.text


def test_an_interrupted_writing_leaves_the_old_file_and_whole_frames(path, batches):
    path.write_text("old")
    partial = stop_after(path, batches[:2])
    assert path.read_text() == "old"
    assert len(ase.io.read(partial, ":", format="extxyz")) == 2
    write(path, batches[:3])
    assert len(ase.io.read(path, ":")) == 3
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_left_of_a_writing_without_a_frame(path):
    stop_after(path, [])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("ending", ["", "5\nLattice=", "whole frames and more"])
def test_going_on_gives_the_file_and_the_errors_of_one_go(path, batches, ending):
    """Also where the record had not yet spoken of what came last."""
    expected = write(path, batches).errors
    whole = path.read_bytes()
    partial = stop_after(path, batches[:2])
    with partial.open("ab") as file:
        file.write(whole if "whole" in ending else ending.encode())
    writer = write(path, batches, is_resumed=True)
    assert path.read_bytes() == whole
    assert writer.errors == expected
    assert writer.n_frames == 4
    assert list(path.parent.iterdir()) == [path]


def test_going_on_without_anything_there_starts_anew(path, batches):
    write(path, batches, is_resumed=True)
    whole = path.read_bytes()
    # a record without its file: the run was killed after it had finished
    path.with_name("predicted.xyz.partial.json").write_text('{"n_bytes": 5}')
    write(path, batches, is_resumed=True)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_predictions_of_another_run_are_not_gone_on_with(path, batches):
    partial = stop_after(path, batches[:2])
    before = partial.read_bytes()
    with (
        pytest.raises(ConfigError, match=r"partial: was begun with another model;"),
        open_predictions(path, {**RUN, "model": "b"}, is_resumed=True),
    ):
        pass
    assert partial.read_bytes() == before
    partial.write_bytes(before[:-5])
    with pytest.raises(ConfigError, match="leave --resume out"):
        write(path, batches, is_resumed=True)
    path.with_name("predicted.xyz.partial.json").unlink()
    with pytest.raises(ConfigError, match=r"no predicted.xyz.partial.json"):
        write(path, batches, is_resumed=True)


def test_predictions_are_on_disk_as_soon_as_they_are_made(path, batches):
    partial, n_seen = path.with_name("predicted.xyz.partial"), []
    with open_predictions(path, RUN) as writer:
        for batch in batches:
            writer.add(batch)
            n_seen.append(len(ase.io.read(partial, ":", format="extxyz")))
    assert n_seen == [1, 2, 3, 4]


def test_two_writers_do_not_mix(path):
    with (
        hold_lock(path.with_name("predicted.xyz.lock")),
        pytest.raises(ConfigError, match="another process"),
    ):
        write(path, [])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*make it first"):
        write(tmp_path / "none" / "out.xyz", [])


SCRIPT = """
import sys
from pet_calc.config.data_options import DatasetOptions
from pet_calc.evaluate.run import EvaluationOptions, run_evaluation

run_evaluation(
    EvaluationOptions(
        sys.argv[1], DatasetOptions(systems=sys.argv[2]), device="cpu", compile=False,
        batch_tokens=100,
    ),
    output=sys.argv[3],
)
"""


def test_a_killed_run_goes_on_and_gives_what_one_go_gives(tmp_path, path):
    base, data = write_base(tmp_path), write_frames(tmp_path, n_frames=120)
    options = EvaluationOptions(
        base,
        DatasetOptions(systems=data),
        device="cpu",
        compile=False,
        batch_tokens=100,
    )
    expected = run_evaluation(options, output=path)
    whole = path.read_bytes()
    path.unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, base, data, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    record, deadline = path.with_name(path.name + ".partial.json"), time.time() + 60
    while not record.exists():
        assert time.time() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < json.loads(record.read_text())["n_frames"] < 120
    assert not path.exists()
    found = run_evaluation(options, output=path, is_resumed=True)
    assert path.read_bytes() == whole
    assert found == expected

"""The uncertainty that a training leaves with its best model."""

import json

import ase.io
import numpy as np
import pytest
import torch
from support.frames import write_frames
from support.runs import build_options

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.open import load_merged_checkpoint
from pet_calc.checkpoint.uncertainty import build_uncertainties
from pet_calc.config.quick import build_dataset
from pet_calc.data.frames import read_frames
from pet_calc.evaluate.make_uncertainty import UncertaintyOptions, make_uncertainty
from pet_calc.export import export_model
from pet_calc.train.run import run_training


def run(options):
    return run_training(options, show_progress=False)


def load(folder):
    return load_checkpoint(folder / "run" / "best_model.ckpt")


@pytest.fixture
def validation(tmp_path):
    return write_frames(tmp_path, n_frames=5, seed=1, name="val.xyz")


@pytest.mark.parametrize("method", ["lora", "heads", "full"])
def test_a_run_leaves_what_the_verb_makes_of_the_same_frames(
    tmp_path, validation, method
):
    options = build_options(
        tmp_path, method=method, validation=validation, epochs=2, uncertainty=True
    )
    report = run(options)
    record = load(tmp_path)
    made, target, calibration = make_uncertainty(
        UncertaintyOptions(
            model=str(tmp_path / "run" / "best_model.ckpt"),
            train=build_dataset([str(tmp_path / "train.xyz")], {}),
            validation=build_dataset([validation], {}),
            device="cpu",
            seed=options.seed,
        )
    )
    assert target == "energy"
    for name, value in record.extras["llpr"]["state"].items():
        other = made.extras["llpr"]["state"][name]
        torch.testing.assert_close(value, other, rtol=1e-7, atol=1e-10)
    assert report.uncertainty["energy"].n_train == calibration.n_train == 12
    assert (made.lora is None) == (method != "lora")
    text = (tmp_path / "run" / "report.json").read_text()
    saved = json.loads(text)["uncertainty"]["energy"]
    assert saved == record.metadata["uncertainty"]["energy"]
    assert saved["reliability"]["n_frames"] == 5
    assert saved["scale"] == pytest.approx(calibration.scale, rel=1e-7)
    # what the run has left says the same as a file for other programs
    best = str(tmp_path / "run" / "best_model.ckpt")
    merged = load_merged_checkpoint(best)
    exported = export_model(
        merged.build_model(),
        tmp_path / "m.pt",
        uncertainties=build_uncertainties(merged),
    )
    atoms = ase.io.read(validation)
    for name in ("energy_uncertainty", "energies_uncertainty", "forces_uncertainty"):
        one, other = (
            PETCalculator(model).get_property(name, atoms) for model in (best, exported)
        )
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


def test_the_report_tells_it_in_two_lines(tmp_path, validation):
    report = run(
        build_options(tmp_path, validation=validation, epochs=1, uncertainty=True)
    )
    lines = report.to_text().splitlines()
    (i,) = [k for k, line in enumerate(lines) if line.startswith("uncertain")]
    assert "% within 1 sigma (normal: 68 %)" in lines[i]
    assert "predicted -> found, meV/atom:" in lines[i + 1]


def test_without_being_asked_for_there_is_none(tmp_path):
    report = run(build_options(tmp_path, epochs=1))
    assert report.uncertainty == {}
    assert build_uncertainties(load(tmp_path)) == {}


def test_the_uncertainty_of_the_base_is_not_handed_on(tmp_path, validation):
    """It is of other features."""
    options = build_options(tmp_path, validation=validation, epochs=1, uncertainty=True)
    run(options)
    again = build_options(
        tmp_path,
        base=str(tmp_path / "run" / "best_model.ckpt"),
        output="again",
        epochs=1,
    )
    run(again)
    found = load_checkpoint(tmp_path / "again" / "best_model.ckpt")
    assert build_uncertainties(found) == {}
    assert "uncertainty" not in found.metadata


def test_replayed_frames_count_where_they_teach_the_target(tmp_path, validation):
    replayed = write_frames(tmp_path, n_frames=6, seed=5, name="replay.xyz")
    report = run(
        build_options(
            tmp_path,
            validation=validation,
            epochs=1,
            uncertainty=True,
            replay=(replayed,),
        )
    )
    assert report.uncertainty["energy"].n_train == 12 + 6


def test_frames_of_weight_zero_do_not_count(tmp_path, validation):
    frames = read_frames(write_frames(tmp_path))
    assert len(frames) == 12
    path = tmp_path / "weighted.xyz"
    atoms = [frame.to_atoms() for frame in frames]
    for k, entry in enumerate(atoms):
        entry.info["config_weight"] = float(k > 3)
    ase.io.write(path, atoms)
    report = run(
        build_options(
            tmp_path,
            data=str(path),
            validation=validation,
            epochs=1,
            uncertainty=True,
        )
    )
    assert report.uncertainty["energy"].n_train == 8


def test_two_orientations_of_a_frame_count_as_one_frame(tmp_path, validation):
    report = run(
        build_options(
            tmp_path, validation=validation, epochs=1, uncertainty=True, consistency=1.0
        )
    )
    assert report.uncertainty["energy"].n_train == 12

"""Uncertainties beside predictions: columns, errors against them, and going on."""

import json
from dataclasses import asdict

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner
from support.frames import write_frames
from support.llpr import build_fitted
from support.runs import write_base

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint, save_checkpoint
from pet_calc.checkpoint.open import load_merged_model, load_uncertainties
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.cli.main import cli
from pet_calc.data.frames import read_frames
from pet_calc.evaluate.predict import BatchPredictor, Errors
from pet_calc.evaluate.prediction_file import open_predictions
from pet_calc.evaluate.reliability import Reliability

N_FRAMES = 10


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model with an uncertainty, and labelled frames."""
    folder = tmp_path_factory.mktemp("files")
    path = write_base(folder)
    record = load_checkpoint(path)
    model = load_merged_model(record)
    set_uncertainty(record, model, "energy", build_fitted(model))
    save_checkpoint(path, record)
    return path, write_frames(folder, n_frames=N_FRAMES)


def build_predictor(path, **settings):
    model = load_merged_model(path)
    uncertainty = load_uncertainties(path)["energy"]
    return BatchPredictor(model, "energy", uncertainty=uncertainty, **settings)


def test_they_are_those_of_the_calculator(files):
    path, data = files
    frames = read_frames(data)
    calculator = PETCalculator(path)
    batches = list(build_predictor(path).predict(frames))
    found = [p for batch in batches for p in batch.predictions]
    for prediction, atoms in zip(found, ase.io.read(data, ":"), strict=True):
        for name in ("energy_uncertainty", "energies_uncertainty"):
            np.testing.assert_allclose(
                getattr(prediction, name),
                calculator.get_property(name, atoms),
                rtol=1e-7,
            )


@pytest.mark.parametrize("n_orientations", [0, 2])
def test_errors_are_held_against_them_in_each_judged_orientation(files, n_orientations):
    path, data = files
    predictor = build_predictor(path, n_orientations=n_orientations)
    errors = Errors()
    predictions = []
    for batch in predictor.predict(read_frames(data)):
        errors.merge(batch.errors)
        predictions += batch.predictions
    assert errors.reliability.count == N_FRAMES * max(1, n_orientations)
    rows = errors.reliability.tabulate()
    squared = sum(row["n_frames"] * row["error"] ** 2 for row in rows)
    assert squared == pytest.approx(errors.judged.sums["energy"].squared, rel=1e-9)
    expected = [
        (p.energy_uncertainty / p.frame.n_atoms) ** 2 for p in predictions
    ] * max(1, n_orientations)
    variance = sum(row["n_frames"] * row["uncertainty"] ** 2 for row in rows)
    assert variance == pytest.approx(sum(expected), rel=1e-9)


def test_without_an_uncertainty_there_is_none(files):
    path, data = files
    predictor = BatchPredictor(load_merged_model(path), "energy")
    for batch in predictor.predict(read_frames(data)):
        assert batch.errors.reliability.count == 0
        for prediction in batch.predictions:
            assert prediction.energy_uncertainty is None
            assert "pet_energy_uncertainty" not in prediction.to_atoms().info


def test_the_sums_survive_a_way_through_json(files):
    path, data = files
    (batch,) = build_predictor(path).predict(read_frames(data))
    before = batch.errors.reliability
    values = json.loads(json.dumps(asdict(before)))
    assert Reliability.from_sums(values) == before
    assert Reliability.from_sums({}) == Reliability()


def test_an_interrupted_run_goes_on_with_them(files, tmp_path):
    path, data = files
    batches = list(build_predictor(path, batch_tokens=1).predict(read_frames(data)))
    output = tmp_path / "predicted.xyz"

    def write_and_stop():
        with open_predictions(output, {"model": "a"}) as writer:
            for batch in batches[:4]:
                writer.add(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    with open_predictions(output, {"model": "a"}, is_resumed=True) as writer:
        assert writer.errors.reliability.count == 4
        for batch in batches[4:]:
            writer.add(batch)
    whole = Reliability()
    for batch in batches:
        whole.merge(batch.errors.reliability)
    found = writer.errors.reliability
    assert (found.count, found.within_one) == (whole.count, whole.within_one)


def test_eval_prints_and_writes_them(files, tmp_path):
    path, data = files
    output, report = tmp_path / "p.xyz", tmp_path / "p.json"
    words = ["eval", path, data, "-o", output, "--json", report, "--device", "cpu"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "uncertain " in result.stdout
    assert "predicted -> found, meV/atom:" in result.stdout
    values = json.loads(report.read_text())["uncertainty"]
    assert values["n_frames"] == N_FRAMES
    for atoms in ase.io.read(output, ":"):
        assert atoms.info["pet_energy_uncertainty"] > 0
        assert atoms.arrays["pet_energies_uncertainty"].shape == (len(atoms),)
    # which no reader takes for a label, and the next eval replaces
    again = tmp_path / "q.xyz"
    words = ["eval", path, output, "-o", again, "--device", "cpu"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    first, second = (ase.io.read(name, 0) for name in (output, again))
    assert set(first.info) == set(second.info)
    assert set(first.arrays) == set(second.arrays)

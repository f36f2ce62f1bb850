"""The verb ``eval``, on a tiny model and few frames."""

import json

import ase.io
import numpy as np
import pytest
from support.command_line import SESSION, evaluate
from support.frames import build_frames

from pet_calc.evaluate.prediction_file import PredictionWriter


def test_eval_compares_and_predicts(tuned, tmp_path):
    model, data = tuned.path("run/best_model.ckpt"), tuned.path("train.xyz")
    predicted, errors = tmp_path / "predicted.xyz", tmp_path / "errors.json"
    result = tuned("eval", model, data, "-o", predicted, "--json", errors, *SESSION)
    assert f"written   {predicted}" in result.stdout
    assert "stress    4 of 12" in result.stdout
    found = ase.io.read(predicted, ":")
    reference = build_frames()
    energies = [
        (a.info["pet_energy"] - b.get_potential_energy()) / len(a)
        for a, b in zip(found, reference, strict=True)
    ]
    values = json.loads(errors.read_text())
    as_in_file = np.abs(energies).mean()
    assert values["as_in_file.energy_mae"] == pytest.approx(as_in_file, rel=1e-6)
    assert f"spread over orientations energy {1000 * values['spread.energy']:.2f}" in (
        result.stdout
    )
    assert f"energy MAE {1000 * values['energy_mae']:.2f}" in result.stdout
    np.testing.assert_allclose(
        found[0].arrays["pet_forces"], evaluate(model)["forces"], atol=2e-8
    )


def test_eval_in_the_orientation_of_the_file_only(tuned, tmp_path):
    model, data = tuned.path("run/best_model.ckpt"), tuned.path("train.xyz")
    found = []
    for flags in (["--orientations", 0], []):
        errors = tmp_path / "errors.json"
        result = tuned("eval", model, data, "--json", errors, *flags, *SESSION)
        found.append(json.loads(errors.read_text()))
        assert ("rotation" in result.stdout) == (not flags)
    assert found[0] == {name: found[1][f"as_in_file.{name}"] for name in found[0]}


def test_eval_with_an_adapter_is_eval_of_the_model(tuned):
    data, end = tuned.path("train.xyz"), SESSION
    adapter = tuned.path("run/adapter.safetensors")
    one = tuned("eval", tuned.path("run/best_model.ckpt"), data, *end)
    other = tuned("eval", tuned.path("base.ckpt"), data, "--adapter", adapter, *end)
    assert one.stdout == other.stdout


def test_eval_without_labels_only_predicts(tuned, tmp_path):
    ase.io.write(tmp_path / "bare.xyz", build_frames()[0].copy())
    result = tuned(
        "eval", tuned.path("base.ckpt"), tmp_path / "bare.xyz", "-o",
        tmp_path / "out.xyz", *SESSION
    )  # fmt: skip
    assert "no labels to compare with" in result.stdout
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 1


def test_eval_goes_on_where_it_stopped(tuned, tmp_path, monkeypatch):
    out = tmp_path / "predicted.xyz"
    command = ["eval", tuned.path("base.ckpt"), tuned.path("train.xyz"), *SESSION]
    expected = tuned(*command, "-o", out).stdout
    whole = out.read_bytes()
    write = PredictionWriter.add

    def interrupt(writer, batch):
        write(writer, batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionWriter, "add", interrupt)
    result = tuned(*command, "-o", out, status=130)
    assert "the first 12 predictions; --resume goes on" in result.stderr
    assert "interrupted" in result.stderr
    monkeypatch.undo()
    result = tuned(*command, "-o", out, "--resume")
    assert "goes on after 12 predictions" in result.stderr
    assert result.stdout == expected
    assert out.read_bytes() == whole
    assert "-o; name it" in tuned.fail(*command, "--resume")

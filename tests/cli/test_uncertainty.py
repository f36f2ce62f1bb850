"""The verb ``uncertainty``, and who knows of its result."""

import json

import numpy as np
import pytest
import torch
from metatomic.torch import load_atomistic_model
from support.command_line import Runner
from support.frames import build_frames, write_frames
from support.runs import write_base

from pet_calc import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.uncertainty import build_uncertainties

run = Runner(None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, what it may have been trained on, other frames, and the result."""
    folder = tmp_path_factory.mktemp("files")
    found = {
        "base": write_base(folder),
        "train": write_frames(folder),
        "val": write_frames(folder, n_frames=8, seed=1, name="val.xyz"),
        "sure": str(folder / "sure.ckpt"),
    }
    json_file = folder / "fit.json"
    result = run(
        "uncertainty", found["base"], found["train"], "--val", found["val"],
        "-o", found["sure"], "--members", 5, "--json", json_file, "--device", "cpu",
        "--quiet",
    )  # fmt: skip
    return {**found, "text": result.stdout, "fit": json.loads(json_file.read_text())}


def test_it_says_how_well_it_fits(files):
    assert "fitted    energy: 12 training frames, scale" in files["text"]
    assert "within 1 sigma (normal: 68 %)" in files["text"]
    assert "predicted -> found, meV/atom:" in files["text"]
    assert files["fit"]["reliability"]["n_frames"] == 8


def test_the_result_has_the_same_weights_and_an_uncertainty(files):
    record = load_checkpoint(files["sure"])
    own = build_uncertainties(record)["energy"]
    assert own.n_members == 5
    assert float(own.multiplier) == pytest.approx(files["fit"]["scale"])
    base, sure = (PETCalculator(files[name]) for name in ("base", "sure"))
    for atoms in build_frames(3, seed=7):
        one, two = (c.get_property("energy", atoms) for c in (base, sure))
        np.testing.assert_array_equal(one, two)


def test_units_and_keys_are_read_as_elsewhere(files, tmp_path):
    """A thousand times the errors make a thousand times the scale."""
    fits = []
    for flags in ((), ("--energy-unit", "meV")):
        path = tmp_path / "fit.json"
        run(
            "uncertainty", files["base"], files["train"], "--val",
            files["val"], "-o", tmp_path / "x.ckpt", "--json", path, "--overwrite",
            "--device", "cpu", "--quiet", *flags,
        )  # fmt: skip
        fits.append(json.loads(path.read_text())["scale"])
    assert fits[0] != pytest.approx(fits[1], rel=0.01)


def test_the_model_that_is_read_is_not_replaced(files):
    before = load_checkpoint(files["base"])
    result = run(
        "uncertainty", files["base"], files["train"], "--val", files["val"],
        "-o", files["base"], "--quiet", status=2,
    )  # fmt: skip
    assert "is read, and would be overwritten" in result.stderr
    assert load_checkpoint(files["base"]).extras == before.extras


def test_the_exported_file_and_metatrain_s_have_it(files, tmp_path):
    run("export", files["sure"], "-o", tmp_path / "sure.pt")
    exported = load_atomistic_model(tmp_path / "sure.pt")
    outputs = exported.capabilities().outputs
    extra = ["feature", "features", "energy_uncertainty", "energy_ensemble"]
    assert list(outputs) == ["energy", *extra]
    assert outputs["energy_uncertainty"].unit == "eV"
    run("convert", files["sure"], "--to", "metatrain", "-o", tmp_path / "mt.ckpt")
    again = build_uncertainties(load_checkpoint(tmp_path / "mt.ckpt"))["energy"]
    own = build_uncertainties(load_checkpoint(files["sure"]))["energy"]
    torch.testing.assert_close(again.cholesky, own.cholesky, rtol=1e-9, atol=1e-12)


def test_info_says_which_energies_have_one(files):
    assert "uncertainty   energy (LLPR)" in run("info", files["sure"]).stdout
    assert "uncertainty   no" in run("info", files["base"]).stdout

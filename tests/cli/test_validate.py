"""The verb ``validate``."""

import json

import ase.build
import pytest
from support.command_line import Runner
from support.models import build_model
from support.runs import write_base

from pet_calc.checkpoint import Checkpoint, save_checkpoint

run = Runner(None)
FEW = ("--quiet", "--device", "cpu", "--compile", "no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a random network that has ZBL, and structures."""
    folder = tmp_path_factory.mktemp("validate")
    save_checkpoint(folder / "zbl.ckpt", Checkpoint.from_model(build_model(zbl=True)))
    write_base(folder)
    ase.build.molecule("H2O").write(folder / "water.xyz")
    ase.build.bulk("Al", "fcc", 4.05).write(folder / "al.xyz")
    return folder


def validate(folder, model, *flags, status=0):
    """What is printed, and the report."""
    file = folder / "report.json"
    args = (folder / model, *FEW, "--json", file, *flags)
    result = run("validate", *args, status=status)
    return result.stdout, json.loads(file.read_text())


def test_a_hole_is_a_failure_with_a_status(folder):
    """Of the untrained base: it has no wall at all."""
    text, report = validate(
        folder, "base.ckpt", "--structure", folder / "water.xyz", "--quick", status=2
    )
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["dimers"]["verdict"] == report["verdict"] == "fail"
    assert [row["verdict"] for row in report["rows"][:4]] == ["ok"] * 4
    assert text.splitlines()[0] == "model base.ckpt (energy, float64)"
    assert text.splitlines()[1] == "on    H2O, 3 atoms, molecule"
    assert "fail  dimers" in text
    assert "left out of the short form" in text
    assert sorted(c["pair"] for c in report["dimers"]) == [
        ["H", "H"], ["H", "O"], ["O", "O"],
    ]  # fmt: skip
    assert len(report["dimers"][0]["energies"]) > 20


def test_a_crystal_has_all_rows_of_one(folder):
    _, report = validate(
        folder, "zbl.ckpt", "--structure", folder / "al.xyz", "--nve", "0.02", status=2
    )
    names = {row["name"] for row in report["rows"]}
    assert names >= {"stress", "drift", "modes", "elastic"}
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["stress"]["verdict"] == rows["forces"]["verdict"] == "ok"
    assert "0.02 ps" in rows["drift"]["detail"]


def test_an_exported_file_is_validated_as_it_is(folder):
    exported = folder / "zbl.pt"
    run("export", folder / "zbl.ckpt", "-o", exported, "--dtype", "float64")
    flags = ("--structure", folder / "water.xyz", "--quick")
    _, one = validate(folder, "zbl.ckpt", *flags, status=2)
    text, other = validate(folder, "zbl.pt", *flags, status=2)
    assert "zbl.pt (energy, float64)" in text
    for row, same in zip(one["rows"], other["rows"], strict=True):
        assert row["verdict"] == same["verdict"], row["name"]
        if row["name"] in ("rotation", "inversion", "contacts", "dimers"):
            assert same["value"] == pytest.approx(row["value"], rel=1e-6)


def test_float32_files_are_held_to_what_float32_can(folder):
    exported = folder / "single.pt"
    run("export", folder / "zbl.ckpt", "-o", exported, "--dtype", "float32")
    flags = ("--structure", folder / "water.xyz", "--quick")
    text, report = validate(folder, "single.pt", *flags, status=2)
    assert "float32" in text
    exact = [row for row in report["rows"] if row["name"] in (
        "forces", "translation", "permutation", "extensivity", "force jump",
    )]  # fmt: skip
    assert [row["verdict"] for row in exact] == ["ok"] * 5
    assert exact[0]["warn"] > 1.0


def test_without_a_structure_one_of_known_elements_is_built(folder):
    text, report = validate(folder, "zbl.ckpt", "--quick", status=2)
    assert "on    C2H6O, 9 atoms, molecule" in text
    _, all_pairs = validate(folder, "zbl.ckpt", "--quick", "--pairs", "all", status=2)
    assert len(report["dimers"]) == 6
    assert len(all_pairs["dimers"]) == 15


def test_the_curves_are_drawn(folder):
    flags = ("--structure", folder / "water.xyz", "--quick")
    # the second time it replaces its own figure
    for name in ("dimers.png", "dimers.svg", "dimers.svg"):
        text, _ = validate(folder, "zbl.ckpt", *flags, "-o", folder / name, status=2)
        assert (folder / name).stat().st_size > 5000
        assert f"drawn {folder / name}: 3 of 3 pairs" in text
    line = run.fail(
        "validate", folder / "zbl.ckpt", *FEW, *flags, "-o", folder / "x.gif"
    )
    assert "expected a figure that ends in .pdf, .png, .svg" in line


def test_elements_that_the_model_does_not_know_are_named(folder):
    ase.build.molecule("NH3").write(folder / "other.xyz")
    line = run.fail(
        "validate", folder / "zbl.ckpt", *FEW, "--structure", folder / "other.xyz"
    )
    assert "the model does not know N" in line

"""``pet-calc export --to pet-kokkos``: names, refusals, what is not overwritten."""

import json

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from support.models import DIRECT, ENERGIES, build_model, build_tuned

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.cli.file_kind import find_kind
from pet_calc.cli.main import cli


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("base.ckpt", Checkpoint.from_model(build_model()))
    _, adapter = build_tuned()
    save_adapter("tuned.safetensors", adapter)
    several = Checkpoint.from_model(build_model([*ENERGIES, *DIRECT[1:]]))
    save_checkpoint("several.ckpt", several)
    return tmp_path


def run(*words, status=0):
    result = CliRunner().invoke(cli, ["export", *words, "--to", "pet-kokkos"])
    assert result.exit_code == status, result.output
    return result.output


def test_two_files_are_written_under_one_name(files):
    assert "written   water.json and water.safetensors" in run(
        "base.ckpt", "-o", "water", "--no-check"
    )
    header = json.loads((files / "water.json").read_text())
    assert header["source_model"] == "base.ckpt"
    assert find_kind(files / "water.json") == "export"
    assert find_kind(files / "water.safetensors") == "export"
    # a newer one of the same kind may replace it
    run("base.ckpt", "--adapter", "tuned.safetensors", "-o", "water.json", "--no-check")
    newer = json.loads((files / "water.json").read_text())
    assert newer["composition_energies"] != header["composition_energies"]


def test_without_a_name_it_is_the_checkpoint_s(files):
    run("base.ckpt", "--no-check")
    assert (files / "base.json").is_file()
    weights = load_file(files / "base.safetensors")
    assert "node_last_layers.energy.0.energy___0.weight" in weights


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["several.ckpt"], "several energies (energy/pbe, energy/scan)"),
        (["several.ckpt", "--target", "r2scan"], "no energy target 'r2scan'"),
        (["base.ckpt", "--dtype", "float64"], "computes in float32"),
        (["base.ckpt", "-o", "nowhere/x"], "there is no folder nowhere"),
        (
            ["base.ckpt", "--adapter", "tuned.safetensors", "-o", "tuned"],
            "is read, and would be overwritten",
        ),
        (["base.ckpt", "-o", "tuned"], "holds an adapter, and an exported model would"),
    ],
)
def test_wrong_input_is_one_line(words, message, files):
    before = sorted(files.iterdir())
    output = run(*words, "--no-check", status=2)
    assert message in output.splitlines()[-1]
    assert sorted(files.iterdir()) == before


def test_one_of_several_energies_is_chosen(files):
    output = run("several.ckpt", "--target", "scan", "--no-check")
    assert "left out: energy/pbe" in output
    assert json.loads((files / "several.json").read_text())["target"] == "energy/scan"


def test_a_target_is_no_option_of_metatomic_s_file():
    words = ["export", "several.ckpt", "--target", "scan"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "a metatomic file holds all targets" in result.output

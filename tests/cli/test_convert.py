"""What metatrain asks of an options file is printed where its checkpoint is written."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.frames import write_frames
from support.runs import write_base

from pet_calc.cli.main import cli
from pet_calc.model.hypers import TargetSpec

LEVEL = "from GFN1-xTB, trained on a: 'train'.xyz; level not stated"


def convert(folder, description):
    base = write_base(folder, [TargetSpec.for_energy(description=description)])
    words = ["convert", base, "--to", "metatrain", "-o", str(folder / "theirs.ckpt")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def read_lines(output):
    return yaml.safe_load(output.partition("name files:\n")[2])


def test_a_description_is_printed_as_lines_of_an_options_file(tmp_path):
    output = convert(tmp_path, LEVEL)
    assert read_lines(output) == {
        "targets": {"energy": {"unit": "eV", "description": LEVEL}}
    }


def test_without_a_description_there_is_nothing_to_paste(tmp_path):
    assert "options" not in convert(tmp_path, "")


@pytest.mark.slow
@pytest.mark.parametrize("is_pasted", [True, False])
def test_metatrain_takes_the_lines(tmp_path, is_pasted):
    lines = read_lines(convert(tmp_path, LEVEL))
    target = {"key": "energy", "unit": "eV", "forces": {"key": "forces"}}
    if is_pasted:
        target |= lines["targets"]["energy"]
    systems = {"read_from": write_frames(tmp_path), "length_unit": "angstrom"}
    training = {"num_epochs": 1, "batch_size": 4}
    training["finetune"] = {"method": "full", "read_from": "theirs.ckpt", "config": {}}
    options = {
        "device": "cpu",
        "base_precision": 64,
        "architecture": {"name": "pet", "training": training},
        "training_set": {"systems": systems, "targets": {"energy": target}},
        "validation_set": 0.25,
        "test_set": 0.0,
    }
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(options))
    done = subprocess.run(
        [Path(sys.executable).with_name("mtt"), "train", "options.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == is_pasted, done.stdout[-2000:] + done.stderr

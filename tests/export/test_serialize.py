"""Exports are written by Python: a full disk gives an error and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.models import build_model
from support.runs import write_base

from pet_calc.export import export_model
from pet_calc.export.save import build_atomistic_model
from pet_calc.export.serialize import serialize

ROOT = Path(__file__).resolve().parents[2]


def test_the_bytes_are_those_of_a_model(tmp_path):
    save = torch.jit.save
    exported = build_atomistic_model(build_model())
    content = serialize(exported)
    assert torch.jit.save is save
    assert content[:4] == b"PK\x03\x04"
    assert b"metatomic-version" in content


def test_nothing_is_left_where_the_file_cannot_be_written(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    model = build_model()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        export_model(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of the size of files")
@pytest.mark.parametrize(
    "args",
    [
        ("export", "base.ckpt", "-o", "out.pt"),
        ("convert", "base.ckpt", "-o", "out.ckpt"),
        ("convert", "base.ckpt", "-o", "out.ckpt", "--to", "metatrain"),
    ],
)
def test_a_disk_that_is_full_is_one_line_and_nothing_is_left(tmp_path, args):
    """A limit of the size of files, in a process of its own, stands for the disk."""
    write_base(tmp_path)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "sys.argv = ['pet-calc', *sys.argv[1:]]\n"
        "from pet_calc.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["base.ckpt"]

"""Folders in which verbs run."""

import pytest
from support.command_line import FINETUNE, SESSION, Runner
from support.frames import write_frames
from support.runs import write_base

from pet_calc.cli import run_report


@pytest.fixture
def paged(tmp_path):
    """A folder with data, a base, and the command line."""
    write_frames(tmp_path)
    write_base(tmp_path)
    return Runner(tmp_path)


@pytest.fixture
def run(paged, monkeypatch):
    """Likewise, but runs end without their page, which takes seconds."""
    monkeypatch.setattr(run_report, "_write_page", lambda folder: None)
    return paged


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """A folder with a finished fine-tuning in ``run``, not to be changed."""
    folder = tmp_path_factory.mktemp("tuned")
    runner = Runner(folder)
    data, base = write_frames(folder), write_base(folder)
    flags = [*FINETUNE, "--epochs", "6", "--lr", "0.01", "--level", "EMT", *SESSION]
    runner.result = runner("finetune", data, "-c", base, "-o", folder / "run", *flags)
    return runner

"""Runs of which pages are made."""

import pytest
from ase.io import read, write
from support.command_line import Runner
from support.pages import write_kinds
from support.runs import build_options

from pet_calc.train.run import run_training


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run with a test set, not to be changed."""
    folder = tmp_path_factory.mktemp("page")
    options = build_options(
        folder,
        data=write_kinds(folder / "kinds.xyz"),
        test="0.25",
        method="full",
        epochs=8,
        # at which the first epoch is better than the base
        learning_rate=0.003,
    )
    run_training(options, show_progress=False)
    return folder / "run"


@pytest.fixture(scope="session")
def checked(tmp_path_factory):
    """The page of a check of data with copies, not to be changed."""
    folder = tmp_path_factory.mktemp("checked")
    data = write_kinds(folder / "kinds.xyz")
    frames = read(data, ":")
    # the copies of frame 0 have the name that no page must run
    write(data, [*frames[:-1], frames[0]])
    Runner(folder)("check", data, "--html", folder / "data.html", "--quiet")
    return folder / "data.html"

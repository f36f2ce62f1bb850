"""Runs of which pages are made."""

import pytest
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
    )
    run_training(options, show_progress=False)
    return folder / "run"

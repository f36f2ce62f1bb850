"""A tiny model with an uncertainty, and trajectories to choose from."""

import pytest
from support.command_line import Runner
from support.frames import write_frames
from support.runs import write_base


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Files: a base, its training set, and the same model with an uncertainty."""
    folder = tmp_path_factory.mktemp("select")
    train, base = write_frames(folder), write_base(folder)
    val = write_frames(folder, n_frames=24, seed=1, name="val.xyz")
    sure = folder / "sure.ckpt"
    words = ["--val", val, "-o", sure, "--device", "cpu", "--quiet"]
    Runner(None)("uncertainty", base, train, *words)
    return {"base": base, "train": train, "sure": str(sure)}

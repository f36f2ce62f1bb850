"""Where a test writes a checkpoint."""

import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"

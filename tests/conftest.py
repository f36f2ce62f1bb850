"""Settings of the whole test session."""

import sys

import pytest
import torch

# the models are tiny: more threads than cores cost 100 times more than they bring
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_physics(request, monkeypatch):
    """Runs end without the physics check, which some 200 of them would repeat.

    Those of tests that name the fixture ``with_physics`` end as a user's do, and so do
    those that several tests share.
    """
    run = sys.modules.get("pet_calc.train.run")
    if run is not None and "with_physics" not in request.fixturenames:
        monkeypatch.setattr(run, "choose_check", lambda *args: None)


@pytest.fixture
def with_physics():
    """Leave the physics check on."""

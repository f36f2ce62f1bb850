"""A model that most tests of the calculator run, in memory and exported."""

import pytest
from support.models import build_model

from pet_calc.export import export_model


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_model(model, tmp_path_factory.mktemp("x") / "m.pt", check=False)

"""PETCalculator leaves cores to other programs, and torch's settings as they were."""

import pytest
import torch
from support.models import build_model
from support.structures import build_molecule

from pet_calc import PETCalculator
from pet_calc.calculator import calculator as module


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_free", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_an_evaluation_takes_the_free_cores_only(
    n_free, fails, two_threads, monkeypatch
):
    monkeypatch.setattr(module._free_cores, "limit", lambda n: min(n, n_free))
    atoms = build_molecule()
    atoms.calc = PETCalculator(build_model())
    compute, seen = atoms.calc._backend.compute, []

    def look(*arguments):
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("no memory")
        return compute(*arguments)

    monkeypatch.setattr(atoms.calc._backend, "compute", look)
    if fails:
        with pytest.raises(RuntimeError, match="no memory"):
            atoms.get_forces()
    else:
        atoms.get_forces()
    assert seen == [n_free]
    assert torch.get_num_threads() == 2

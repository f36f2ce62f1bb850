"""A file that was saved on a GPU opens where there is none."""

import ase.build
import pytest
import torch
from support.models import build_model, build_tuned
from support.peer import build_peer
from support.structures import assert_same, build_bulk, get_results

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter


@pytest.fixture
def gpu(monkeypatch):
    """Every tensor that is saved is marked as being on a GPU, as it would be there."""
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")


def assert_needs_a_gpu(path):
    with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CU"):
        torch.load(path, weights_only=False)


def test_our_checkpoints_and_adapters_do(tmp_path, gpu):
    model, path = build_model(), tmp_path / "base.ckpt"
    save_checkpoint(path, Checkpoint.from_model(model))
    assert_needs_a_gpu(path)
    expected = get_results(PETCalculator(model), build_bulk())
    assert_same(expected, get_results(PETCalculator(path), build_bulk()))
    tuned, adapter = build_tuned()
    save_adapter(tmp_path / "a.safetensors", adapter)
    found = PETCalculator(path, adapter=tmp_path / "a.safetensors")
    expected = get_results(PETCalculator(tuned), build_bulk())
    assert_same(expected, get_results(found, build_bulk()))


def test_those_of_metatrain_do(tmp_path, monkeypatch, request):
    content = build_peer(seed=2).get_checkpoint()
    torch.save(content, tmp_path / "cpu.ckpt")
    request.getfixturevalue("gpu")
    torch.save(content, tmp_path / "gpu.ckpt")
    assert_needs_a_gpu(tmp_path / "gpu.ckpt")
    atoms = ase.build.bulk("CN", "zincblende", a=3.6, cubic=True)
    one, other = (
        get_results(PETCalculator(tmp_path / f"{name}.ckpt"), atoms)
        for name in ("cpu", "gpu")
    )
    assert_same(one, other, tolerance=0.0)

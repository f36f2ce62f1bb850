"""What a GPU has to give: the numbers of the CPU.

    pytest -m gpu tests/test_gpu.py
    PET_CALC_DEVICE=cpu pytest -m gpu tests/test_gpu.py    # rehearsal without one

Nothing here needs metatrain or the compiled engine, and all of it takes a few minutes.
"""

import os
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.frames import write_frames
from support.models import DIRECT, build_model, build_tuned
from support.runs import build_options
from support.structures import (
    assert_same,
    build_bulk,
    build_molecule,
    build_water,
    get_results,
)

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.cli.main import cli
from pet_calc.config import replace
from pet_calc.errors import ConfigError, TooLargeError
from pet_calc.export import export_model
from pet_calc.train.run import run_training

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("PET_CALC_DEVICE", "cuda")
VARIANTS = {
    "plain": {},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "older grid": {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
    "residual": {"featurizer_type": "residual", "d_node": 8},
    "PostLN": {"transformer_type": "PostLN"},
    "zbl": {"zbl": True},
    "conditioned": {"system_conditioning": True},
}
# sums in another order, and on GPUs in one that changes
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if DEVICE != "cpu" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")


def build_structures():
    structures = [build_molecule(), build_bulk(), build_water((3, 3, 3))]
    for atoms in structures:
        atoms.info.update(charge=-1, spin=2)
    return structures


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_models_and_exported_files_give_the_numbers_of_the_cpu(tmp_path, name, dtype):
    model = build_model(dtype=dtype, **VARIANTS[name])
    path = export_model(model, tmp_path / "model.pt", check=False)
    expected = PETCalculator(model, device="cpu", compile=False)
    for source in (model, path):
        found = PETCalculator(source, device=DEVICE)
        assert found.device.type == torch.device(DEVICE).type
        for atoms in build_structures():
            assert_same(
                get_results(expected, atoms),
                get_results(found, atoms),
                TOLERANCES[dtype],
            )


def test_direct_heads_do(tmp_path):
    model = build_model(DIRECT)
    path = export_model(model, tmp_path / "model.pt", check=False)
    results = [
        get_results(
            PETCalculator(source, device=device, non_conservative=True), build_bulk()
        )
        for source, device in ((model, "cpu"), (model, DEVICE), (path, DEVICE))
    ]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_averages_lists_and_what_is_asked_for_besides_do(tmp_path):
    model = build_model()
    path = export_model(model, tmp_path / "model.pt", check=False)
    frames = build_structures()
    bulk = build_bulk()
    found = []
    for source, device in ((model, "cpu"), (model, DEVICE), (path, DEVICE)):
        calculator = PETCalculator(source, device=device, compile=False)
        averaged = PETCalculator(
            source, device=device, compile=False, rotational_average_order=1
        )
        results = calculator.evaluate(frames)
        found.append(
            {
                **get_results(averaged, bulk),
                "stresses": calculator.get_stresses(bulk),
                "features": calculator.get_features(bulk),
                **{f"forces {i}": each["forces"] for i, each in enumerate(results)},
            }
        )
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_adapters_do(tmp_path):
    save_checkpoint(tmp_path / "base.ckpt", Checkpoint.from_model(build_model()))
    _, adapter = build_tuned()
    save_adapter(tmp_path / "a.safetensors", adapter)
    files = {"a": tmp_path / "a.safetensors"}
    for name in ("a", None):
        results = []
        for device in ("cpu", DEVICE):
            calculator = PETCalculator(
                tmp_path / "base.ckpt", adapters=files, device=device, compile=False
            )
            calculator.set_adapter(name)
            results.append(get_results(calculator, build_bulk()))
        assert_same(*results)


def test_too_large_a_system_says_which_size_would_fit():
    if DEVICE == "cpu":
        pytest.skip("the CPU's is tested elsewhere")
    model = build_model(dtype=torch.float32, d_pet=128, d_head=128, d_node=256)
    calculator = PETCalculator(model, device=DEVICE)
    calculator.get_potential_energy(build_molecule())
    free, _ = torch.cuda.mem_get_info()
    filler = torch.empty(int(free - 5e8), dtype=torch.uint8, device=DEVICE)
    atoms = build_water((12, 12, 12))
    with pytest.raises(TooLargeError, match=r"such atoms would") as caught:
        calculator.get_potential_energy(atoms)
    n_fitting = int(re.search(r"about (\d+) such atoms", str(caught.value))[1])
    side = int((n_fitting / 3) ** (1 / 3))
    assert 1 < side < 12
    assert np.isfinite(calculator.get_potential_energy(build_water((side,) * 3)))
    del filler


def test_an_export_from_the_gpu_is_the_same_file(tmp_path):
    model = build_model()
    expected = get_results(PETCalculator(model, device="cpu"), build_bulk())
    path = export_model(model.to(DEVICE), tmp_path / "model.pt")
    assert_same(expected, get_results(PETCalculator(path, device="cpu"), build_bulk()))


def test_mixed_precision_errs_a_little_and_follows_the_energy():
    if DEVICE == "cpu":
        pytest.skip("the CPU's is tested elsewhere")
    model = build_model(dtype=torch.float32)
    if not torch.cuda.is_bf16_supported(False):
        with pytest.raises(ConfigError, match="bfloat16"):
            PETCalculator(model, device=DEVICE, precision="mixed")
        return
    exact = PETCalculator(model, device=DEVICE)
    mixed = PETCalculator(model, device=DEVICE, precision="mixed")
    for atoms in build_structures():
        one, other = get_results(exact, atoms), get_results(mixed, atoms)
        error = np.abs(one["forces"] - other["forces"]).max()
        # 8 bits: 0.4 % of each factor
        assert 0 < error < 0.1 * np.abs(one["forces"]).max()


@pytest.mark.parametrize(
    ("flags", "train"),
    [
        ({"method": "lora"}, {}),
        ({"method": "heads"}, {}),
        ({"method": "full"}, {"activation_checkpointing": True}),
        ({"method": "lora"}, {"max_pairs_per_batch": 60}),
    ],
    ids=["LoRA", "heads", "all weights", "steps in parts"],
)
def test_runs_end_as_on_the_cpu(tmp_path, flags, train):
    ends = {}
    for place, device in (("one", "cpu"), ("other", DEVICE)):
        folder = tmp_path / place
        folder.mkdir()
        options = build_options(folder, device=device, train=train, **flags)
        options = replace(options, train=replace(options.train, compile=False))
        ends[place] = run_training(options, show_progress=False)
        best = Path(options.output) / "best_model.ckpt"
        # what was trained on one device runs on the other
        results = [
            get_results(PETCalculator(best, device=kind), build_bulk())
            for kind in ("cpu", DEVICE)
        ]
        assert_same(*results)
    expected, found = ends["one"].validation, ends["other"].validation
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_a_run_goes_on_where_it_stopped(tmp_path):
    options = build_options(tmp_path, device=DEVICE)
    whole = run_training(options, show_progress=False)
    halves = replace(options, output=str(tmp_path / "halves"))
    run_training(halves, stop_after=2, show_progress=False)
    again = run_training(halves, is_resumed=True, show_progress=False)
    for name, value in whole.validation.items():
        assert again.validation[name] == pytest.approx(value, rel=1e-6), name


def test_mixed_precision_trains(tmp_path):
    if DEVICE == "cpu":
        pytest.skip("the CPU's is tested elsewhere")
    validation = []
    for is_mixed in (False, True):
        train = {"mixed_precision": is_mixed, "compile": False, "num_epochs": 20}
        folder = tmp_path / str(is_mixed)
        folder.mkdir()
        options = build_options(folder, device=DEVICE, dtype="float32", train=train)
        validation.append(run_training(options, show_progress=False).validation)
    for name, value in validation[0].items():
        assert validation[1][name] == pytest.approx(value, rel=0.5), name


def test_the_commands_take_the_gpu_by_themselves(tmp_path):
    data = write_frames(tmp_path)
    options = build_options(tmp_path, device="auto")
    base = options.finetune.base

    def run(*words):
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    output = tmp_path / "tuned"
    run("finetune", data, "--base", base, "-o", output, "--epochs", 1, "--val", 0.25)
    assert load_checkpoint(output / "best_model.ckpt").dtype == torch.float32
    for device in ("auto", "cpu"):
        file = tmp_path / f"{device}.xyz"
        run("eval", base, data, "-o", file, "--device", device)
    one, other = (
        ase.io.read(tmp_path / f"{device}.xyz", ":") for device in ("auto", "cpu")
    )
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(
            mine.get_forces(), theirs.get_forces(), rtol=0, atol=1e-8
        )

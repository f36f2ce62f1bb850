"""Short trainings on the CPU that many tests share."""

import json
from pathlib import Path

import torch
from support.frames import write_frames
from support.models import ATOMIC_TYPES, TINY

from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.config import TrainOptions, replace
from pet_calc.config.quick import build_finetune_options
from pet_calc.data import orientation
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.train import loaders
from pet_calc.train.run import run_training
from pet_calc.train.start import composition


def write_base(folder, targets=None, **hypers):
    """Write a tiny untrained base in float64; return the file's name."""
    path = folder / "base.ckpt"
    specs = targets or [TargetSpec.for_energy()]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = PET(PETHypers(**{**TINY, **hypers}), ATOMIC_TYPES, specs).double()
    save_checkpoint(path, Checkpoint.from_model(model))
    return str(path)


def build_options(folder, *, output="run", base=None, train=None, data=None, **flags):
    """Options of a short fine-tuning on the CPU in float64."""
    values = {
        "validation": "0.25",
        "epochs": 4,
        "batch_size": 3,
        "learning_rate": 0.01,
        "device": "cpu",
        "dtype": "float64",
    }
    if flags.get("method", "lora") == "lora":
        values["rank"] = 2
    options = build_finetune_options(
        (data or write_frames(folder),),
        base or write_base(folder),
        folder / output,
        {**values, **flags},
    )
    changed: TrainOptions = replace(options.train, **(train or {}))
    return replace(options, train=changed)


def stand_as_in_file(monkeypatch):
    """Judge models on frames as they are, to compare with numbers made of these."""
    as_in_file = replace(orientation.AS_JUDGED, kind="none")
    for module in (orientation, loaders, composition):
        monkeypatch.setattr(module, "AS_JUDGED", as_in_file)


def read_log(folder):
    """What a run wrote of each epoch."""
    return [json.loads(r) for r in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_state(one, other):
    """Check that two models have the same tensors, bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def check_resume(options, folder, **changes):
    """Check that a run of two halves ends, bit for bit, like one without a stop.

    The halves may have other options, as far as these must not matter.
    """
    whole = run_training(options, show_progress=False)
    halves = replace(options, output=str(folder / "halves"), **changes)
    run_training(halves, stop_after=2, show_progress=False)
    again = run_training(halves, is_resumed=True, show_progress=False)
    assert again.validation == whole.validation
    one, other = (
        load_checkpoint(Path(run.output) / "last_model.ckpt")
        for run in (options, halves)
    )
    assert_same_state(one.state, other.state)

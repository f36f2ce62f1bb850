"""Small labelled data sets and options that the training tests share."""

from dataclasses import replace
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import ATOMIC_TYPES, TINY

from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.config import TrainOptions
from pet_calc.config.quick import FinetuneFlags, build_finetune_options
from pet_calc.data import orientation
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.train import loaders
from pet_calc.train.run import run_training
from pet_calc.train.start import composition as offsets

N_FRAMES = 12


def build_frames(n_frames=N_FRAMES, seed=0):
    """Rattled aluminium cells (with stress) and molecules, labelled by ASE's EMT."""
    frames = []
    rng = np.random.default_rng(seed)
    for i in range(n_frames):
        if i % 3:
            atoms = ase.build.molecule("H2O")
        else:
            atoms = ase.build.bulk("Al", "fcc", 4.05, cubic=True)
            atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def write_frames(folder, n_frames=N_FRAMES, seed=0, name="train.xyz"):
    """Write the frames; return the file's name."""
    path = folder / name
    ase.io.write(path, build_frames(n_frames, seed))
    return str(path)


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
        FinetuneFlags(**{**values, **flags}),
    )
    changed: TrainOptions = replace(options.train, **(train or {}))
    return replace(options, train=changed)


def stand_as_in_file(monkeypatch):
    """Judge models on frames as they are, to compare with numbers made of these."""
    as_in_file = replace(orientation.AS_JUDGED, kind="none")
    for module in (orientation, loaders, offsets):
        monkeypatch.setattr(module, "AS_JUDGED", as_in_file)


def check_resume(options, folder):
    """Check that a run of two halves ends, bit for bit, like one without a stop."""
    whole = run_training(options, show_progress=False)
    halves = replace(options, output=str(folder / "halves"))
    run_training(halves, stop_after=2, show_progress=False)
    again = run_training(halves, is_resumed=True, show_progress=False)
    assert again.validation == whole.validation
    one, other = (
        load_checkpoint(Path(run.output) / "last_model.ckpt")
        for run in (options, halves)
    )
    for name, value in one.state.items():
        assert torch.equal(value, other.state[name])

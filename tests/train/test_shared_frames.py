"""Frames with labels of several targets: read once, and one pass a step for all."""

import ase.io
import numpy as np
import pytest
import torch
import yaml
from support.frames import build_frames
from support.levels import read_both, write_levels
from support.runs import check_resume, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import LossOptions, LossTerm, read_options, replace
from pet_calc.data import frames as frames_module
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import Orientation, turn_frame
from pet_calc.data.read_dataset import (
    StoreRule,
    join_datasets,
    read_dataset,
    select_target,
)
from pet_calc.engine.training import TrainingEngine
from pet_calc.model.derivatives import Derived, predict, predict_outputs
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.pet import PET
from pet_calc.system.ranks import Ranks
from pet_calc.train.datasets import read_run_frames
from pet_calc.train.direct import DirectObjective
from pet_calc.train.objective import EnergyObjective, TrainedSet
from pet_calc.train.recompute import recompute_layers
from pet_calc.train.run import run_training
from pet_calc.train.start.direct_heads import DirectHeads
from pet_calc.train.step_runner import StepRunner
from pet_calc.train.steps import StepPredictor
from pet_calc.train.task import Task

A, B = "energy/a", "energy/b"
FORCES = "non_conservative_force"
SPECS = [
    TargetSpec.for_energy(A),
    TargetSpec.for_energy(B),
    TargetSpec.for_forces(FORCES),
]
LOSSES = (
    LossOptions(weight=0.7),
    LossOptions(weight=0.1, forces=LossTerm(type="huber", weight=2.0, delta=0.1)),
)


def build_table():
    """Frames with labels of both targets, some of which one of them lacks."""
    made = []
    for i, atoms in enumerate(build_frames(7)):
        frame = LabeledFrame.from_atoms(atoms)
        frame.weight = 1.0 + 0.25 * i
        one = frame.only_labels
        frame.labels = {
            A: frame.relabel(direct_forces=one.forces + 0.1).only_labels,
            B: frame.relabel(energy=1.5 * one.energy, forces=-one.forces).only_labels,
        }
        made.append(frame)
    lacking = made[2].of_target(B).relabel(energy=None, forces=None).labels
    made[2].labels |= lacking
    made[3].labels |= made[3].of_target(A).relabel(forces=None).labels
    # a frame of one of the targets only
    made[4].labels = {A: made[4].labels[A]}
    return made


def build_runner(model, frames, *, consistency=0.0, predictor=None, **settings):
    loader = BatchLoader(
        SystemDataset(frames, model.pair_cutoff),
        len(frames),
        dtype=torch.float64,
        **settings,
    )
    objectives = [
        EnergyObjective(Task(name, True, True, loss), consistency=consistency)
        for name, loss in zip((A, B), LOSSES, strict=True)
    ]
    heads = DirectHeads(FORCES, own_labels=(FORCES,))
    objectives.append(DirectObjective(heads, LOSSES[0], target=A))
    return StepRunner(model, TrainedSet(loader, objectives), predictor=predictor)


def compute_gradient(model, frames, **settings):
    """Loss and gradient of the step of all frames."""
    runner = build_runner(model, frames, **settings)
    (step,) = runner.training.loader.iterate_steps()
    loss = runner.compute_gradient(step, 0)
    return loss, [p.grad.clone() for p in runner.parameters if p.grad is not None]


def load_model(folder):
    return load_checkpoint(write_base(folder, targets=SPECS)).build_model()


def assert_same_step(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    largest = max(float(gradient.abs().max()) for gradient in other[1])
    for found, expected in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * largest)


def take_apart(frames):
    """Each frame once for each target that it has labels of."""
    return [f.of_target(name) for name in (A, B) for f in frames if name in f.labels]


@pytest.mark.parametrize("by", ["PyTorch", "engine", "layers computed again"])
def test_a_step_is_that_of_the_frames_once_for_each_target(tmp_path, by):
    model, frames = load_model(tmp_path), build_table()
    expected = compute_gradient(model, take_apart(frames))
    predictor = None
    if by == "engine":
        predictor = StepPredictor(TrainingEngine())
    elif by != "PyTorch":
        recompute_layers(model)
    found = compute_gradient(model, frames, predictor=predictor)
    assert_same_step(found, expected)


def test_a_step_in_parts_and_by_two_processes_is_the_whole_step(tmp_path):
    model, frames = load_model(tmp_path), build_table()
    whole = compute_gradient(model, frames)
    assert_same_step(compute_gradient(model, frames, most_tokens=1), whole)
    halves = [
        compute_gradient(model, frames, ranks=Ranks(rank, 2)) for rank in range(2)
    ]
    losses, gradients = zip(*halves, strict=True)
    summed = [one + other for one, other in zip(*gradients, strict=True)]
    assert_same_step((sum(losses), summed), whole)


def test_two_orientations_of_a_frame_are_the_same_for_all_targets(tmp_path):
    model, frames = load_model(tmp_path), build_table()
    settings = {"orientation": Orientation(seed=1), "is_paired": True}
    loader = BatchLoader(SystemDataset(frames, 4.0), 9, **settings)
    (step,) = loader.iterate_steps(3)
    for part in step.parts:
        turned = [
            turn_frame(frames[i], turn.numpy())
            for i, turn in zip(part.indices, part.turns, strict=True)
        ]
        for name, labels in part.labels.items():
            forces = [f.labels[name].forces for f in turned]
            sizes = labels.n_atoms.tolist()
            for found, expected in zip(labels.forces.split(sizes), forces, strict=True):
                if expected is not None:
                    np.testing.assert_allclose(found, expected, atol=1e-5)
    # unlike the labels, predictions of both orientations count in any frame
    losses = [
        compute_gradient(model, frames, consistency=c, **settings)[0]
        for c in (0.0, 1.0, 2.0)
    ]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-9)
    assert losses[1] > losses[0]


def test_the_network_is_gone_through_once_for_all_outputs(tmp_path, monkeypatch):
    model, frames = load_model(tmp_path), build_table()
    asked = []
    evaluate = PET.evaluate

    def watch(self, batch, vectors, index, targets, *rest):
        asked.append(tuple(targets))
        return evaluate(self, batch, vectors, index, targets, *rest)

    monkeypatch.setattr(PET, "evaluate", watch)
    compute_gradient(model, frames)
    # the frame that has one target only is a part of its own
    assert asked == [(A, B, FORCES), (A, FORCES)]


@pytest.mark.parametrize("is_training", [False, True])
def test_one_pass_gives_what_a_pass_for_each_energy_gives(tmp_path, is_training):
    model = load_model(tmp_path)
    loader = BatchLoader(
        SystemDataset([f.of_target(A) for f in build_table()], 4.0),
        7,
        dtype=torch.float64,
    )
    ((batch, _),) = loader
    derived = {A: Derived(True, True), B: Derived(False, False)}
    found = predict_outputs(model, batch, derived, is_training=is_training).energies
    for name, (with_forces, with_stress) in derived.items():
        expected = predict(
            model,
            batch,
            name,
            with_forces=with_forces,
            with_stress=with_stress,
            is_training=is_training,
        )
        for one, other in zip(found[name], expected, strict=True):
            if other is None:
                assert one is None
            else:
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def write_run(folder, *, is_apart=False):
    """Options of a run on a file whose frames have both levels."""
    write_levels(folder)
    blocks = {
        name: {
            "quantity": "energy",
            "key": f"e_{name[-1]}",
            "forces": {"key": f"f_{name[-1]}"},
            "stress": False,
            "virial": False,
        }
        for name in (A, B)
    }
    systems = str(folder / "both.xyz")
    sets = {"systems": systems, "targets": blocks}
    if is_apart:
        sets = [{"systems": systems, "targets": {n: blocks[n]}} for n in (A, B)]
    training = {
        "num_epochs": 4,
        "batch_size": 3,
        "learning_rate": 0.01,
        "compile": False,
        "finetune": {"method": "full", "read_from": write_base(folder)},
    }
    path = folder / "options.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "architecture": {"training": training},
                "device": "cpu",
                "base_precision": 64,
                "output": str(folder / "run"),
                "training_set": sets,
                "validation_set": 0.2,
                "test_set": 0.2,
            }
        )
    )
    return read_options(path)


def test_data_sets_of_the_same_files_are_one(tmp_path, monkeypatch):
    one, apart = (write_run(tmp_path, is_apart=is_apart) for is_apart in (False, True))
    assert len(apart.training_set) == 2
    assert join_datasets(apart.training_set) == list(one.training_set)
    opened = []
    iterate = frames_module.iterate_atoms
    monkeypatch.setattr(
        frames_module,
        "iterate_atoms",
        lambda paths, *others: opened.append(paths) or iterate(paths, *others),
    )
    found = read_run_frames(apart, show_progress=False)
    assert len(opened) == 1
    parts = [found.train, found.validation, found.test]
    assert [len(part) for part in parts] == [5, 2, 2]
    # split once: no structure is on two sides
    assert len({frame.source for part in parts for frame in part}) == 9
    report = run_training(replace(apart, output=str(tmp_path / "apart")))
    assert run_training(one).validation == report.validation
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    for name in (A, B):
        assert f"val_{name}.energy_mae" in header


def test_other_frames_or_another_key_for_a_target_are_a_set_of_their_own(tmp_path):
    write_levels(tmp_path)
    both = read_both(tmp_path)
    a, b = (replace(both, targets=(target,)) for target in both.targets)
    copy = str(tmp_path / "copy.xyz")
    ase.io.write(copy, ase.io.read(both.read_from[0], ":"))
    others = [
        replace(b, weight=2.0),
        replace(b, index="2:"),
        replace(b, indices=(1, 2)),
        replace(b, length_unit="bohr"),
        replace(b, read_from=(copy,)),
        replace(b, use_isolated_atoms=True),
        replace(a, targets=(replace(a.targets[0], key="other"),)),
    ]
    for other in others:
        assert join_datasets([a, other]) == [a, other]
    (joined,) = join_datasets([a, b])
    assert joined == both


def test_a_store_of_two_targets_is_the_set_in_memory(tmp_path):
    write_levels(tmp_path)
    both = read_both(tmp_path)
    kept, stored = (
        read_dataset(both, StoreRule(tmp_path / "stores", when))
        for when in ("never", "always")
    )
    assert len(list((tmp_path / "stores").glob("*/header.json"))) == 1
    for name in (A, B):
        for one, other in zip(
            select_target(stored, name), select_target(kept, name), strict=True
        ):
            assert list(one.labels) == [name]
            assert one.energy == other.energy
            np.testing.assert_array_equal(one.forces, other.forces)
            assert (one.origins, one.keys) == (other.origins, other.keys)
            # what the other target is read from is not left unread
            assert not any(f"_{'ba'[name == B]}'" in key for key in one.keys)


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_run_on_shared_frames_is_resumed_exactly(tmp_path, is_stored):
    options = write_run(tmp_path)
    store = str(tmp_path / "stores") if is_stored else None
    check_resume(replace(options, data_store=store), tmp_path)


def test_notes_on_labels_stay_with_their_target(tmp_path):
    write_levels(tmp_path)
    atoms = ase.io.read(tmp_path / "both.xyz", ":")
    atoms[0].info["e_b"] = np.nan
    ase.io.write(tmp_path / "both.xyz", atoms)
    frame = read_dataset(read_both(tmp_path), StoreRule(tmp_path, "never"))[0]
    assert any("energy" in note for note in frame.of_target(B).notes)
    assert not any("energy" in note for note in frame.of_target(A).notes)

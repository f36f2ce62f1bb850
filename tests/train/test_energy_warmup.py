"""The weight of energies, which rises while a base is fine-tuned."""

import pytest
import torch
from support.frames import build_frames
from support.runs import build_options, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import LossOptions, LossTerm, replace
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import Orientation
from pet_calc.train.objective import EnergyObjective, TrainedSet
from pet_calc.train.optim import compute_progress
from pet_calc.train.run import run_training
from pet_calc.train.step_runner import StepRunner
from pet_calc.train.task import Task

TEN = LossOptions(weight=10.0)


@pytest.mark.parametrize(
    ("loss", "progress", "weight"),
    [
        (TEN, 0.0, 1.0),
        (TEN, 0.5, 10**0.5),
        (TEN, 1.0, 10.0),
        # from that of the forces
        (LossOptions(weight=10.0, forces=LossTerm(weight=2.5)), 0.5, 5.0),
        # which weigh as much, or more
        (LossOptions(weight=1.0), 0.0, 1.0),
        (LossOptions(weight=0.1), 0.5, 0.1),
    ],
)
def test_the_weight_rises_from_that_of_the_forces(loss, progress, weight):
    warm = Task("energy", True, True, loss).warm_up(progress)
    assert warm.weight == pytest.approx(weight, rel=1e-12)
    assert replace(warm, weight=loss.weight) == loss


def test_energies_alone_have_their_weight_from_the_start():
    assert Task("energy", False, False, TEN).warm_up(0.0) == TEN


def test_the_rise_takes_a_part_of_the_run():
    assert [compute_progress(s, 8, 0.5) for s in (0, 1, 4, 7)] == [0.0, 0.25, 1.0, 1.0]
    assert compute_progress(0, 8, 0.0) == 1.0


def compute_gradient(model, loss, consistency, **when):
    """Loss and gradient of a step of all frames."""
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames(4)]
    for frame in frames:
        frame.labels = {"energy": frame.only_labels}
    loader = BatchLoader(
        SystemDataset(frames, model.pair_cutoff),
        len(frames),
        dtype=torch.float64,
        orientation=Orientation(seed=1),
        is_paired=True,
    )
    objective = EnergyObjective(
        Task("energy", True, True, loss), consistency=consistency
    )
    runner = StepRunner(model, TrainedSet(loader, [objective]))
    (step,) = loader.iterate_steps()
    value = runner.compute_gradient(step, 0, **when)
    gradients = [p.grad for p in runner.parameters if p.grad is not None]
    return value, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("consistency", [0.0, 2.0])
def test_a_step_follows_the_weight_of_its_time_and_reports_the_last(
    tmp_path, consistency
):
    model = load_checkpoint(write_base(tmp_path)).build_model()
    ten, one = LossOptions(weight=10.0), LossOptions(weight=1.0)
    value, gradient = compute_gradient(model, ten, consistency, progress=0.0)
    whole, last = compute_gradient(model, ten, consistency)
    _, first = compute_gradient(model, one, consistency)
    assert value == whole
    torch.testing.assert_close(gradient, first, rtol=1e-12, atol=0.0)
    assert not torch.allclose(gradient, last, rtol=0.1)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.75, [k / 6 for k in range(6)] + [1.0, 1.0]), (0.0, [1.0] * 8)],
)
def test_a_run_raises_it_step_by_step(tmp_path, monkeypatch, fraction, expected):
    taken = []
    add = StepRunner.compute_gradient

    def record(self, step, number, *, progress=None):
        if progress is not None:
            taken.append(progress)
        return add(self, step, number, progress=progress or 0.0)

    monkeypatch.setattr(StepRunner, "compute_gradient", record)
    train = {"energy_warmup": fraction}
    options = build_options(tmp_path, epochs=4, batch_size=5, train=train)
    run_training(options, show_progress=False)
    assert taken == pytest.approx(expected)

"""Training and judging in random orientations."""

import json

import pytest
import torch
from support.frames import build_frames
from support.runs import build_options, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import LossOptions, LossTerm
from pet_calc.data.dataset import GraphDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import Orientation, turn_labels
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec
from pet_calc.system.ranks import Ranks
from pet_calc.train.direct import predict_direct
from pet_calc.train.loaders import build_loaders
from pet_calc.train.loss import compute_loss
from pet_calc.train.run import run_training
from pet_calc.train.start.direct_heads import DirectHeads

FORCES, STRESS = "non_conservative_force", "non_conservative_stress"
MSE = LossOptions(LossTerm(), LossTerm(), LossTerm())


def load_steps(frames, orientation):
    dataset = GraphDataset(frames, 4.0)
    loader = BatchLoader(dataset, 4, dtype=torch.float64, orientation=orientation)
    return [part for step in loader.iterate_steps(1) for part in step.parts]


def turn_back(prediction, matrices, part):
    """Predictions of turned systems as they are for the systems as they were."""
    undone = matrices.transpose(1, 2)
    empty = part.labels._replace(forces=prediction.forces, stress=prediction.stress)
    turned = turn_labels(empty, undone, part.batch.system_of_atom)
    return prediction._replace(forces=turned.forces, stress=turned.stress)


@pytest.mark.parametrize("kind", ["O3", "rotations", "inversions"])
def test_a_turned_step_is_the_step_with_the_turn_undone(tmp_path, kind):
    """The loss of turned frames and labels, and that of predictions turned back."""
    specs = [
        TargetSpec.for_energy(),
        TargetSpec.for_forces(FORCES),
        TargetSpec.for_stress(STRESS),
    ]
    model = load_checkpoint(write_base(tmp_path, targets=specs)).build_model()
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames()]
    for frame in frames:
        frame.direct_forces, frame.direct_stress = frame.forces, frame.stress
    orientation = Orientation(kind, seed=1)
    heads = DirectHeads(FORCES, STRESS)
    pairs = zip(load_steps(frames, orientation), load_steps(frames, None), strict=True)
    for turned, plain in pairs:
        matrices = torch.from_numpy(orientation.draw(1, turned.indices))
        volumes = torch.det(plain.batch.cells).abs()
        found = predict(model, turned.batch, with_stress=True)
        direct = predict_direct(model, turned.batch, heads)
        for prediction, labels, undone_labels in (
            (found, turned.labels, plain.labels),
            (direct, turned.direct, plain.direct),
        ):
            undone = turn_back(prediction, matrices, turned)
            one = compute_loss(prediction, labels, volumes, MSE)
            other = compute_loss(undone, undone_labels, volumes, MSE)
            for a, b in zip(one, other, strict=True):
                assert float(a) == pytest.approx(float(b), rel=1e-12, abs=1e-12)


def test_frames_are_judged_in_the_same_orientations_by_every_run(tmp_path):
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames()]
    datasets = {name: GraphDataset(frames, 4.0) for name in ("train", "validation")}
    positions = {}
    for seed in (0, 1):
        for augmentation in ("O3", "none"):
            options = build_options(tmp_path, seed=seed, augmentation=augmentation)
            loaders = build_loaders(datasets, options, torch.device("cpu"), Ranks())
            for epoch in (0, 5):
                (first, *_) = loaders["validation"].iterate_steps(epoch)
                key = (seed, augmentation, epoch)
                positions[key] = first.parts[0].batch.positions
    one, *others = positions.values()
    assert all(torch.equal(one, other) for other in others)
    assert not torch.allclose(
        one[: frames[0].n_atoms], torch.tensor(frames[0].positions)
    )


def test_training_as_in_the_file_is_kept_for_files_that_ask_for_it(tmp_path):
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames()]
    datasets = {"train": GraphDataset(frames, 4.0)}
    options = build_options(tmp_path, augmentation="none")
    loader = build_loaders(datasets, options, torch.device("cpu"), Ranks())["train"]
    for step in loader.iterate_steps(2):
        for part in step.parts:
            kept = [frames[i].positions for i in part.indices]
            torch.testing.assert_close(
                part.batch.positions, torch.cat([torch.from_numpy(p) for p in kept])
            )


@pytest.mark.slow
def test_augmented_training_makes_the_model_care_less_about_orientation(tmp_path):
    """The same steps with and without, judged alike: the spread is smaller with."""
    spreads = []
    for augmentation in ("none", "O3"):
        options = build_options(
            tmp_path,
            output=augmentation,
            method="full",
            augmentation=augmentation,
            epochs=60,
        )
        run_training(options, show_progress=False)
        report = json.loads((tmp_path / augmentation / "report.json").read_text())
        spreads.append(report["rotation"]["result"]["spread"]["forces"])
    assert spreads[1] < spreads[0]

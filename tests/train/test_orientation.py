"""Training and judging in random orientations."""

import json

import pytest
import torch
from support.frames import build_frames
from support.runs import build_options, check_resume, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import LossOptions, replace
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.systems import build_system, collate
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import Orientation, turn_frame, turn_labels
from pet_calc.data.split import split_in_two
from pet_calc.errors import ConfigError
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec
from pet_calc.system.ranks import Ranks
from pet_calc.train.direct import predict_direct
from pet_calc.train.loaders import build_loaders
from pet_calc.train.loss import compute_consistency, compute_loss
from pet_calc.train.rotation import Sample, measure_turned
from pet_calc.train.run import run_training
from pet_calc.train.start.direct_heads import DirectHeads

FORCES, STRESS = "non_conservative_force", "non_conservative_stress"
MSE = LossOptions()


def load_steps(frames, orientation):
    dataset = SystemDataset(frames, 4.0)
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
    datasets = {name: SystemDataset(frames, 4.0) for name in ("train", "validation")}
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
    datasets = {"train": SystemDataset(frames, 4.0)}
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
        spreads.append(report["rotation"]["spread"]["forces"])
    assert spreads[1] < spreads[0]


def test_a_paired_step_has_each_frame_in_two_orientations():
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames()]
    orientation = Orientation(seed=1)
    dataset = SystemDataset(frames, 4.0)
    settings = {"dtype": torch.float64, "orientation": orientation, "is_paired": True}
    (step, *_) = BatchLoader(dataset, 4, **settings).iterate_steps(3)
    (part,) = step.parts
    assert part.indices == (0, 0, 1, 1, 2, 2, 3, 3)
    for first, draws in enumerate((orientation, orientation.find_second())):
        expected = torch.from_numpy(draws.draw(3, range(4)))
        assert torch.equal(part.turns[first::2], expected)
    assert not torch.allclose(part.turns[::2], part.turns[1::2])
    plain = dataset.measure(range(4))
    assert step.totals == plain.double()
    # a step cut for memory has the same frames, turned the same
    cut = BatchLoader(dataset, 4, most_tokens=1, **settings).iterate_steps(3)
    turns = torch.cat([part.turns for part in next(cut).parts])
    assert torch.equal(turns, part.turns)
    # and so has one that turned out too large
    halves = split_in_two(part)
    assert [half.n_frames for half in halves] == [2, 2]
    assert torch.equal(torch.cat([half.turns for half in halves]), part.turns)


def compute_step(model, step, with_stress=True):
    """The consistency of a step, from its parts."""
    total = 0.0
    for part in step.parts:
        prediction = predict(
            model, part.batch, with_stress=with_stress, is_training=True
        )
        volumes = torch.det(part.batch.cells).abs()
        total = total + compute_consistency(prediction, part, volumes, step.totals, MSE)
    return total


def test_consistency_is_the_squared_difference_of_what_is_turned_back(tmp_path):
    model = load_checkpoint(write_base(tmp_path)).build_model()
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames(5)]
    frames[1].weight = 0.5
    frames[2].energy = frames[2].forces = None  # it needs no labels
    dataset = SystemDataset(frames, 4.0)
    settings = {
        "dtype": torch.float64,
        "orientation": Orientation(seed=1),
        "is_paired": True,
    }
    (step,) = BatchLoader(dataset, 5, **settings).iterate_steps(0)
    found = compute_step(model, step)
    energy = forces = stress = 0.0
    n_atoms = sum(f.weight * f.n_atoms for f in frames)
    for i, frame in enumerate(frames):
        results = []
        for turn in step.parts[0].turns[2 * i : 2 * i + 2]:
            turned = turn_frame(frame, turn.numpy())
            batch = collate([build_system(turned, 4.0)], dtype=torch.float64)
            prediction = predict(model, batch, with_stress=True)
            results.append(
                (
                    prediction.energy / frame.n_atoms,
                    prediction.forces @ turn,
                    turn.T @ prediction.stress[0] @ turn * torch.det(batch.cells).abs(),
                )
            )
        one, other = results
        energy += frame.weight * float((one[0] - other[0]) ** 2) / 4.5
        squares = (one[1] - other[1]).pow(2).mean(dim=1)
        forces += frame.weight * float(squares.sum()) / n_atoms
        virials = (one[2] - other[2]) / frame.n_atoms
        stress += frame.weight * float(virials.pow(2).mean()) / 4.5
    expected = pytest.approx(energy + forces + stress, rel=1e-9)
    assert float(found.detach()) == expected
    cut = BatchLoader(dataset, 5, most_tokens=1, **settings).iterate_steps(0)
    assert float(compute_step(model, next(cut)).detach()) == expected
    halves = step._replace(parts=list(split_in_two(step.parts[0])))
    assert float(compute_step(model, halves).detach()) == expected
    gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


def test_training_with_consistency_resumes_exactly_and_agrees_more(tmp_path):
    options = build_options(
        tmp_path, method="full", consistency=20.0, epochs=4, batch_size=4
    )
    check_resume(options, tmp_path)
    spreads = []
    for weight in (1e-6, 1000.0):
        folder = tmp_path / f"weight {weight}"
        train = replace(options.train, consistency=weight)
        run_training(
            replace(options, train=train, output=str(folder)), show_progress=False
        )
        model = load_checkpoint(folder / "last_model.ckpt").build_model()
        frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames()]
        errors = measure_turned(model, "energy", Sample("", frames))
        spreads.append(errors.spread.to_dict()["forces"])
    assert spreads[1] < 0.5 * spreads[0]


def test_consistency_without_turns_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="consistency: compares two orientations"):
        build_options(tmp_path, consistency=1.0, augmentation="none")

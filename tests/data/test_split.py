"""Batches cut in two are batches of their frames."""

import pytest
import torch

from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader
from pet_calc.data.split import split_in_two


def make_part(frames, indices):
    dataset = SystemDataset([frames[i] for i in indices], 4.5)
    (step,) = BatchLoader(dataset, len(frames), dtype=torch.float64).iterate_steps()
    return step.parts[0]


@pytest.fixture
def frames(structures):
    return [LabeledFrame.from_atoms(atoms) for atoms in structures.values()]


def test_the_halves_are_what_collating_their_frames_gives(frames):
    whole = make_part(frames, range(len(frames)))
    for part in split_in_two(whole):
        expected = make_part(frames, part.indices)
        for found, wanted in zip(part.batch, expected.batch, strict=True):
            assert torch.equal(found, wanted)
        for found, wanted in zip(part.labels, expected.labels, strict=True):
            assert torch.equal(found, wanted)


def test_repeated_cutting_ends_with_single_frames(frames):
    parts = [make_part(frames, range(len(frames)))]
    while any(len(part.indices) > 1 for part in parts):
        large = next(i for i, part in enumerate(parts) if len(part.indices) > 1)
        parts.extend(split_in_two(parts.pop(large)))
    found = sorted(part.indices[0] for part in parts)
    assert found == list(range(len(frames)))


def test_one_frame_cannot_be_cut(frames):
    with pytest.raises(ValueError, match="one frame"):
        split_in_two(make_part(frames, [0]))

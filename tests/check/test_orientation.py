"""Sets that show one orientation of each structure only."""

from dataclasses import replace

import ase.build
import numpy as np
from support.frames import build_labelled, find, read_shared

from pet_calc.check.orientation import check_orientation
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.orientation import Orientation, turn_frame


def turn_all(frames):
    matrices = Orientation("rotations").draw(0, range(len(frames)))
    return [turn_frame(*pair) for pair in zip(frames, matrices, strict=True)]


def build_molecules(n_frames=12):
    rng = np.random.default_rng(0)
    frame = LabeledFrame.from_atoms(ase.build.molecule("CH3CH2OH"))
    noise = 0.1 * rng.standard_normal((n_frames, *frame.positions.shape))
    return [replace(frame, positions=frame.positions + own) for own in noise]


def test_strained_crystals_on_one_set_of_axes_are_reported():
    frames = build_labelled(12, strain=0.05)
    finding = find(check_orientation(frames), "one-orientation")
    assert finding.severity == "note"
    assert "--augmentation O3" in finding.advice
    assert check_orientation(turn_all(frames)) == []


def test_molecules_in_one_frame_are_reported():
    frames = build_molecules()
    assert "12 of 12" in find(check_orientation(frames), "one-orientation").what
    assert check_orientation(turn_all(frames)) == []


def test_structures_that_are_there_once_say_nothing():
    frames = build_molecules(4)
    others = [replace(f, numbers=f.numbers + i) for i, f in enumerate(frames)]
    assert check_orientation(others) == []
    assert check_orientation([]) == []


def test_a_public_set_of_one_crystal_is_reported():
    frames = read_shared("mlearn_Si_train.xyz", "::4")
    assert check_orientation(frames) != []

"""Structures made for the base to label."""

import logging

import ase.build
import numpy as np
import pytest
from ase.data import covalent_radii
from support.frames import build_frames

from pet_calc.data.frames import LabeledFrame
from pet_calc.errors import DataError
from pet_calc.train.domain.generate import (
    CLOSEST,
    LARGEST_FORCE,
    STRAIN,
    generate_frames,
    vary_frame,
)

KNOWN = [1, 6, 8, 13, 14]


def read_frames():
    return [LabeledFrame.from_atoms(atoms) for atoms in build_frames(6)]


def label(frames):
    """Stands in for the base."""
    for frame in frames:
        frame.energy, frame.forces = 1.0, np.zeros((frame.n_atoms, 3))
    return list(frames)


def make(n_frames=40, frames=None, known=KNOWN, labeller=label, seed=0):
    frames = read_frames() if frames is None else frames
    return generate_frames(frames, n_frames, known, labeller, seed=seed)


def test_frames_are_displaced_strained_and_exchanged_without_clashes():
    made = make()
    assert len(made) == 40
    kinds = [frame.config_type for frame in made]
    assert 10 < kinds.count("exchanged") < 25
    for frame in made:
        assert set(frame.numbers.tolist()) <= set(KNOWN)
        # distances by ASE
        distances = frame.to_atoms().get_all_distances(mic=True)
        sums = covalent_radii[frame.numbers][:, None] + covalent_radii[frame.numbers]
        close = distances + 10.0 * np.eye(frame.n_atoms)
        assert (close > CLOSEST * sums).all()
        assert frame.source.startswith("made of ")
    cells = [frame.cell for frame in made if frame.pbc.all()]
    lengths = np.array([np.linalg.norm(cell, axis=1) for cell in cells])
    assert lengths.std() > 0.01
    # the cells of the training set are within 3 % of 4.05 Å
    assert (abs(lengths / 4.05 - 1) < 0.03 + 2 * STRAIN).all()


def test_the_same_seed_makes_the_same_frames_and_the_training_set_stays():
    frames = read_frames()
    before = [frame.positions.copy() for frame in frames]
    one, two, other = (make(10, frames, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.numbers, b.numbers)
    assert not np.array_equal(one[0].positions, other[0].positions)
    for frame, positions in zip(frames, before, strict=True):
        assert np.array_equal(frame.positions, positions)


def test_a_slab_keeps_its_vacuum():
    slab = ase.build.fcc111("Al", (2, 2, 2), a=4.05, vacuum=6.0)
    frame = LabeledFrame.from_atoms(slab)
    varied = vary_frame(frame, KNOWN, np.random.default_rng(0), exchange=False)
    assert np.array_equal(varied.cell[2], frame.cell[2])
    assert not np.allclose(varied.cell[:2], frame.cell[:2], atol=1e-3)


def test_elements_that_the_base_does_not_know_are_exchanged():
    germanium = LabeledFrame.from_atoms(ase.build.bulk("Ge", "diamond", 5.66))
    made = make(5, [germanium])
    assert {z for frame in made for z in frame.numbers.tolist()} <= {13, 14}
    with pytest.raises(DataError, match=r"only 0 of 5 frames .* a replay_set instead"):
        make(5, [germanium], known=[1])


def test_frames_with_large_forces_are_drawn_anew_and_counted(caplog):
    calls = []

    def label_wildly(frames):
        label(frames)
        for frame in frames:
            calls.append(frame)
            if len(calls) % 2:
                frame.forces[0] = 2 * LARGEST_FORCE
        return list(frames)

    with caplog.at_level(logging.INFO, "pet_calc"):
        made = make(10, labeller=label_wildly)
    assert len(made) == 10
    assert max(abs(frame.forces).max() for frame in made) == 0.0
    assert f"{len(calls) - 10} with forces above 25 eV/A" in caplog.text

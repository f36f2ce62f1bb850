"""Copies, leakage and lost atoms."""

from dataclasses import replace

import numpy as np
from ase import Atoms
from support.frames import build_labelled, find, read_shared

from pet_calc.check.structures import (
    check_alone,
    check_close,
    check_duplicates,
    check_leakage,
    group_same,
)
from pet_calc.data.frames import LabeledFrame


def move(frame, size, seed=0):
    noise = np.random.default_rng(seed).choice([-1.0, 1.0], frame.positions.shape)
    return replace(frame, positions=frame.positions + size * noise)


def test_different_frames_are_no_copies():
    assert check_duplicates(build_labelled(12)) == []


def test_copies_are_found_up_to_the_digits_of_a_file():
    frames = build_labelled(5)
    copies = [move(frames[1], 4e-7, seed) for seed in range(20)]
    groups = group_same([*frames, *copies])
    assert max(map(len, groups)) == 21
    assert len(groups) == 5
    finding = find(check_duplicates([*frames, *copies]), "duplicates")
    assert finding.what.startswith("20 of 25 frames")
    assert check_duplicates([*frames, move(frames[1], 1e-5)]) == []


def test_copies_with_two_energies_are_reported():
    frames = build_labelled(3)
    other = frames[0].relabel(energy=frames[0].energy + 1.0)
    finding = find(check_duplicates([*frames, other]), "contradicting-duplicates")
    assert "250 meV/atom" in finding.what


def test_the_cell_and_the_elements_tell_frames_apart():
    frame = build_labelled(1)[0]
    stretched = replace(frame, cell=1.01 * frame.cell)
    other = replace(frame, numbers=frame.numbers[::-1].copy())
    free = replace(frame, pbc=np.zeros(3, bool))
    assert check_duplicates([frame, stretched, other, free]) == []
    # a cell that is not periodic means nothing
    assert check_duplicates([free, replace(free, cell=0 * free.cell)]) != []


def test_copies_of_a_public_set_are_found():
    finding = find(
        check_duplicates(read_shared("Li3PS4-sample_train.xyz")), "duplicates"
    )
    assert finding.what.startswith("24 of 80 frames")


def test_leakage_names_the_frames_of_the_held_out_set():
    train, held_out = build_labelled(6), build_labelled(4, seed=9, name="val.xyz")
    assert check_leakage(train, held_out, "validation") == []
    held_out[2] = replace(train[3], source="val.xyz, frame 2")
    finding = find(check_leakage(train, held_out, "validation"), "leakage")
    assert "1 of 4 validation frames" in finding.what
    assert "val.xyz, frame 2" in finding.what


def test_a_lost_atom_is_reported():
    pair = LabeledFrame(
        np.array([1, 1, 8]),
        np.array([[0.0, 0, 0], [0.7, 0, 0], [0, 0, 9.0]]),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        source="a.xyz, frame 0",
    )
    assert "a.xyz, frame 0" in find(check_alone([pair]), "lone-atoms").what
    atom = replace(pair, numbers=pair.numbers[:1], positions=pair.positions[:1])
    assert check_alone([atom, *build_labelled(2)]) == []


def test_atoms_that_are_too_close_are_named_by_frame():
    frames = [
        LabeledFrame.from_atoms(
            Atoms("H2", [[0, 0, 0], [0, 0, d]]), source=f"scan.xyz, frame {i}"
        )
        for i, d in enumerate((0.25, 0.35, 0.74, 1.5))
    ]
    finding = find(check_close(frames), "close-atoms")
    assert finding.severity == "note"
    assert "1 of 4 frames" in finding.what
    assert "scan.xyz, frame 0; the closest are H and H, 0.25 A apart" in finding.what
    copper = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.9]], cell=[9, 9, 9], pbc=True)
    (frame,) = [LabeledFrame.from_atoms(copper, source="x, frame 0")]
    assert "Cu and Cu" in find(check_close([frame]), "close-atoms").what
    assert check_close(frames[2:]) == []

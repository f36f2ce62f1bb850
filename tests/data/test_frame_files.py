"""Which files and frames are read, and how frames are split."""

from itertools import chain

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from pet_calc.data.frames import (
    read_frames,
    split_indices,
)
from pet_calc.errors import ConfigError, DataError


def test_globs_indices_and_several_files(write_file, tmp_path):
    for name, n in (("a1.xyz", 4), ("a2.xyz", 3), ("b.xyz", 2)):
        write_file(*[Atoms("H", [[i, 0, 0]]) for i in range(n)], name=name)
    pattern, other = str(tmp_path / "a*.xyz"), str(tmp_path / "b.xyz")
    assert len(read_frames([pattern, other])) == 9
    chosen = read_frames([pattern, f"{other}@1"], index="-2:")
    assert [frame.source.rsplit("/", 1)[1] for frame in chosen] == [
        "a1.xyz, frame 2",
        "a1.xyz, frame 3",
        "a2.xyz, frame 1",
        "a2.xyz, frame 2",
        "b.xyz, frame 1",
    ]
    assert [f.positions[0, 0] for f in read_frames(pattern, index="::2")] == [
        *(0, 2),
        *(0, 2),
    ]
    assert len(read_frames(other, index="-1")) == 1


def test_files_of_another_format_work(tmp_path):
    path = tmp_path / "POSCAR"
    write(path, bulk("Si"), format="vasp")
    (frame,) = read_frames(path)
    assert frame.energy is None
    assert frame.pbc.all()


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.xyz", "does not exist"), ("no*.xyz", "matches no file"), ("", "folder")],
)
def test_files_that_are_not_there_are_named(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        read_frames(str(tmp_path / name))


def test_a_file_that_ase_cannot_read_is_named(tmp_path):
    path = tmp_path / "broken.xyz"
    path.write_text("2\nProperties=species:S:1:pos:R:3\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"broken\.xyz, frame 0, line 1: .*after 1 of"):
        read_frames(path)


def test_no_frame_left_is_an_error(write_file):
    path = write_file(Atoms("H"))
    with pytest.raises(DataError, match="no frames"):
        read_frames(path, index="5:")
    with pytest.raises(ConfigError, match="index"):
        read_frames(path, index="first")


def test_progress_sees_every_frame(write_file):
    seen = []

    def progress(stream):
        for entry in stream:
            seen.append(entry)
            yield entry

    read_frames(write_file(Atoms("H"), Atoms("He")), progress=progress)
    assert len(seen) == 2


def test_a_split_is_deterministic_and_complete():
    parts = split_indices(20, (0.8, 0.15, 0.05), seed=1)
    assert [len(part) for part in parts] == [16, 3, 1]
    again = split_indices(20, (0.8, 0.15, 0.05), seed=1)
    drawn = [part.tolist() for part in parts]
    assert drawn == [part.tolist() for part in again]
    assert sorted(chain.from_iterable(drawn)) == list(range(20))
    assert drawn[1] != split_indices(20, (0.8, 0.15, 0.05), seed=2)[1].tolist()
    assert len(split_indices(20, (1, 0, 0), seed=0)[0]) == 20
    assert len(split_indices(20, (0.98, 0.01, 0.01), seed=0)[1]) == 1


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="add up to 1"):
        split_indices(2, (0.5, 0.1, 0.1), seed=0)
    with pytest.raises(DataError, match="too few"):
        split_indices(2, (0.8, 0.1, 0.1), seed=0)

"""No frame, column or label of a file is lost without a word."""

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from support.frames import build_frames, write_frames

from pet_calc.data.census import LabelCensus
from pet_calc.data.files import read_last
from pet_calc.data.frames import read_frames
from pet_calc.data.labels import LabelKeys
from pet_calc.errors import DataError

HEADER = "Properties=species:S:1:pos:R:3"


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="data.xyz"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write_text


def test_files_joined_with_an_empty_line_are_read_whole(tmp_path, write):
    text = (tmp_path / write_frames(tmp_path, 20)).read_text()
    frames = read_frames(write(f"{text}\n{text}"))
    assert len(frames) == 40
    assert frames[39].source.endswith("frame 39")


@pytest.mark.parametrize("blank", ["\n", "  \n\t\n", "\r\n"])
def test_blank_lines_around_frames_are_skipped(write, blank):
    frame = f"1\n{HEADER}\nH 0 0 0\n"
    assert len(read_frames(write(blank + (frame + blank) * 3))) == 3


@pytest.mark.parametrize("junk", ["end of file", "# 3", "H 0 0 0", "-1", "2.5"])
def test_what_is_left_and_not_blank_is_an_error_with_its_line(write, junk):
    path = write(f"1\n{HEADER}\nH 0 0 0\n\n{junk}\n")
    with pytest.raises(DataError, match=r"data\.xyz, frame 1, line 5: .*number of"):
        read_frames(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("H 0 0", "expected 4 columns, got 3"),
        ("", "expected 4 columns, got 0"),
        ("Hx 0 0 0", "expected a chemical element, got 'Hx'"),
        ("D 0 0 0", "the isotope D is no element .*write H"),
        ("t 0 0 0", "the isotope T"),
        ("H 0 0 1.0D-3", "expected a number, got '1.0D-3'"),
        ("H 0 0 ***", "expected a number"),
    ],
)
def test_the_broken_frame_is_named_not_the_first_of_its_block(write, row, message):
    good = f"1\n{HEADER}\nH 0 0 0\n"
    path = write(good * 250 + f"1\n{HEADER}\n{row}\n" + good)
    with pytest.raises(DataError, match=rf"frame 250, line 753, atom 0: {message}"):
        read_frames(path)


def test_the_broken_frame_of_another_format_is_named(tmp_path):
    path = tmp_path / "a.pdb"
    ase.io.write(path, [molecule("H2O")] * 4)
    lines = path.read_text().splitlines(keepends=True)
    broken = [i for i, line in enumerate(lines) if line.startswith("ATOM")][7]
    lines[broken] = lines[broken][:30] + "   x.xxx" + lines[broken][38:]
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=r"a\.pdb, frame (2|0 or a later one): ASE"):
        read_frames(path)


def test_a_byte_order_mark_is_skipped(write):
    text = f"1\n{HEADER} energy=1.0\nH 0 0 0\n"
    assert read_frames(write(b"\xef\xbb\xbf" + text.encode()))[0].energy == 1.0
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_frames(write(text.encode("utf-16")))


def test_a_column_name_with_colons_is_a_clear_line(write):
    header = f"{HEADER}:mtt::forces:R:3"
    with pytest.raises(DataError, match=r"line 2: Properties=.*'::'.*rename"):
        read_frames(write(f"1\n{header}\nH 0 0 0 0 0 0\n"))
    with pytest.raises(DataError, match="is not a list of NAME:KIND:NUMBER"):
        read_frames(write("1\nProperties=species:S\nH 0 0 0\n"))


@pytest.mark.parametrize("header", [HEADER, "", "energy=-1.0", "a comment"])
def test_columns_that_are_not_declared_are_in_the_census(write, header):
    rows = "H 0 0 0 0.1 0.2 0.3\nH 0 0 1 -0.1 -0.2 -0.3\n"
    frames = read_frames(write(f"2\n{header}\n{rows}"))
    text = LabelCensus.from_frames(frames).to_text()
    assert "3 columns that the header does not declare (Properties), not read" in text
    assert "as forces do" in text


def test_other_columns_do_not_look_like_forces(write):
    rows = "H 0 0 0 0.1 0.2 0.3\nH 0 0 1 0.1 0.2 0.3\n"
    (frame,) = read_frames(write(f"2\n{HEADER}\n{rows}"))
    assert frame.notes == (
        "3 columns that the header does not declare (Properties), not read",
    )


def test_labels_of_a_database_outside_its_calculator_are_found(tmp_path):
    path = str(tmp_path / "a.db")
    with ase.db.connect(path) as database:
        for atoms in build_frames(3):
            forces = atoms.get_forces()
            energy = atoms.get_potential_energy()
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
            database.write(
                atoms,
                key_value_pairs={"dft_e": energy},
                data={"dft_forces": forces, "who": "me"},
            )
    frames = read_frames(path)
    assert [frame.forces for frame in frames] == [None] * 3
    unused = LabelCensus.from_frames(frames).unused_keys
    assert unused == ("arrays['dft_forces']", "info['dft_e']", "info['who']")
    keys = LabelKeys(energy="dft_e", forces="dft_forces")
    (frame, *_) = read_frames(path, keys=keys)
    np.testing.assert_allclose(frame.forces, build_frames(1)[0].get_forces())


def test_the_last_structure_is_that_of_the_file_not_of_its_first_part(tmp_path, write):
    text = Path(write_frames(tmp_path, 4)).read_text()
    path = write(f"{text}\n1\n{HEADER}\nHe 0 0 0\n")
    assert read_last(path).get_chemical_formula() == "He"
    with pytest.raises(DataError, match="no frame in"):
        read_last(write("\n\n"))
    with pytest.raises(DataError, match="is of no format that ASE knows"):
        read_last(write("x", name="a.ckpt"))


def test_paths_have_home_and_variables(tmp_path, monkeypatch):
    write_frames(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    for path in ("~/train.xyz", "$DATA/train.xyz", "${DATA}/tr*.xyz@0:12"):
        assert len(read_frames(path)) == 12


def test_an_empty_frame_is_named(write):
    with pytest.raises(DataError, match=r"frame 1: has no atoms"):
        read_frames(write(f"1\n{HEADER}\nH 0 0 0\n0\n\n"))


def test_vectors_of_a_cell_belong_to_their_frame(tmp_path):
    path = tmp_path / "vec.xyz"
    atoms = Atoms("H", cell=[3, 4, 5], pbc=True)
    ase.io.write(path, [atoms] * 3, format="extxyz", vec_cell=True)
    frames = read_frames(path)
    assert [frame.cell[2, 2] for frame in frames] == [5.0] * 3

"""The verb ``select``."""

import json

import ase.io
import pytest
from support.command_line import Runner
from support.frames import build_frames, write_frames
from support.runs import write_base

run = Runner(None)


@pytest.fixture
def files(tmp_path):
    return {
        "base": write_base(tmp_path),
        "md": write_frames(tmp_path, n_frames=9, seed=3, name="md.xyz"),
        "next": tmp_path / "next.xyz",
    }


def select(files, *words, **expected):
    words = ["-m", files["base"], "-o", files["next"], "--device", "cpu", *words]
    return run("select", *words, "--quiet", **expected)


def test_it_prints_why_each_frame_was_taken_and_writes_them(files, tmp_path):
    pytest.importorskip("skmatter")
    path = tmp_path / "why.json"
    words = ["--by", "diversity", "-n", 3, "--near", 0, "--json", path]
    text = select(files, files["md"], *words).stdout
    assert "read      9 frames" in text
    assert "left out  6 nearer to others than those taken" in text
    assert "taken     3 frames" in text
    assert f"written   {files['next']}" in text
    values = json.loads(path.read_text())
    written = ase.io.read(files["next"], ":")
    assert len(written) == len(values["taken"]) == 3
    lines = text.splitlines()
    for number, (entry, atoms) in enumerate(
        zip(values["taken"], written, strict=True), start=1
    ):
        assert entry["file"] == files["md"]
        source = f"{files['md']}, frame {entry['frame']}"
        assert atoms.info["select_from"] == source
        (line,) = [each for each in lines if each.startswith(f"{number}  ")]
        assert line.split()[1:3] == [files["md"], str(entry["frame"])]
    assert values["taken"][0]["distance"] is None
    assert f"{values['taken'][1]['distance']:.3f}  number 1" in text
    # once more, in place of its own outputs
    select(files, files["md"], *words)


def test_frames_that_others_wrote_are_not_replaced(files):
    ase.io.write(files["next"], build_frames(1))
    result = select(files, files["md"], "--by", "diversity", status=2)
    assert "and frames chosen by pet-calc would replace it" in result.stderr


def test_a_model_without_uncertainty_is_told_what_to_do(files):
    pytest.importorskip("skmatter")
    message = select(files, files["md"], status=2).stderr
    assert "carries no uncertainty of energy" in message
    assert "--by diversity" in message


def test_types_of_a_dump_get_their_elements(files, tmp_path):
    pytest.importorskip("skmatter")
    dump = tmp_path / "md.lammpstrj"
    dump.write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n3\nITEM: BOX BOUNDS ff ff ff\n"
        "0 9\n0 9\n0 9\nITEM: ATOMS id type x y z\n"
        "1 1 0 0 0.12\n2 2 0 0.76 -0.48\n3 2 0 -0.76 -0.48\n"
    )
    words = [dump, "--by", "diversity"]
    assert "--elements" in select(files, *words, status=2).stderr
    select(files, *words, "--elements", "O,H")
    assert str(ase.io.read(files["next"]).symbols) == "OH2"

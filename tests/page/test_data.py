"""The page of a check: findings, the frames that they are about, and what is there."""

import json

import pytest
from ase.io import read, write
from support.command_line import Runner
from support.pages import EVIL, write_kinds

from pet_calc.check.run import check_set
from pet_calc.data.frames import read_frames
from pet_calc.page.data import headline, pick_concerned


def find_numbers(concerned):
    return [int(frame.source.rpartition(" ")[2]) for frame, _ in concerned]


def test_frames_that_findings_are_about_are_shown(checked):
    page = checked.read_text()
    assert "Look at this first: " in page
    assert "repeat another one" in page
    assert "Frames to look at" in page
    assert f"{checked.parent / 'kinds.xyz'}, frame 23" in page
    # what cannot be drawn small is in the table alone
    assert page.count("<figcaption>") >= 4


def test_names_from_files_are_text_only(checked):
    page = checked.read_text()
    assert EVIL not in page
    assert "<script>document.title" not in page
    assert "&lt;script&gt;document.title" in page
    assert checked.stat().st_size < 5e6


def test_findings_name_their_frames_in_json_too(tmp_path):
    data = write_kinds(tmp_path / "kinds.xyz", 24)
    frames = read(data, ":")
    write(data, [*frames, frames[2], frames[2]])
    Runner(tmp_path)("check", data, "--json", tmp_path / "found.json", "--quiet")
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    (copies,) = [f for f in findings if f["code"] == "duplicates"]
    assert copies["frames"] == [f"{data}, frame {i}" for i in (2, 24, 25)]


def test_each_frame_is_there_once_with_all_its_findings(tmp_path):
    data = write_kinds(tmp_path / "kinds.xyz", 24)
    frames = read(data, ":")
    far = frames[1].copy()
    far.calc = frames[1].calc
    far.calc.results["energy"] += 100.0
    write(data, [*frames, far, far])
    found = read_frames(data)
    report = check_set(found)
    concerned = pick_concerned(report.findings, found)
    numbers = find_numbers(concerned)
    assert len(set(numbers)) == len(numbers)
    codes = dict(zip(numbers, (codes for _, codes in concerned), strict=True))
    assert {"duplicates", "energy-outliers"} <= set(codes[24])


@pytest.mark.parametrize(
    ("severities", "words"),
    [
        ([], "Nothing odd was found"),
        (["note"], "Good to train: 1 note"),
        (["warning", "warning", "note"], "Look at this first: 2 warnings, 1 note"),
        (["error", "note"], "Do not train on this yet: 1 error, 1 note"),
    ],
)
def test_the_headline_says_what_to_do(severities, words):
    from pet_calc.check.finding import Finding
    from pet_calc.check.run import CheckReport

    findings = [Finding(severity, "code", "what", "advice") for severity in severities]
    assert headline(CheckReport(findings)) == words


def test_data_without_a_finding_have_a_page(tmp_path):
    data = write_kinds(tmp_path / "kinds.xyz", 6)
    frames = read(data, ":")
    for frame in frames:
        frame.calc.results.pop("forces")
        frame.calc.results.pop("stress", None)
    write(data, frames)
    Runner(tmp_path)("check", data, "--html", tmp_path / "data.html", "--quiet")
    assert "Energies, in the order of frames" in (tmp_path / "data.html").read_text()

"""The whole check: what is compared, file by file, and how it is reported."""

import json

import numpy as np
import pytest
from support.frames import build_labelled, find, get_codes, predict_as, scale
from support.models import build_model

from pet_calc.check import run as check
from pet_calc.check.finding import Finding, name_frames, sort_findings
from pet_calc.check.run import check_frames, check_set, sample_frames, thin_out


def predict_from(truth):
    """A predictor that knows the right labels by the frames' names."""
    known = {frame.source: frame for frame in truth}
    return lambda frames: predict_as(frames, [known[f.source] for f in frames])


def test_each_file_is_judged_by_itself():
    one, other = build_labelled(12), build_labelled(12, seed=5, name="other.xyz")
    labels = [*one, *scale(other, stress=-1.0)]
    report = check_frames(labels, predictor=predict_from([*one, *other]))
    finding = find(report.findings, "stress-sign")
    assert finding.what.startswith("other.xyz: ")
    assert list(report.comparisons) == ["al.xyz", "other.xyz"]
    assert "base      other.xyz:" in report.to_text()


def test_the_report_has_text_and_json():
    frames = build_labelled(12)
    labels = scale(frames, forces=-1.0)
    held_out = {"validation": labels[3:5]}
    report = check_frames(labels, held_out=held_out, predictor=predict_from(frames))
    text = report.to_text()
    assert "error     forces run against the base's" in text
    assert "          -> negate them in the file" in text
    assert text.splitlines()[-1] == "checked   1 errors, 1 warnings, 1 notes"
    values = json.loads(json.dumps(report.to_dict()))
    assert [f["code"] for f in values["findings"]] == [
        "forces-sign",
        "leakage",
        "one-orientation",
    ]
    assert values["base"]["al.xyz"]["forces"]["correlation"] == pytest.approx(-1.0)
    assert [f.code for f in report.errors] == ["forces-sign"]


def test_a_base_that_confirms_the_forces_settles_which_sign_is_wrong():
    frames = build_labelled(24, strain=0.0)
    labels = scale(frames, energy=-1.0)
    assert "forces-sign" in get_codes(check_frames(labels).findings, "error")
    report = check_frames(labels, predictor=predict_from(frames))
    assert {f.code for f in report.errors} == {"energy-sign"}


def test_an_error_replaces_the_warnings_of_the_same_thing():
    frames = build_labelled(12)
    labels = scale(frames, energy=23.06, forces=23.06 * 5)
    codes = get_codes(check_frames(labels, predictor=predict_from(frames)).findings)
    assert "large-forces" not in codes


def test_frames_a_base_does_not_know_are_named_and_left_out():
    frames = build_labelled(6)
    for frame in frames[::2]:
        frame.numbers = np.full(4, 13)
    model = build_model()
    report = check_set(frames, model=model)
    finding = find(report.findings, "unknown-elements")
    assert "Cu (3 frames, first al.xyz, frame 1)" in finding.what
    assert report.comparisons["al.xyz"].n_frames == 3


def test_the_sample_is_the_same_each_time_and_holds_the_stresses(monkeypatch):
    monkeypatch.setattr(check, "MOST_FRAMES", 20)
    frames = build_labelled(60)
    for frame in frames[:50]:
        frame.stress = None
    sample = sample_frames(frames)
    assert len(sample) == 20
    assert [f.source for f in sample] == [f.source for f in sample_frames(frames)]
    assert sum(frame.stress is not None for frame in sample) >= 4
    monkeypatch.setattr(check, "MOST_ATOMS", 20)
    assert sum(frame.n_atoms for frame in sample_frames(frames)) <= 20


def test_thinning_keeps_the_ends():
    frames = build_labelled(10)
    assert thin_out(frames, 2) == [frames[0], frames[-1]]
    assert thin_out(frames, 20) == frames


def test_frames_are_named_shortly():
    frames = build_labelled(6)
    assert name_frames(frames[2:3]) == "al.xyz, frame 2"
    assert name_frames(frames[:2]) == "al.xyz, frames 0, 1"
    assert name_frames(frames).endswith("frames 0, 1, 2, 3, ... (6 in all)")


def test_the_gravest_findings_come_first():
    findings = [Finding(s, s, "", "") for s in ("note", "error", "warning")]
    assert [f.code for f in sort_findings(findings)] == ["error", "warning", "note"]

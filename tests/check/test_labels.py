"""Labels by themselves: missing ones, placeholders, outliers, units that show."""

from dataclasses import replace

import numpy as np
import pytest
from support.frames import build_labelled, find, get_codes, read_shared, scale

from pet_calc.check.labels import check_labels
from pet_calc.check.magnitudes import estimate_all_electron

CLEAN = [
    "rmd17_ethanol_train.xyz",
    "rmd17_aspirin_train.xyz",
    "acac_train_300K.xyz",
    "mlearn_Si_train.xyz",
    "Li3PS4-sample_train.xyz",
    "MAD-sample_test.xyz",
    "carbon_reduced_100.xyz",
]


def change(frames, index, *, notes=(), **labels):
    frames = list(frames)
    frames[index] = replace(frames[index].relabel(**labels), notes=notes)
    return frames


def test_right_labels_raise_no_alarm():
    assert check_labels(build_labelled()) == []


@pytest.mark.parametrize("name", CLEAN)
def test_good_sets_of_the_field_raise_no_alarm(name):
    findings = check_labels(read_shared(name, ":200"))
    assert not get_codes(findings, "error") | get_codes(findings, "warning")


def test_no_energy_lists_the_keys_and_suggests_one():
    finding = find(check_labels(read_shared("qm9_reduced_100.xyz")), "no-energy")
    assert finding.severity == "error"
    assert "info['U0']" in finding.what
    assert "--energy-key U0" in finding.advice


def test_kilocalories_show_without_a_base():
    findings = check_labels(read_shared("ethanol_reduced_100.xyz"))
    assert "kcal/mol" in find(findings, "energy-unit").advice
    assert "kcal/mol" in find(findings, "large-forces").advice


def test_net_forces_are_reported_with_the_worst_frame():
    finding = find(check_labels(read_shared("water192_train.xyz")), "net-forces")
    assert finding.severity == "warning"
    assert "28 of 30 frames" in finding.what
    assert "1.28 eV/A" in finding.what


def test_a_second_level_of_theory_in_the_file_is_named():
    findings = check_labels(read_shared("Li3PS4-sample_train.xyz"))
    assert "mtt::r2scan_energy" in find(findings, "other-keys").what


def test_the_unusual_keys_of_carbon_are_found():
    frame = read_shared("carbon_reduced_100.xyz", "0")[0]
    assert frame.origins["forces"] == "arrays['force']"
    assert frame.origins["stress"] == "info['virial']"


def test_an_energy_outlier_is_named_by_frame():
    frames = build_labelled(30)
    frames = change(frames, 7, energy=frames[7].energy + 12.0)
    finding = find(check_labels(frames), "energy-outliers")
    assert finding.what.endswith("al.xyz, frame 7")
    assert "+3.02 eV/atom" in finding.what


def test_a_huge_outlier_does_not_hide_behind_the_fit():
    frames = build_labelled(30)
    frames = change(frames, 3, energy=-1e6)
    assert find(check_labels(frames), "energy-outliers").what.endswith("frame 3")


def test_a_force_outlier_is_named_by_frame():
    frames = build_labelled(20)
    frames = change(frames, 5, forces=1e4 * frames[5].forces)
    finding = find(check_labels(frames), "force-outliers")
    assert "al.xyz, frame 5" in finding.what


def test_placeholders_are_reported():
    frames = build_labelled(6)
    zero = scale(frames, energy=0.0, forces=0.0, stress=0.0)
    findings = check_labels(zero)
    assert find(findings, "zero-energy").severity == "error"
    assert find(findings, "zero-forces").severity == "warning"
    assert find(findings, "zero-stress").severity == "warning"
    # some frames without forces are crystals at rest
    findings = check_labels([*frames, zero[0]])
    assert find(findings, "zero-forces").severity == "note"
    assert find(findings, "zero-energy").severity == "warning"


def test_missing_and_not_finite_labels_are_counted():
    frames = build_labelled(6)
    note = "forces not finite (NaN or Inf), treated as missing"
    frames = change(frames, 2, energy=None, forces=None, notes=(note,))
    findings = check_labels(frames)
    assert "1 of 6 frames" in find(findings, "not-finite").what
    assert "al.xyz, frame 2" in find(findings, "missing-energy").what


def test_labels_under_several_keys_are_reported():
    frames = build_labelled(4)
    for i, frame in enumerate(frames):
        frame.origins = {"energy": f"info['{'pbe' if i else 'hf'}_energy']"}
    what = find(check_labels(frames), "mixed-keys").what
    assert "hf_energy" in what
    assert "pbe_energy" in what


@pytest.mark.parametrize(
    ("z", "hartree"), [(6, -37.85), (8, -75.07), (17, -460.1), (29, -1640.4)]
)
def test_all_electron_energies_are_good_to_two_percent(z, hartree):
    # total energies of free atoms, NIST
    expected = hartree * 27.2114
    assert estimate_all_electron(np.array([z])) == pytest.approx(expected, rel=0.02)

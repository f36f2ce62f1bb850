"""Energies against forces between near frames, without a model."""

import pytest
from support.frames import build_labelled, find, read_shared, scale

from pet_calc.check.energy_and_forces import check_work, compute_work_fit

# 192 atoms far apart, or one frame per structure: nothing to compare
TELLING = ["rmd17_ethanol_train.xyz", "mlearn_Si_train.xyz", "acac_train_300K.xyz"]


@pytest.fixture(scope="module")
def frames():
    return build_labelled(20, strain=0.0)


def check(frames):
    return check_work(compute_work_fit(frames))


def test_right_labels_have_correlation_and_slope_one(frames):
    fit = compute_work_fit(frames)
    assert fit.correlation > 0.99
    assert fit.slope == pytest.approx(1.0, abs=0.1)
    assert check_work(fit) == []


@pytest.mark.parametrize("name", TELLING)
def test_good_sets_of_the_field_agree(name):
    fit = compute_work_fit(read_shared(name, ":250"))
    assert fit.correlation > 0.9
    assert 0.8 < fit.slope < 1.2
    assert check_work(fit) == []


@pytest.mark.parametrize("name", TELLING)
def test_gradients_in_the_place_of_forces_are_an_error(name):
    finding = find(check(scale(read_shared(name, ":250"), forces=-1.0)), "forces-sign")
    assert finding.severity == "error"
    assert "negate" in finding.advice


def test_the_energies_may_be_what_has_the_wrong_sign(frames):
    finding = find(check(scale(frames, energy=-1.0)), "forces-sign")
    assert "or the energies" in finding.what
    assert "binding energies" in finding.advice


@pytest.mark.parametrize(
    ("factors", "text", "severity"),
    [
        ({"forces": 23.06}, "forces in kcal/mol/A beside energies in eV", "error"),
        ({"energy": 23.06}, "energies in kcal/mol beside forces in eV/A", "error"),
        ({"forces": 1 / 51.42}, "forces in Hartree/bohr", "error"),
        ({"forces": 0.529}, "forces per bohr", "warning"),
    ],
)
def test_a_mix_of_units_is_named(frames, factors, text, severity):
    finding = find(check(scale(frames, **factors)), "energy-force-units")
    assert text in finding.advice
    assert finding.severity == severity


def test_kilocalories_in_both_are_consistent(frames):
    assert check(scale(frames, energy=23.06, forces=23.06)) == []


def test_molecules_may_be_turned_between_frames():
    frames = read_shared("rmd17_ethanol_train.xyz", ":100")
    assert compute_work_fit(frames).correlation > 0.9


def test_copies_and_frames_without_labels_tell_nothing(frames):
    assert compute_work_fit([frames[0]] * 20) is None
    assert compute_work_fit([]) is None
    for frame in build_labelled(3):
        frame.forces = None
        assert compute_work_fit([frame] * 12) is None

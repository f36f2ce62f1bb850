"""Labels against a base: wrong signs, units and axes show, a bad base does not."""

import numpy as np
import pytest
import torch
from support.frames import (
    build_labelled,
    find,
    get_codes,
    predict_as,
    read_shared,
    scale,
)
from support.models import TINY

from pet_calc.check.against_base import compare_with_base
from pet_calc.check.energy_and_forces import compute_work_fit
from pet_calc.check.run import build_predictor
from pet_calc.check.units import (
    compute_fit,
    find_energy_units,
    find_force_units,
    find_stress_units,
)
from pet_calc.data.labels import LabelUnits
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.units import force_factor

# noise and softness of a base: perfect, fair (force correlation 0.9), soft
BASES = [(0.0, 1.0), (0.45, 1.0), (0.3, 0.7), (0.3, 1.3)]


@pytest.fixture(scope="module")
def frames():
    return build_labelled(24)


def compare(labels, truth, noise=0.2, soft=1.0, **kwargs):
    predictions = predict_as(labels, truth, noise=noise, soft=soft)
    return compare_with_base(predictions, **kwargs)[1]


@pytest.mark.parametrize(("noise", "soft"), [*BASES, (1.0, 0.5), (3.0, 0.3)])
def test_right_labels_raise_no_alarm(frames, noise, soft):
    findings = compare(frames, frames, noise, soft)
    # the labels of a base without noise are its own predictions, which is said
    expected = {"predicted-labels"} if (noise, soft) == (0.0, 1.0) else set()
    assert get_codes(findings, "error") | get_codes(findings, "warning") == expected


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", ["rattled", "strained", "ethanol", "si"])
def test_an_untrained_base_raises_no_error(seed, name):
    frames = {
        "rattled": lambda: build_labelled(12, strain=0.0),
        "strained": lambda: build_labelled(12),
        "ethanol": lambda: read_shared("rmd17_ethanol_train.xyz", ":12"),
        "si": lambda: read_shared("mlearn_Si_test.xyz", "7:9"),
    }[name]()
    types = sorted({int(z) for frame in frames for z in frame.numbers})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PET(PETHypers(**TINY), types, [TargetSpec.for_energy()]).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * (seed % 2) * torch.randn_like(parameter)
    predictions = build_predictor(model.eval(), "energy")(frames)
    assert not get_codes(compare_with_base(predictions)[1], "error")


@pytest.mark.parametrize(("noise", "soft"), BASES)
def test_gradients_in_the_place_of_forces_are_an_error(frames, noise, soft):
    finding = find(
        compare(scale(frames, forces=-1.0), frames, noise, soft), "forces-sign"
    )
    assert finding.severity == "error"
    assert "negate" in finding.advice


def test_a_base_that_runs_against_energies_too_is_not_believed(frames):
    labels = scale(frames, energy=-1.0, forces=-1.0)
    finding = find(compare(labels, frames), "forces-sign")
    assert finding.severity == "warning"
    assert "do not tell" in finding.what


def test_labels_that_agree_with_themselves_overrule_the_base():
    frames = build_labelled(20, strain=0.0)
    labels = scale(frames, energy=1.0)
    base = scale(frames, forces=-1.0)
    findings = compare(labels, base, work=compute_work_fit(labels))
    assert find(findings, "base-sign").severity == "warning"
    assert not get_codes(findings, "error")


@pytest.mark.parametrize(("noise", "soft"), BASES)
@pytest.mark.parametrize(
    ("factor", "energy", "unit", "advice"),
    [
        (23.06, 23.06, "kcal/mol/A", "--energy-unit kcal/mol"),
        (96.49, 96.49, "kJ/mol/A", "--energy-unit kJ/mol"),
        (23.06, 1.0, "kcal/mol/A", "forces: {unit: kcal/mol/A}"),
        (1 / 51.42, 1.0, "Hartree/bohr", "forces: {unit: Hartree/bohr}"),
        (1000.0, 1.0, "meV/A", ""),
    ],
)
def test_the_unit_of_forces_is_named(frames, noise, soft, factor, energy, unit, advice):
    labels = scale(frames, forces=factor, energy=energy)
    finding = find(compare(labels, frames, noise, soft), "forces-unit")
    assert unit in finding.what
    if soft == 1.0:  # else a unit nearby can be the nearest
        assert advice in finding.advice
    if factor != 96.49 or noise < 0.4:
        assert finding.severity == "error"


def test_plausible_forces_are_no_error_beside_a_flat_base(frames):
    # what an early stop leaves: the pattern of the forces, and 1/30 of their size
    findings = compare(frames, scale(frames, forces=1 / 30, energy=1 / 30))
    assert not get_codes(findings, "error")


def test_forces_per_bohr_are_a_warning(frames):
    labels = scale(frames, forces=0.529)
    finding = find(compare(labels, frames, noise=0.05), "forces-per-bohr")
    assert finding.severity == "warning"
    assert "eV/bohr" in finding.advice


def test_a_unit_that_was_declared_by_mistake_is_found(frames):
    declared = LabelUnits(energy="Hartree", forces="Hartree/bohr")
    labels = scale(frames, energy=27.211, forces=51.422)
    findings = compare(labels, frames, units=declared)
    assert "eV/A" in find(findings, "forces-unit").what


@pytest.mark.parametrize("factor", [23.06, 1 / 27.211])
def test_the_unit_of_energies_alone_is_named(frames, factor):
    finding = find(compare(scale(frames, energy=factor), frames), "energy-unit")
    assert finding.severity == "error"
    assert ("kcal/mol" if factor > 1 else "Hartree") in finding.what


def test_binding_energies_are_an_error(frames):
    finding = find(compare(scale(frames, energy=-1.0), frames), "energy-sign")
    assert finding.severity == "error"


def test_other_totals_are_a_note_with_both_numbers(frames):
    labels = [frame for frame in scale(frames)]
    for frame in labels:
        frame.energy -= 4 * 5000.0
    finding = find(compare(labels, frames), "energy-offset")
    assert finding.severity == "note"
    assert "are -4999.9 eV/atom" in finding.what
    assert "the base's 0.1" in finding.what


def test_forces_that_the_base_confirms_make_the_energies_wrong():
    # the energies alone, of which the base knows nothing, would not tell
    frames = build_labelled(20, strain=0.0)
    labels = scale(frames, energy=-1.0)
    base = scale(frames)
    for k, frame in enumerate(base):
        frame.energy = frames[-k].energy
    finding = find(compare(labels, base, work=compute_work_fit(labels)), "energy-sign")
    assert finding.severity == "error"
    assert "forces of their own file" in finding.what


@pytest.mark.parametrize("noise", [0.2, 0.6])
@pytest.mark.parametrize("unit", ["Hartree/bohr", "Ry/bohr"])
def test_forces_far_smaller_than_the_base_s_are_seen(frames, noise, unit):
    # no base has forces of another chemistry's pattern, and twenty times their size
    labels = scale(frames, forces=1 / force_factor(unit))
    finding = find(compare(labels, frames, noise), "forces-unit")
    assert unit in finding.what
    assert finding.severity == ("error" if noise < 0.4 else "warning")


@pytest.mark.parametrize("unit", ["kcal/mol/A", "Hartree/bohr"])
def test_the_unit_of_forces_shows_beside_their_sign(frames, unit):
    labels = scale(frames, forces=-1 / force_factor(unit))
    findings = compare(labels, frames)
    assert find(findings, "forces-sign").severity == "error"
    assert unit in find(findings, "forces-unit").what


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]])
def test_exchanged_axes_are_an_error(frames, order):
    labels = scale(frames)
    for frame in labels:
        frame.forces = frame.forces[:, order]
    finding = find(compare(labels, frames), "forces-axes")
    assert finding.severity == "error"


def test_too_weak_a_base_says_so(frames):
    findings = compare(frames, frames, noise=5.0)
    assert find(findings, "weak-forces").severity == "note"


def test_kilocalories_of_a_public_set_are_found():
    labels = read_shared("ethanol_reduced_100.xyz")
    truth = scale(labels, energy=1 / 23.06, forces=1 / 23.06)
    finding = find(compare(labels, truth), "forces-unit")
    assert finding.severity == "error"
    assert finding.advice.startswith("--energy-unit kcal/mol (")


def test_nothing_to_compare_is_no_error(frames):
    bare = [f for f in scale(frames[:3])]
    for frame in bare:
        frame.energy = frame.forces = frame.stress = None
    comparison, findings = compare_with_base(predict_as(bare, frames[:3]))
    assert findings == []
    assert comparison.to_text() == "base      nothing to compare"


def test_units_are_found_by_their_factor():
    assert find_energy_units(23.06, 1.0)[0] == "kcal/mol"
    assert find_energy_units(1 / 27.2, 1.0)[0] == "Hartree"
    assert find_force_units(1 / 51.4, 1.0)[0] == "Hartree/bohr"
    assert find_stress_units(160.2, 1.0) == ["GPa"]
    assert find_stress_units(1602.0, 1.0) == ["kbar"]
    assert find_energy_units(5.0, 1.0) == []
    assert find_energy_units(0.0, 1.0) == []


def test_the_slope_keeps_its_size_with_noise():
    x = np.random.default_rng(0).standard_normal(1000)
    assert compute_fit(x, -2 * x).slope == pytest.approx(-2.0)
    assert compute_fit(x, 0 * x).slope == 0.0
    noisy = 3 * x + np.random.default_rng(1).standard_normal(1000)
    assert compute_fit(x, noisy).slope == pytest.approx(3.16, abs=0.1)

"""Labels and inputs under other names are named, with what to write to read them."""

from dataclasses import replace

import numpy as np
from support.frames import build_labelled, find, get_codes, predict_as
from support.models import build_model

from pet_calc.check.against_base import compare_with_base
from pet_calc.check.labels import check_labels
from pet_calc.check.presence import check_notes, check_origins
from pet_calc.check.run import check_frames, check_set


def give_keys(frames, *keys):
    return [replace(frame, keys=keys) for frame in frames]


def test_a_virial_leads_to_the_key_of_the_virial():
    frames = [f.relabel(stress=None, origins={}) for f in build_labelled(4)]
    findings = check_origins(give_keys(frames, "info['Virial']"))
    finding = find(findings, "other-keys")
    assert finding.what == "no stress; there is also info['Virial']"
    assert "--virial-key Virial (in an options file: virial: {key: Virial})" in (
        finding.advice
    )


def test_forces_under_another_name_are_a_warning_if_there_are_none():
    frames = [f.relabel(forces=None, origins={}) for f in build_labelled(4)]
    finding = find(
        check_origins(give_keys(frames, "arrays['dft_forces']")), "other-keys"
    )
    assert finding.severity == "warning"
    assert "--forces-key dft_forces (" in finding.advice
    frames = build_labelled(4)
    for frame in frames:
        frame.origins["forces"] = "results['forces']"
    finding = find(
        check_origins(give_keys(frames, "arrays['dft_forces']")), "other-keys"
    )
    assert finding.severity == "note"


def test_predictions_are_no_energies_to_suggest():
    frames = [f.relabel(energy=None) for f in build_labelled(3)]
    findings = check_labels(give_keys(frames, "info['pet_energy']", "info['note']"))
    advice = find(findings, "no-energy").advice
    assert "pet_energy" not in advice
    assert "name it with --energy-key" in advice


def test_labels_that_are_predictions_are_a_warning():
    note = "info['pet_energy'] is a prediction of pet-calc, no label (of a.ckpt)"
    frames = [replace(frame, notes=(note,)) for frame in build_labelled(3)]
    finding = find(check_notes(frames), "predicted-labels")
    assert finding.severity == "warning"
    assert "name the calculated labels" in finding.advice


def test_labels_of_an_older_file_of_predictions_are_the_base_s_own():
    frames = build_labelled(8)
    predictions = predict_as(frames)
    rounded = [
        p._replace(frame=p.frame.relabel(forces=np.round(p.forces, 8)))
        for p in predictions
    ]
    finding = find(compare_with_base(rounded)[1], "predicted-labels")
    assert finding.severity == "warning"
    noisy = predict_as(frames, noise=1e-3)
    assert "predicted-labels" not in get_codes(compare_with_base(noisy)[1])


def test_columns_without_a_declaration_are_a_warning_where_they_are_like_forces():
    note = "3 columns that the header does not declare (Properties), not read"
    like = f"{note}; three of them sum to zero over the frame, as forces do"
    frames = [replace(frame, notes=(note,)) for frame in build_labelled(3)]
    assert find(check_notes(frames), "columns-not-read").severity == "note"
    frames = [replace(frame, notes=(like,)) for frame in build_labelled(3)]
    finding = find(check_notes(frames), "columns-not-read")
    assert finding.severity == "warning"
    assert "Properties=species:S:1:pos:R:3:forces:R:3" in finding.advice


def test_fixed_atoms_are_named_and_not_taken_for_bad_grids():
    frames = build_labelled(6)
    for frame in frames:
        frame.forces[[0, 2]] = 0.0
    findings = check_labels(frames)
    finding = find(findings, "fixed-atoms")
    assert "2 atoms have a force of exactly zero in 6 of 6 frames" in finding.what
    assert "apply_constraint=False" in finding.advice
    assert "net-forces" not in get_codes(findings)


def test_a_conditioned_model_misses_its_charge_and_says_so():
    notes = ("charge not read, but there is info['net_charge']",)
    frames = [replace(frame, notes=notes) for frame in build_labelled(3)]
    for frame in frames:
        frame.numbers[:] = 13
    findings = check_set(frames, model=build_model(system_conditioning=True)).findings
    finding = find(findings, "input-not-read")
    assert finding.severity == "warning"
    assert "3 of 3 frames are taken for neutral singlets" in finding.what
    assert "--charge-key net_charge (in an options file: charge_key" in finding.advice
    codes = get_codes(check_set(frames, model=build_model()).findings)
    assert "input-not-read" not in codes


def test_a_charge_that_is_no_number_stops_a_conditioned_model_only():
    note = "charge is no whole number: info['charge'] is 0.5; taken as 0"
    frames = [replace(frame, notes=(note,)) for frame in build_labelled(3)]
    for frame in frames:
        frame.numbers[:] = 13
    report = check_set(frames, model=build_model(system_conditioning=True))
    assert "needs it as a whole number" in find(report.findings, "charge-or-spin").what
    assert not check_set(frames, model=build_model()).errors


def test_frames_of_weight_0_are_not_checked():
    frames = build_labelled(30)
    frames[4] = replace(frames[4].relabel(energy=1e6), weight=0.0)
    frames[5] = replace(frames[5], positions=frames[6].positions, weight=0.0)
    assert (
        check_frames(frames).findings
        == check_frames([frame for frame in frames if frame.weight]).findings
    )

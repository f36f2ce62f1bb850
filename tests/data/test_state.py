"""Charge, spin and weight: read under usual names, named where they may be."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from support.frames import build_frames

from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.systems import build_system, collate_labels
from pet_calc.data.labels import LabelKeys, read_charge_and_spin
from pet_calc.data.near_names import find_near
from pet_calc.data.notes import find_state_notes, is_warning
from pet_calc.errors import DataError


def read(atoms, **keys):
    return LabeledFrame.from_atoms(atoms, keys=LabelKeys(**keys), source="x, frame 0")


def test_the_total_charge_is_read():
    frame = read(Atoms("H", info={"total_charge": -1}))
    assert frame.charge == -1
    assert frame.origins["charge"] == "info['total_charge']"
    assert not frame.notes
    assert read_charge_and_spin(Atoms("H", info={"total_charge": 2})) == (2, 1)


@pytest.mark.parametrize("name", ["net_charge", "molecular_charge", "dft_charge"])
def test_a_charge_under_another_name_is_named(name, caplog):
    atoms = Atoms("H", info={name: 1})
    frame = read(atoms)
    (note,) = find_state_notes(frame.notes)
    assert note == f"charge not read, but there is info['{name}']"
    assert note in LabelCensus.from_frames([frame]).to_text()
    assert read_charge_and_spin(atoms) == (0, 1)
    assert note in caplog.text
    assert read(atoms, charge=name).charge == 1
    assert not read(atoms, charge=name).notes


@pytest.mark.parametrize("name", ["total_spin", "spin_state", "n_unpaired", "uhf"])
def test_a_spin_under_another_name_is_named(name):
    frame = read(Atoms("H", info={name: 2}))
    assert frame.spin_multiplicity == 1
    assert frame.notes == (f"spin not read, but there is info['{name}']",)


def test_initial_charges_and_moments_are_named():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    atoms.set_initial_charges([1, 0])
    atoms.set_initial_magnetic_moments([1, 1])
    notes = " ".join(read(atoms).notes)
    assert "charge not read, but there is arrays['initial_charges']" in notes
    assert "spin not read, but there is arrays['initial_magmoms']" in notes
    atoms.set_initial_charges([0.4, -0.4])
    atoms.set_initial_magnetic_moments([1, -1])
    assert not read(atoms).notes


@pytest.mark.parametrize(
    "info",
    [
        {"net_charge": 0},
        {"spin_polarized": True},
        {"charge_model": "RESP"},
        {"mix_charge_amp": 0.8, "nspin": 2, "n_spins": 2, "ispin": 2},
        {},
    ],
)
def test_what_says_nothing_is_not_noted(info):
    assert not read(Atoms("H", info=info)).notes


def test_a_charge_that_is_nearly_whole_is_rounded():
    frame = read(Atoms("H", info={"charge": 1.2e-7}))
    assert (frame.charge, frame.notes) == (0, ())
    assert read(Atoms("H", info={"charge": -0.9999})).charge == -1


def test_the_weight_of_a_frame_is_read():
    frame = read(Atoms("H", info={"config_weight": 0.5}))
    assert frame.weight == 0.5
    assert frame.origins["weight"] == "info['config_weight']"
    with pytest.raises(DataError, match="weight of at least 0"):
        read(Atoms("H", info={"config_weight": -1.0}))


def test_a_weight_under_another_name_is_named():
    frame = read(Atoms("H", info={"weight": 0.5, "mol_weight": 1.0}))
    assert frame.weight == 1.0
    assert frame.notes == ("weight not read, but there is info['weight']",)


def test_a_frame_of_weight_0_has_no_labels_in_a_batch():
    frames = [read(atoms) for atoms in build_frames(4)]
    frames[1].weight = 0.0
    labels = collate_labels([build_system(frame, 4.0) for frame in frames])
    assert labels.has_energy.tolist() == [True, False, True, True]
    n_atoms = np.cumsum([0] + [frame.n_atoms for frame in frames])
    assert not labels.has_forces[n_atoms[1] : n_atoms[2]].any()
    assert int(labels.has_forces.sum()) == n_atoms[-1] - frames[1].n_atoms


def test_a_label_of_weight_0_is_missing():
    (atoms, *_) = build_frames(1)
    atoms.info |= {"config_forces_weight": 0, "config_energy_weight": 2.0}
    frame = read(atoms)
    assert frame.forces is None
    assert frame.energy is not None
    assert "forces" not in frame.origins
    assert any("forces has weight 0" in note for note in frame.notes)
    assert any("config_energy_weight'] not read" in note for note in frame.notes)


def test_predictions_are_no_labels():
    (atoms, *_) = build_frames(1)
    atoms.info |= {"pet_energy": 1.0, "pet_model": "a.ckpt"}
    frame = read(atoms)
    assert frame.energy != 1.0
    assert frame.notes == ("predictions of a.ckpt under pet_*, which are no labels",)
    frame = read(atoms, energy="pet_energy")
    assert frame.energy == 1.0
    (note,) = frame.notes
    assert note == (
        "info['pet_energy'] is a prediction of pet-calc, no label (of a.ckpt)"
    )
    assert is_warning(note)


def test_near_names_are_found_for_each_label():
    keys = [
        *("info['U0']", "info['dft_energy']", "arrays['dft_forces']", "info['Virial']"),
        *("info['total_spin']", "info['weight']", "info['stress_gpa']"),
        *("info['pet_energy']", "info['energy_cutoff']", "arrays['charges']"),
    ]
    found = {
        label: find_near(label, keys)
        for label in (
            "energy",
            "forces",
            "stress",
            "virial",
            "charge",
            "spin",
            "weight",
        )
    }
    assert found == {
        "energy": ["info['U0']", "info['dft_energy']"],
        "forces": ["arrays['dft_forces']"],
        "stress": ["info['stress_gpa']"],
        "virial": ["info['Virial']"],
        "charge": [],
        "spin": ["info['total_spin']"],
        "weight": ["info['weight']"],
    }


def test_a_frame_of_weight_0_is_counted_but_gives_no_range():
    frames = [read(atoms) for atoms in build_frames(4)]
    expected = LabelCensus.from_frames(frames)
    frames.append(replace(frames[0], energy=1e6, weight=0.0))
    found = LabelCensus.from_frames(frames)
    assert found.n_labeled["energy"] == 5
    assert found.energy_per_atom_range == expected.energy_per_atom_range

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import (
    LabeledFrame,
    check_elements,
    read_frames,
)
from pet_calc.data.labels import NO_LABELS, LabelKeys, LabelUnits, read_charge_and_spin
from pet_calc.errors import DataError

KCAL = 4184 / 96485.3329  # eV per kcal/mol: joule over Faraday's constant
STRESS = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]) / 100
VOIGT = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) / 100


def read_atoms(atoms, **options):
    keys = options.pop("keys", LabelKeys())
    factors = LabelUnits(**options).compute_factors()
    return LabeledFrame.from_atoms(atoms, keys=keys, factors=factors, source="x")


# ---- real files


def test_li3ps4_has_energy_and_forces_but_no_stress(shared_file):
    path = shared_file("Li3PS4-sample_train.xyz")
    frames = read_frames(path)
    census = LabelCensus.from_frames(frames)
    assert census.n_labeled == {"energy": 80, "forces": 80, "stress": 0}
    assert list(census.elements) == ["Li", "P", "S"]
    assert census.atoms_range == (16, 32)
    assert census.origins["energy"] == {"results['energy']": 80}
    assert census.unused_keys == ("info['mtt::r2scan_energy']",)
    assert frames[0].energy == pytest.approx(-71.04302788871883, abs=1e-12)
    assert frames[12].source == f"{path}, frame 12"


def test_a_second_level_of_theory_is_read_by_its_key(shared_file):
    path = shared_file("Li3PS4-sample_train.xyz")
    frames = read_frames(path, keys=LabelKeys(energy="mtt::r2scan_energy"))
    assert frames[0].energy == pytest.approx(-112.58644215)
    assert frames[0].origins["energy"] == "info['mtt::r2scan_energy']"


def test_mad_sample_has_stress_on_20_of_50(shared_file):
    frames = read_frames(shared_file("MAD-sample_test.xyz"))
    census = LabelCensus.from_frames(frames)
    assert census.n_labeled == {"energy": 50, "forces": 50, "stress": 20}
    assert len(census.elements) == 52
    text = census.to_text()
    assert "stress    20 of 50, from results['stress']" in text


def test_stress_of_silicon_is_the_one_of_the_file(shared_file):
    frames = read_frames(shared_file("mlearn_Si_test.xyz"))
    assert LabelCensus.from_frames(frames).n_labeled["stress"] == 25
    stress = frames[0].stress
    assert stress[0, 0] == pytest.approx(0.016996737941665015, rel=1e-12)
    assert stress[1, 2] == stress[2, 1] == pytest.approx(0.0010745111728945286)
    assert stress[0, 2] == pytest.approx(0.004898950077102511)


def test_carbon_has_force_and_virial(shared_file):
    frames = read_frames(shared_file("carbon_reduced_100.xyz"))
    census = LabelCensus.from_frames(frames)
    assert census.origins["forces"] == {"arrays['force']": 100}
    assert census.origins["stress"] == {"info['virial']": 100}
    assert frames[0].stress[0, 0] == pytest.approx(-17.67401361 / 29.767873430)
    assert frames[0].forces[0, 0] == pytest.approx(1.84408021)


def test_qm9_needs_its_energy_key(shared_file):
    path = shared_file("qm9_reduced_100.xyz")
    frames = read_frames(path)
    census = LabelCensus.from_frames(frames)
    assert census.n_labeled == {"energy": 0, "forces": 0, "stress": 0}
    assert "info['U0']" in census.to_text()
    keys, units = LabelKeys(energy="U0"), LabelUnits(energy="Hartree")
    frames = read_frames(path, keys=keys, units=units)
    assert frames[0].energy == pytest.approx(-40.47893 * 27.211386, rel=1e-7)
    assert frames[0].forces is None


def test_forces_win_over_force_in_water(shared_file):
    frames = read_frames(shared_file("water192_train.xyz"))
    census = LabelCensus.from_frames(frames)
    assert census.origins["forces"] == {"results['forces']": 30}
    assert "arrays['force']" in census.unused_keys
    assert 1.0 < census.largest_net_force < 1.5


def test_kcal_per_mol_is_an_option(shared_file):
    path = shared_file("ethanol_reduced_100.xyz")
    frames = read_frames(path, units=LabelUnits(energy="kcal/mol"), index="0")
    assert len(frames) == 1
    assert frames[0].energy == pytest.approx(-97079.92222178938 * KCAL, rel=1e-7)
    assert frames[0].forces[0, 0] == pytest.approx(-32.31755688687 * KCAL, rel=1e-7)


# ---- where labels are


def test_ref_names_win_over_what_a_calculator_left():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((2, 3)))
    atoms.info["REF_energy"] = 2.0
    atoms.arrays["REF_forces"] = np.full((2, 3), 3.0)
    frame = read_atoms(atoms)
    assert frame.energy == 2.0
    assert (frame.forces == 3.0).all()


def test_a_configured_key_is_not_replaced_by_another(write_file):
    first = Atoms("H", info={"energy": 1.0, "pbe0": 2.0})
    second = Atoms("H", info={"energy": 1.0})
    frames = read_frames(write_file(first, second), keys=LabelKeys(energy="pbe0"))
    assert [frame.energy for frame in frames] == [2.0, None]


def test_a_key_in_no_frame_lists_those_there(write_file):
    path = write_file(Atoms("H", info={"U0": 1.0, "mu": 2.0}))
    with pytest.raises(DataError, match=r"did you mean 'U0'.*info\['U0'\]") as caught:
        read_frames(path, keys=LabelKeys(energy="U_0"))
    assert "info['mu']" in str(caught.value)
    with pytest.raises(DataError, match="key for dipole"):
        read_frames(path, keys=LabelKeys(extras={"dipole": "d"}))


def test_a_label_switched_off_is_not_read():
    atoms = Atoms("H", info={"REF_energy": 1.0})
    assert read_atoms(atoms, keys=LabelKeys(energy=False)).energy is None


def test_mixed_origins_are_warned_of(write_file, caplog):
    frames = Atoms("H", info={"energy": 1.0}), Atoms("H", info={"REF_energy": 1.0})
    read_frames(write_file(*frames))
    assert "info['REF_energy'] and results['energy']" in caplog.text


def test_structures_only_have_no_labels_but_keep_the_charge(write_file):
    info = {"energy": 1.0, "stress": np.eye(3), "charge": -1, "spin": 2}
    (frame,) = read_frames(write_file(Atoms("H", info=info)), keys=NO_LABELS)
    assert frame.energy is None
    assert (frame.charge, frame.spin_multiplicity) == (-1, 2)


@pytest.mark.parametrize(
    ("label", "value"),
    [("energy", [1.0, 2.0]), ("energy", "low"), ("REF_forces", 1.0), ("stress", [1])],
)
def test_a_label_of_the_wrong_shape_is_an_error(label, value):
    atoms = bulk("Al")
    atoms.info[label] = value
    keys = LabelKeys(forces="REF_forces") if "forces" in label else LabelKeys()
    with pytest.raises(DataError, match=rf"x: info\['{label}'\]"):
        read_atoms(atoms, keys=keys)


def test_extra_labels_and_weights_are_kept(write_file):
    atoms = Atoms("H", info={"dipole": [1.0, 2.0, 3.0], "w": 0.5})
    keys = LabelKeys(weight="w", extras={"mu": "dipole"})
    (frame,) = read_frames(write_file(atoms), keys=keys, weight=4.0)
    np.testing.assert_array_equal(frame.extras["mu"], [1, 2, 3])
    assert frame.weight == 2.0
    assert LabelCensus.from_frames([frame]).n_labeled["mu"] == 1


# ---- stress


@pytest.mark.parametrize("value", [STRESS, STRESS.ravel(), VOIGT])
def test_stress_comes_in_three_shapes(value):
    atoms = bulk("Al", cubic=True)
    atoms.info["REF_stress"] = value
    np.testing.assert_allclose(read_atoms(atoms).stress, STRESS, atol=1e-15)


def test_stress_read_through_extxyz_is_unchanged(write_file):
    atoms = bulk("Al", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, stress=VOIGT)
    (frame,) = read_frames(write_file(atoms))
    np.testing.assert_allclose(frame.stress, STRESS, atol=1e-8)


def test_virial_is_minus_stress_times_volume():
    atoms = bulk("Al", cubic=True)
    atoms.info["REF_virials"] = -STRESS * atoms.get_volume()
    frame = read_atoms(atoms)
    np.testing.assert_allclose(frame.stress, STRESS, atol=1e-15)
    assert frame.origins["stress"] == "info['REF_virials']"


@pytest.mark.parametrize(
    ("unit", "scale"), [("GPa", 160.2176621), ("kbar", 1602.176621), ("eV/A^3", 1)]
)
def test_units_and_sign_of_the_stress_are_options(unit, scale):
    atoms = bulk("Al", cubic=True)
    atoms.info["stress"] = -STRESS * scale
    frame = read_atoms(atoms, stress=unit, stress_sign=-1)
    np.testing.assert_allclose(frame.stress, STRESS, rtol=1e-7)


def test_atomic_units_convert_everything():
    bohr, hartree = 0.529177211, 27.2113860
    atoms = bulk("Al", cubic=True)
    expected = read_atoms(atoms)
    atoms.info["REF_energy"] = 1.0
    atoms.arrays["REF_forces"] = np.ones((4, 3))
    atoms.info["REF_virial"] = np.eye(3)
    atoms.set_cell(atoms.cell / bohr, scale_atoms=True)
    frame = read_atoms(atoms, energy="Ha", length="bohr")
    np.testing.assert_allclose(frame.positions, expected.positions, rtol=1e-8)
    np.testing.assert_allclose(frame.cell, expected.cell, rtol=1e-8)
    assert frame.energy == pytest.approx(hartree, rel=1e-7)
    assert frame.forces[0, 0] == pytest.approx(hartree / bohr, rel=1e-7)
    volume = np.linalg.det(expected.cell)
    assert frame.stress[0, 0] == pytest.approx(-hartree / volume, rel=1e-7)


def test_a_stress_that_contradicts_the_virial_is_an_error():
    atoms = bulk("Al", cubic=True)
    atoms.info["REF_stress"] = STRESS
    atoms.info["REF_virial"] = -STRESS * atoms.get_volume()
    np.testing.assert_array_equal(read_atoms(atoms).stress, STRESS)
    atoms.info["REF_virial"] *= -1
    with pytest.raises(DataError, match=r"xx = 0\.01 eV.*says -0\.01"):
        read_atoms(atoms)
    frame = read_atoms(atoms, keys=LabelKeys(virial=False))
    np.testing.assert_array_equal(frame.stress, STRESS)
    frame = read_atoms(atoms, keys=LabelKeys(virial="REF_virial"))
    np.testing.assert_allclose(frame.stress, -STRESS)


def test_stress_without_a_volume_is_counted_not_used():
    atoms = molecule("H2O")
    atoms.info["REF_stress"] = np.zeros((3, 3))
    frame = read_atoms(atoms)
    assert frame.stress is None
    notes = LabelCensus.from_frames([frame, frame]).notes
    ((note, (count, first)),) = notes.items()
    assert "not periodic" in note
    assert (count, first) == (2, "x")


def test_a_skew_stress_is_symmetrised_and_counted():
    atoms = bulk("Al", cubic=True)
    atoms.info["REF_stress"] = np.array([[1.0, 2, 0], [0, 1, 0], [0, 0, 1]])
    frame = read_atoms(atoms)
    assert frame.stress[0, 1] == frame.stress[1, 0] == 1.0
    assert "symmetrised" in frame.notes[0]


# ---- labels and frames that make no sense


def test_a_label_that_is_not_finite_is_missing_and_counted(write_file):
    good = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
    good.calc = SinglePointCalculator(good, energy=1.0, forces=np.zeros((2, 3)))
    bad = good.copy()
    bad.calc = SinglePointCalculator(
        bad, energy=np.nan, forces=np.array([[0, 0, 0], [0, np.inf, 0]])
    )
    frames = read_frames(write_file(good, bad))
    census = LabelCensus.from_frames(frames)
    assert census.n_labeled == {"energy": 1, "forces": 1, "stress": 0}
    assert frames[1].energy is None
    assert [count for count, _ in census.notes.values()] == [1, 1]
    assert all("frame 1" in first for _, first in census.notes.values())
    assert "NaN" in census.to_text()


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "has no atoms"),
        (Atoms("H", [[0, np.nan, 0]]), "position of atom 0 is not finite"),
        (Atoms("OH", [[0, 0, 0], [0, 0, 0.04]]), r"0 \(O\) and 1 \(H\) are 0.04"),
        (
            Atoms("H2", [[0, 0, 0.01], [0, 0, 4.99]], cell=[5, 5, 5], pbc=True),
            "0.02 A apart",
        ),
        (Atoms("H", pbc=True), "zero or linearly dependent"),
    ],
)
def test_a_structure_without_sense_names_file_and_frame(write_file, atoms, message):
    path = write_file(Atoms("H"), atoms)
    with pytest.raises(DataError, match=message) as caught:
        read_frames(path)
    assert str(caught.value).startswith(f"{path}, frame 1: ")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"charge": 0.5}, "no whole number.*taken as 0"),
        ({"spin_multiplicity": 0, "x": 1}, "taken as 1"),
        ({"spin": 0}, "taken as 1"),
        ({"spin_multiplicity": -1}, "expected the multiplicity 2S . 1.*taken as 1"),
    ],
)
def test_charge_and_spin_are_whole_numbers_where_they_are_asked_for(info, message):
    atoms = Atoms("H", info=info)
    frame = read_atoms(atoms)
    assert (frame.charge, frame.spin_multiplicity) == (0, 1)
    assert re.search(message, frame.notes[0])
    (name, value), *_ = info.items()
    if value == 0:
        return
    label = "charge" if name == "charge" else "spin_multiplicity"
    with pytest.raises(DataError, match=r"whole number|at least 1"):
        read_atoms(atoms, keys=LabelKeys(**{label: name}))
    if name == "charge":
        with pytest.raises(DataError, match="whole number"):
            read_charge_and_spin(atoms)


def test_charge_and_spin_of_atoms_have_defaults():
    assert read_charge_and_spin(Atoms("H")) == (0, 1)
    assert read_charge_and_spin(Atoms("H", info={"charge": -1.0, "spin": 3})) == (-1, 3)


def test_unknown_elements_are_named_with_file_and_frame(write_file):
    path = write_file(molecule("H2O"), molecule("CH3SH"), molecule("SH2"))
    frames = read_frames(path)
    check_elements(frames, [1, 6, 8, 16])
    with pytest.raises(DataError, match=r"S \(2 frames, first .*frame 1\)") as caught:
        check_elements(frames, [1, 8])
    assert "C (1 frames" in str(caught.value)
    assert "it knows H, O" in str(caught.value)


def test_atoms_come_back_with_their_labels():
    atoms = bulk("Al", cubic=True)
    atoms.info["charge"] = 1
    atoms.info["config_type"] = "bulk"
    atoms.calc = SinglePointCalculator(
        atoms, energy=1.0, forces=np.ones((4, 3)), stress=VOIGT
    )
    frame = read_atoms(atoms)
    back = read_atoms(frame.to_atoms())
    assert back.energy == 1.0
    assert (back.charge, back.config_type) == (1, "bulk")
    np.testing.assert_array_equal(back.stress, frame.stress)
    np.testing.assert_array_equal(back.forces, frame.forces)
    assert read_atoms(Atoms("H")).to_atoms().calc is None

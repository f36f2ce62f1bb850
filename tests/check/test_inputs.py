"""Charge and spin, where a model reads them: what no molecule can have is named."""

from dataclasses import replace

import ase.build
import numpy as np
import pytest
from support.frames import find, get_codes
from support.models import build_model

from pet_calc.check.inputs import check_inputs
from pet_calc.data.frames import LabeledFrame


@pytest.fixture(scope="module")
def model():
    return build_model(system_conditioning=True)


def build(name="H2O", charge=0, spin=None, pbc=False):
    atoms = ase.build.molecule(name)
    atoms.set_initial_magnetic_moments(None)
    frame = LabeledFrame.from_atoms(atoms, source="a.xyz, frame 0")
    frame.charge, frame.pbc = charge, np.full(3, pbc)
    if spin is None:
        return frame
    origins = {"spin_multiplicity": "info['spin']"}
    return replace(frame, spin_multiplicity=spin).relabel(origins=origins)


def test_states_that_exist_are_fine(model):
    frames = [
        build(),
        build(spin=3),
        build("CH3", spin=2),
        build("H2O", charge=1, spin=2),
        build("H", charge=1, spin=1),
    ]
    assert check_inputs(model, frames) == []


def test_unpaired_electrons_in_the_place_of_the_multiplicity_are_named(model):
    # 2S, not 2S + 1: water 0, which reads as 1, the radical 1
    finding = find(check_inputs(model, [build(), build("CH3", spin=1)]), "spin-parity")
    assert finding.severity == "warning"
    assert "9 electrons cannot have a multiplicity of 1" in finding.what
    assert "2S + 1" in finding.advice


def test_a_radical_without_a_spin_is_named(model):
    finding = find(check_inputs(model, [build("CH3")]), "spin-parity")
    assert "1 of 1 frames" in finding.what
    assert "no spin" in finding.what


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (build("H2", charge=3, spin=2), "charge of 3"),
        (build("H2", spin=5), "multiplicity of 5"),
    ],
)
def test_more_than_all_electrons_is_an_error(model, frame, text):
    finding = find(check_inputs(model, [frame]), "impossible-state")
    assert finding.severity == "error"
    assert text in finding.what


def test_cells_and_models_that_read_neither_are_not_judged(model):
    # metals have odd numbers of electrons in a cell, and no spin
    assert check_inputs(model, [build("CH3", spin=1, pbc=True)]) == []
    assert get_codes(check_inputs(build_model(), [build("H2", charge=3)])) == set()

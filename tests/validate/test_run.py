"""Every kind of mistake is found by its row, and by no other."""

from dataclasses import replace

import ase.build
import numpy as np
import pytest
from ase import Atoms
from support.potentials import build_potential

from pet_calc.errors import DataError, ModelError
from pet_calc.validate import LEAST, SHORT, validate
from pet_calc.validate.limits import LIMITS

# all kinds of rows, and little work
QUICK = replace(SHORT, is_long=True)


def build_crystal():
    return ase.build.bulk("Al", "fcc", 3.3)


def build_water():
    return ase.build.molecule("H2O")


def judge(defect="", atoms=None, **options):
    """The verdicts by row, of all rows."""
    atoms = build_water() if atoms is None else atoms
    report = validate(build_potential(defect), atoms, picoseconds=0.05, **options)
    return {row.name: row.verdict for row in report.rows}


def test_a_sound_potential_passes_every_row_and_the_structure_stays():
    crystal = build_crystal()
    crystal.info["kept"] = True
    before = crystal.copy()
    of_molecule, of_crystal = judge(), judge(atoms=crystal)
    assert crystal == before
    assert crystal.calc is None
    assert set(of_molecule.values()) == {"ok"}
    assert set(of_crystal.values()) == {"ok"}
    assert of_molecule.keys() | of_crystal.keys() == LIMITS.keys()
    assert LIMITS.keys() - of_molecule.keys() == {"stress", "elastic"}


@pytest.mark.parametrize(
    ("defect", "rows"),
    [
        ("wrong force", {"forces", "inversion"}),
        ("shifted", {"translation", "rotation", "inversion", "extensivity"}),
        ("first", {"permutation", "extensivity"}),
        ("oriented", {"rotation", "rotation, forces"}),
        ("mirrored", {"rotation", "inversion", "rotation, forces"}),
        ("sized", {"extensivity"}),
        ("cut", {"energy jump", "force jump"}),
        ("hole", {"contacts", "dimers"}),
    ],
)
def test_a_defect_fails_its_row(defect, rows):
    verdicts = judge(defect, effort=SHORT)
    failed = {name for name, verdict in verdicts.items() if verdict == "fail"}
    assert failed
    assert failed <= rows


def test_a_wrong_stress_is_found():
    assert judge(atoms=build_crystal(), effort=SHORT)["stress"] == "ok"
    found = judge("wrong stress", build_crystal(), effort=SHORT)
    assert found["stress"] == "fail"


def test_what_a_structure_does_not_allow_is_named():
    slab = ase.build.fcc111("Al", (1, 1, 3), a=3.3, vacuum=6.0)
    report = validate(build_potential(), slab, effort=QUICK, picoseconds=0.01)
    assert report.skipped["stress"] == "only of bulk"
    assert report.skipped["modes"] == "only of molecules and bulk"
    alone = validate(build_potential(), Atoms("O"), effort=QUICK)
    assert "jumps, contacts" in alone.skipped
    assert {row.name for row in alone.rows} >= {"forces", "dimers", "extensivity"}
    large = validate(build_potential(), build_water(), effort=LEAST)
    assert large.skipped.keys() >= {"jumps, contacts", "drift, modes"}


def test_the_pairs_are_those_of_the_structure_or_as_asked():
    water = build_water()
    few = validate(build_potential(), water, effort=LEAST)
    assert sorted(curve.name for curve in few.curves) == ["H-H", "H-O", "O-O"]
    more = validate(build_potential(), water, effort=LEAST, pairs_of=[1, 8, 13])
    assert len(more.curves) == 6


def test_what_is_no_structure_is_refused():
    potential = build_potential()
    with pytest.raises(DataError, match="no atoms"):
        validate(potential, Atoms())
    with pytest.raises(DataError, match="the structure"):
        validate(potential, Atoms("O", [[np.nan, 0, 0]]))
    with pytest.raises(DataError, match="the structure"):
        validate(potential, Atoms("O2", [[0, 0, 0], [0, 0, 0.001]]))
    with pytest.raises(ModelError, match="does not know Fe"):
        validate(potential, Atoms("Fe"))

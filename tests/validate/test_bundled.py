"""What a validation says of the bundled bases, and of one that is broken on purpose."""

import ase.build
import pytest
from ase.calculators.mixing import SumCalculator
from support.potentials import PairPotential

from pet_calc.validate import SHORT, Potential, load_potential, validate


@pytest.fixture(scope="module")
def molecular():
    return load_potential("pet-gfn1-xs", compile=False)


def collect(report):
    return {row.name: row for row in report.rows}


def test_the_molecular_base_has_low_walls_and_nothing_else(molecular):
    rows = collect(validate(molecular, ase.build.molecule("H2O"), effort=SHORT))
    assert {name for name, row in rows.items() if row.verdict != "ok"} == {
        "contacts",
        "dimers",
    }
    assert rows["dimers"].verdict == "warn"
    assert rows["dimers"].value == pytest.approx(3.6, abs=0.1)


def test_a_hole_dug_into_it_is_found_with_its_pair_and_place(molecular):
    """30 eV deep and a tenth of an angstrom wide, between all pairs of atoms."""
    calculator = SumCalculator([molecular.calculator, PairPotential("hole", depth=0.0)])
    broken = Potential(
        calculator, "broken", molecular.elements, molecular.cutoff, molecular.reach
    )
    report = validate(broken, ase.build.molecule("H2O"), effort=SHORT)
    rows = collect(report)
    assert report.verdict == "fail"
    assert rows["dimers"].verdict == rows["contacts"].verdict == "fail"
    assert "H-O falls in over" in rows["dimers"].detail
    for curve in report.curves:
        assert curve.wall.is_hole
        assert 0.72 < curve.wall.place / curve.bond < 0.95


def test_the_base_for_materials_has_no_wall_between_two_atoms_of_nitrogen():
    """It has never seen a molecule; in crystals that it knows atoms are kept apart."""
    potential = load_potential("pet-sevennet-xs", compile=False)
    silicon = ase.build.bulk("Si", "diamond", 5.43)
    report = validate(potential, silicon, effort=SHORT, pairs_of=[7, 8, 14])
    rows = collect(report)
    assert {name for name, row in rows.items() if row.verdict == "fail"} == {"dimers"}
    walls = {curve.name: curve.wall for curve in report.curves}
    for name in ("N-N", "N-O", "O-O"):
        assert walls[name].is_hole, name
        assert walls[name].height == 0.0, name
    assert rows["contacts"].verdict == "ok"

import ase.units
import pytest

from pet_calc.errors import ConfigError
from pet_calc.units import (
    energy_factor,
    force_factor,
    length_factor,
    stress_factor,
)


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("eV", 1.0),
        ("meV", 1e-3),
        ("Hartree", 27.211386),
        ("ha", 27.211386),
        ("kcal/mol", 0.0433641),
        ("kJ/mol", 0.01036427),
        ("Ry", 13.605693),
        (" EV ", 1.0),
    ],
)
def test_energy_units_have_their_textbook_values(unit, value):
    assert energy_factor(unit) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "value"),
    [("A", 1), ("Å", 1), ("angstrom", 1), ("Bohr", 0.5291772), ("nm", 10)],
)
def test_length_units_have_their_textbook_values(unit, value):
    assert length_factor(unit) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("eV/A", 1.0),
        ("eV/Å", 1.0),
        ("kcal/mol/A", 0.0433641),
        ("Ha/Bohr", 51.42207),
        ("Ry/bohr", 25.71103),
        ("meV/angstrom", 1e-3),
    ],
)
def test_force_units_are_energy_over_length(unit, value):
    assert force_factor(unit) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("eV/A^3", 1.0),
        ("eV/Å³", 1.0),
        ("eV/angstrom**3", 1.0),
        ("GPa", 1 / 160.21766),
        ("kbar", 0.1 / 160.21766),
        ("bar", 1e-4 / 160.21766),
        ("Pa", 1e-9 / 160.21766),
        ("Hartree/bohr^3", 29421.0157 / 160.21766),
    ],
)
def test_stress_units_have_their_textbook_values(unit, value):
    assert stress_factor(unit) == pytest.approx(value, rel=1e-6)


def test_gpa_is_the_value_of_ase():
    assert stress_factor("GPa") == ase.units.GPa


@pytest.mark.parametrize(
    ("function", "unit", "known"),
    [
        (energy_factor, "furlong", "kcal/mol"),
        (energy_factor, "bohr", "Hartree"),
        (energy_factor, "MeV", "meV"),
        (length_factor, "eV", "bohr"),
        (force_factor, "eV", "eV/A"),
        (force_factor, "eV/s", "bohr"),
        (force_factor, "hartree/atom/A", "Hartree"),
        (stress_factor, "eV/A", "GPa"),
        (stress_factor, "eV/A^2", "kbar"),
        (stress_factor, "mPa", "MPa"),
        (stress_factor, "", "GPa"),
    ],
)
def test_an_unknown_unit_lists_the_known_ones(function, unit, known):
    with pytest.raises(ConfigError, match="unknown") as caught:
        function(unit)
    assert known in str(caught.value)
    assert repr(unit)[1:-1] in str(caught.value) or "eV/s" in unit

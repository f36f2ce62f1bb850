"""Factors from the units that data files use to eV, Å, eV/Å and eV/Å^3.

Inside pet-calc everything is in these four; this module is the only place that
converts. The values are ASE's (CODATA 2014).
"""

import difflib

from ase.units import Bohr as BOHR
from ase.units import GPa, Hartree, Pascal, Ry, bar, kcal, kJ, mol, nm

from pet_calc.errors import ConfigError

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": Hartree,
    "Ha": Hartree,
    "mHa": 1e-3 * Hartree,
    "Ry": Ry,
    "kcal/mol": kcal / mol,
    "kJ/mol": kJ / mol,
}
LENGTH_UNITS: dict[str, float] = {
    "A": 1.0,
    "angstrom": 1.0,
    "bohr": BOHR,
    "nm": nm,
    "pm": 1e-3 * nm,
}
PRESSURE_UNITS: dict[str, float] = {
    "GPa": GPa,
    "MPa": 1e-3 * GPa,
    "kPa": 1e3 * Pascal,
    "Pa": Pascal,
    "kbar": 1e3 * bar,
    "bar": bar,
    "atm": 101325 * Pascal,
}

_ALIASES = {
    "electronvolt": "eV",
    "hartrees": "Hartree",
    "eh": "Hartree",
    "au": "Hartree",
    "millihartree": "mHa",
    "rydberg": "Ry",
    "kcalmol": "kcal/mol",
    "kjmol": "kJ/mol",
    "å": "A",
    "ang": "A",
    "angstroms": "A",
    "angström": "A",
    "ångström": "A",
    "a0": "bohr",
    "bohrs": "bohr",
    "nanometer": "nm",
    "nanometre": "nm",
    "picometer": "pm",
    "gigapascal": "GPa",
    "pascal": "Pa",
    "kilobar": "kbar",
}


def energy_factor(unit: str) -> float:
    """Return the value of one ``unit`` of energy in eV."""
    return _look_up(unit, ENERGY_UNITS, "energy")


def length_factor(unit: str) -> float:
    """Return the value of one ``unit`` of length in Å."""
    return _look_up(unit, LENGTH_UNITS, "length")


def force_factor(unit: str) -> float:
    """Return the value of one ``unit`` of force, written energy/length, in eV/Å."""
    energy, slash, length = unit.rpartition("/")
    if not slash or _find(energy, ENERGY_UNITS) is None:
        raise ConfigError(
            f"unknown force unit {unit!r}; write it as energy/length, such as eV/A, "
            f"kcal/mol/A or Hartree/bohr, with {_list_known(ENERGY_UNITS)} over "
            f"{_list_known(LENGTH_UNITS)}"
        )
    return energy_factor(energy) / length_factor(length)


def stress_factor(unit: str) -> float:
    """Return the value of one ``unit`` of stress in eV/Å^3.

    ``unit`` is a pressure (GPa, kbar, ...) or energy/length^3 (eV/A^3, Ha/bohr^3, ...).
    """
    name = _find(unit, PRESSURE_UNITS)
    if name is not None:
        return PRESSURE_UNITS[name]
    energy, _, volume = unit.replace("**", "^").replace("³", "^3").rpartition("/")
    length, caret, power = volume.strip().rpartition("^")
    is_per_volume = caret == "^" and power.strip() == "3"
    if not is_per_volume or _find(energy, ENERGY_UNITS) is None:
        raise ConfigError(
            f"unknown stress unit {unit!r}; known are {_list_known(PRESSURE_UNITS)}, "
            "or energy/length^3, such as eV/A^3 or Hartree/bohr^3"
            f"{_suggest(unit, PRESSURE_UNITS)}"
        )
    return energy_factor(energy) / length_factor(length) ** 3


def _look_up(unit: str, table: dict[str, float], quantity: str) -> float:
    name = _find(unit, table)
    if name is None:
        raise ConfigError(
            f"unknown {quantity} unit {unit!r}; known are {_list_known(table)}"
            f"{_suggest(unit, table)}"
        )
    return table[name]


def _find(unit: str, table: dict[str, float]) -> str | None:
    """Return the name in ``table`` that ``unit`` means, or None.

    Letter case is forgiven, except where it tells milli from mega.
    """
    unit = unit.strip()
    if unit in table:
        return unit
    folded = unit.casefold().replace(" ", "")
    name = _ALIASES.get(folded)
    if name is None:
        name = next((known for known in table if known.casefold() == folded), None)
    if name is None or name not in table:
        return None
    has_prefix = name in ("meV", "mHa", "MPa")
    return None if has_prefix and unit[:1] != name[0] and folded[0] == "m" else name


def _list_known(table: dict[str, float]) -> str:
    return ", ".join(table)


def _suggest(unit: str, table: dict[str, float]) -> str:
    near = difflib.get_close_matches(unit, list(table), n=1)
    return f"; did you mean {near[0]}?" if near else ""

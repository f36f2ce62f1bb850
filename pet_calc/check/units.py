"""Name the unit that explains why labels and a base differ by a factor."""

import math
from typing import NamedTuple

import numpy as np

from pet_calc.data.labels import Array
from pet_calc.units import energy_factor, force_factor, stress_factor

# what data sets of the field come in; a rare unit is named after common ones that fit
ENERGY_NAMES = ("eV", "kcal/mol", "Hartree", "kJ/mol", "Ry", "meV", "mHa")
FORCE_NAMES = (
    "eV/A",
    "kcal/mol/A",
    "Hartree/bohr",
    "kJ/mol/A",
    "Ry/bohr",
    "Hartree/A",
    "eV/bohr",
    "kJ/mol/nm",
    "meV/A",
    "kcal/mol/bohr",
    "mHa/bohr",
    "eV/nm",
)
STRESS_NAMES = (
    "eV/A^3",
    "GPa",
    "kbar",
    "bar",
    "MPa",
    "Hartree/bohr^3",
    "Ry/bohr^3",
    "kcal/mol/A^3",
    "Pa",
)
RARE = ("mHa", "kcal/mol/bohr", "mHa/bohr", "eV/nm", "kcal/mol/A^3", "Pa")

# A base of another level, or a soft one, has slopes of 0.7 to 1.4, and its noise adds
# to that. Units nearer to each other than this (Ry/bohr 1/25.7, Hartree/A 1/27.2) are
# not told apart: all that fit are named.
MATCH = 1.5


class Fit(NamedTuple):
    """How labels go with predictions."""

    n: int
    """Numbers compared."""
    correlation: float
    """Of Pearson, or the cosine where no mean is taken off; 0 if undefined."""
    slope: float
    """Label over prediction: ratio of the sizes, with the sign of the correlation."""

    def to_text(self) -> str:
        """Return the numbers for people."""
        return f"correlation {self.correlation:.2f}, slope {self.slope:.3g}"


def compute_fit(predictions: Array, labels: Array) -> Fit:
    """Return correlation and slope of numbers whose mean is zero or means something.

    The slope is the ratio of the root mean squares and not that of least squares,
    which errs towards zero with a bad base.
    """
    x, y = np.ravel(predictions), np.ravel(labels)
    size_x, size_y = float(np.sqrt(x @ x)), float(np.sqrt(y @ y))
    if size_x == 0.0 or size_y == 0.0:
        return Fit(len(x), 0.0, 0.0)
    correlation = float(x @ y) / (size_x * size_y)
    return Fit(len(x), correlation, math.copysign(size_y / size_x, correlation))


def find_energy_units(ratio: float, declared: float) -> list[str]:
    """Return the units that make labels ``ratio`` times too large, the likely first.

    Args:
        ratio: label/truth, after conversion with the declared unit; not negative.
        declared: the factor to eV that the labels were converted with.
    """
    return _find({name: energy_factor(name) for name in ENERGY_NAMES}, ratio, declared)


def find_force_units(ratio: float, declared: float) -> list[str]:
    """Return the same for forces, ``declared`` being a factor to eV/Å."""
    return _find({name: force_factor(name) for name in FORCE_NAMES}, ratio, declared)


def find_stress_units(ratio: float, declared: float) -> list[str]:
    """Return the same for stress, ``declared`` being a factor to eV/Å^3."""
    return _find({name: stress_factor(name) for name in STRESS_NAMES}, ratio, declared)


def _find(table: dict[str, float], ratio: float, declared: float) -> list[str]:
    if not (math.isfinite(ratio) and ratio > 0):
        return []
    distances = {
        name: abs(math.log(ratio * factor / abs(declared)))
        for name, factor in table.items()
    }
    near = [name for name, value in distances.items() if value < math.log(MATCH)]
    return sorted(near, key=lambda name: (name in RARE, distances[name]))

"""Physics checks of a model: what holds for any potential, whatever it was fitted to.

``validate`` gives a report with a verdict for each check; it knows no labels.
"""

from pet_calc.validate.potential import Potential, load_potential
from pet_calc.validate.report import ValidationReport
from pet_calc.validate.run import LEAST, LONG, SHORT, Effort, validate

__all__ = [
    "LEAST",
    "LONG",
    "SHORT",
    "Effort",
    "Potential",
    "ValidationReport",
    "load_potential",
    "validate",
]

"""The calculator for ASE: one system after the other, from any model file."""

from pet_calc.calculator.calculator import PETCalculator
from pet_calc.calculator.uncertainty import UncertainStep

__all__ = ["PETCalculator", "UncertainStep"]

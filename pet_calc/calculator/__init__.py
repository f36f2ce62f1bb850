"""The calculator for ASE: one structure after the other, from any model file."""

from pet_calc.calculator.calculator import PETCalculator

__all__ = ["PETCalculator"]

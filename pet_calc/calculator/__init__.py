"""The calculator for ASE: one system after the other, from any model file."""

from pet_calc.calculator.calculator import PETCalculator

__all__ = ["PETCalculator"]

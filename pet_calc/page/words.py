"""Sentences and numbers as the pages write them."""

from dataclasses import dataclass
from typing import Literal

from pet_calc.evaluate.metrics import DISPLAY_UNITS

Tone = Literal["good", "bad", "note"]


@dataclass(frozen=True)
class Sentence:
    """One thing to know of a run."""

    tone: Tone
    text: str


def format_error(name: str, value: float) -> str:
    """Return an error with its unit, such as ``12.3 meV/Å``."""
    factor, unit = DISPLAY_UNITS[name]
    return f"{format_number(factor * value)} {unit.replace('^3', '³')}"


def format_number(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or not abs(value) < float("inf"):
        return f"{value:g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

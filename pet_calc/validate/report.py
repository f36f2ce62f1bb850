"""What a validation found: a row for each check, with its verdict."""

import math
import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal

from pet_calc.validate.limits import LIMITS, Limit
from pet_calc.validate.walls import Curve

Verdict = Literal["ok", "warn", "fail"]
# rows whose detail is told also where they are good
_TOLD = ("dimers", "drift", "modes", "elastic")
VERDICTS: tuple[Verdict, ...] = ("fail", "warn", "ok")


@dataclass(frozen=True)
class Row:
    """The result of one check."""

    name: str
    """A key of ``LIMITS``."""
    value: float
    """In the unit of the limit."""
    detail: str = ""
    """Where the value is from, and what else was seen."""
    is_float32: bool = False
    """Of the model."""

    @property
    def limit(self) -> Limit:
        """What it is judged by."""
        return LIMITS[self.name]

    @property
    def limits(self) -> tuple[float, float]:
        """From where it is a warning, and from where it fails."""
        return self.limit.get(is_float32=self.is_float32)

    @property
    def verdict(self) -> Verdict:
        """What to think of it; what is no number fails."""
        if math.isnan(self.value):
            return "fail"
        sign = -1 if self.limit.is_least else 1
        for verdict, limit in zip(("fail", "warn"), self.limits[::-1], strict=True):
            # a wall is looked at as far as its limit: that much is enough
            if sign * self.value > sign * limit:
                return verdict  # type: ignore[return-value]
        return "ok"

    def to_text(self) -> str:
        """Return one line, and one with the detail where that matters."""
        sign = ">=" if self.limit.is_least else "<="
        warn = self.limits[0]
        value = f"{self.value:.2g} {self.limit.unit}"
        line = (
            f"{self.verdict:<5} {self.name:<17} {value:<20} {f'{sign} {warn:g}':<8} "
            f"{self.limit.meaning}"
        )
        if not self.detail or (self.verdict == "ok" and self.name not in _TOLD):
            return line
        detail = textwrap.fill(
            self.detail, 100, initial_indent=f"{'':<6}-> ", subsequent_indent=" " * 9
        )
        return f"{line}\n{detail}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        warn, fail = self.limits
        return {
            "name": self.name,
            # JSON has no NaN
            "value": self.value if math.isfinite(self.value) else None,
            "unit": self.limit.unit,
            "warn": warn,
            "fail": fail,
            "is_least": self.limit.is_least,
            "verdict": self.verdict,
            "meaning": self.limit.meaning,
            "detail": self.detail,
        }


@dataclass
class ValidationReport:
    """The rows of a validation, and what was not looked at."""

    model: str
    structure: str
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a row is not there, by its name."""
    curves: list[Curve] = field(default_factory=list)
    """Of the dimers, those nearest to a hole first."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the rows'."""
        found = [row.verdict for row in self.rows]
        return min(found, key=VERDICTS.index, default="ok")

    def count(self, verdict: Verdict) -> int:
        """Return how many rows have a verdict."""
        return sum(row.verdict == verdict for row in self.rows)

    def to_text(self) -> str:
        """Return the table, several lines."""
        lines = [f"model {self.model}", f"on    {self.structure}"]
        lines += [row.to_text() for row in self.rows]
        lines += [f"{'-':<5} {name:<17} {why}" for name, why in self.skipped.items()]
        lines.append(f"{self.verdict:<5} {self.summarize()}")
        return "\n".join(lines)

    def summarize(self) -> str:
        """Return one line: how many rows are good, and the names of the others."""
        parts = []
        for verdict in VERDICTS:
            names = [row.name for row in self.rows if row.verdict == verdict]
            if verdict == "ok":
                parts.append(f"{len(names)} ok")
            elif names:
                parts.append(f"{len(names)} {verdict} ({'; '.join(names)})")
        return ", ".join(parts)

    def to_dict(self, *, with_curves: bool = True) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {
            "model": self.model,
            "structure": self.structure,
            "verdict": self.verdict,
            "rows": [row.to_dict() for row in self.rows],
            "skipped": self.skipped,
        }
        if with_curves:
            values["dimers"] = [curve.to_dict() for curve in self.curves]
        return values

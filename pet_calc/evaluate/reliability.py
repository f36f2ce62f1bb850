"""Whether errors are as large as an uncertainty says: coverage, table, ranks."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# bins of errors and uncertainties: this many for a factor of ten, from 1e-12 to 1e4
_PER_DECADE = 16
_LOWEST, _HIGHEST = -12 * _PER_DECADE, 4 * _PER_DECADE
N_ROWS = 5
# of normal errors within one and two standard deviations
IDEAL = (0.683, 0.954)
# a correlation of fewer frames says nothing
FEWEST_RANKED = 5


@dataclass
class ReliabilityBin:
    """Frames whose uncertainties are about the same; energies per atom in eV."""

    count: int = 0
    squared_error: float = 0.0
    """Summed over the frames."""
    variance: float = 0.0
    """Squared uncertainties, summed likewise."""
    errors: dict[str, int] = field(default_factory=dict)
    """Frames by the bin of their absolute error."""

    def merge(self, other: "ReliabilityBin") -> None:
        """Add the frames of another one."""
        self.count += other.count
        self.squared_error += other.squared_error
        self.variance += other.variance
        for name, count in other.errors.items():
            self.errors[name] = self.errors.get(name, 0) + count


@dataclass
class Reliability:
    """Errors against uncertainties of energies per atom, in sums of a fixed size."""

    bins: dict[str, ReliabilityBin] = field(default_factory=dict)
    """By the logarithm of the uncertainty."""
    within_one: int = 0
    """Frames whose error is within one standard deviation."""
    within_two: int = 0

    @classmethod
    def from_sums(cls, values: dict[str, Any]) -> "Reliability":
        """Return what ``dataclasses.asdict`` was given, after a way through JSON."""
        bins = {name: ReliabilityBin(**v) for name, v in values.get("bins", {}).items()}
        return cls(**{**values, "bins": bins})

    @property
    def count(self) -> int:
        """Number of frames."""
        return sum(part.count for part in self.bins.values())

    def add(
        self, errors: npt.NDArray[np.float64], deviations: npt.NDArray[np.float64]
    ) -> None:
        """Add frames.

        Args:
            errors: [n] in eV/atom, of any sign.
            deviations: [n] in eV/atom, the standard deviations that were predicted.
        """
        errors = np.abs(errors)
        self.within_one += int((errors <= deviations).sum())
        self.within_two += int((errors <= 2.0 * deviations).sum())
        rows = zip(errors.tolist(), deviations.tolist(), strict=True)
        for error, deviation in rows:
            part = self.bins.setdefault(_find_bin(deviation), ReliabilityBin())
            one = ReliabilityBin(1, error**2, deviation**2, {_find_bin(error): 1})
            part.merge(one)

    def merge(self, other: "Reliability") -> None:
        """Add the frames of another one."""
        self.within_one += other.within_one
        self.within_two += other.within_two
        for name, part in other.bins.items():
            self.bins.setdefault(name, ReliabilityBin()).merge(part)

    def find_coverage(self) -> tuple[float, float]:
        """Return the parts of the frames within one and two standard deviations."""
        count = max(1, self.count)
        return self.within_one / count, self.within_two / count

    def tabulate(self) -> list[dict[str, float]]:
        """Return rows of about as many frames each, from sure to unsure.

        Each has ``n_frames``, and the root mean squares ``uncertainty`` and ``error``
        in eV/atom.
        """
        rows: list[ReliabilityBin] = []
        n_before = 0
        for name in sorted(self.bins, key=int):
            part = self.bins[name]
            # by the middle frame of the bin
            row = int(N_ROWS * (n_before + part.count / 2) / self.count)
            while len(rows) <= row:
                rows.append(ReliabilityBin())
            rows[row].merge(part)
            n_before += part.count
        return [
            {
                "n_frames": part.count,
                "uncertainty": math.sqrt(part.variance / part.count),
                "error": math.sqrt(part.squared_error / part.count),
            }
            for part in rows
            if part.count
        ]

    def correlate_ranks(self) -> float | None:
        """Return Spearman's correlation of absolute error and uncertainty.

        Frames in a bin share a rank. None for few frames, or if all share one.
        """
        if self.count < FEWEST_RANKED:
            return None
        names = sorted(self.bins, key=int)
        error_bins = sorted({e for p in self.bins.values() for e in p.errors}, key=int)
        table = np.array(
            [[self.bins[name].errors.get(e, 0) for e in error_bins] for name in names],
            dtype=np.float64,
        )
        centred, spreads = [], []
        for counts in (table.sum(axis=1), table.sum(axis=0)):
            ranks = np.cumsum(counts) - counts / 2 - self.count / 2
            centred.append(ranks)
            spreads.append(float(counts @ ranks**2))
        if min(spreads) == 0.0:
            return None
        together = float(centred[0] @ table @ centred[1])
        return together / math.sqrt(spreads[0] * spreads[1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        one, two = self.find_coverage()
        return {
            "n_frames": self.count,
            "within_one_sigma": one,
            "within_two_sigma": two,
            "rank_correlation": self.correlate_ranks(),
            "table": self.tabulate(),
        }

    def to_text(self) -> str:
        """Return two lines: coverage and ranks, then the table."""
        return format_reliability(self.to_dict())


def format_reliability(values: dict[str, Any]) -> str:
    """Return two lines for what ``Reliability.to_dict`` returned."""
    percent = [
        f"{100 * values[name]:.0f} % within {word} (normal: {100 * ideal:.0f} %)"
        for name, word, ideal in (
            ("within_one_sigma", "1 sigma", IDEAL[0]),
            ("within_two_sigma", "2 sigma", IDEAL[1]),
        )
    ]
    ranks = values["rank_correlation"]
    if ranks is not None:
        percent.append(f"rank correlation with the error {ranks:.2f}")
    rows = [
        f"{1000 * row['uncertainty']:.3g} -> {1000 * row['error']:.3g}"
        for row in values["table"]
    ]
    return (
        f"{', '.join(percent)}; {values['n_frames']} frames\n"
        f"predicted -> found, meV/atom: {', '.join(rows)}"
    )


def _find_bin(value: float) -> str:
    if not value > 0.0:
        return str(_LOWEST)
    if not math.isfinite(value):
        return str(_HIGHEST)
    return str(min(max(round(_PER_DECADE * math.log10(value)), _LOWEST), _HIGHEST))

"""Errors of predictions: MAE and RMSE of energy, forces and stress."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pet_calc.data.systems import Labels
from pet_calc.model.derivatives import Prediction
from pet_calc.system.ranks import Ranks

QUANTITIES = ("energy", "forces", "stress")
# (factor, unit) in which each error is shown; inside, everything is in eV and Å
DISPLAY_UNITS = {
    "energy": (1000.0, "meV/atom"),
    "forces": (1000.0, "meV/Å"),
    "stress": (1000.0, "meV/Å^3"),
    # of heads that predict them without a derivative
    "direct_forces": (1000.0, "meV/Å"),
    "direct_stress": (1000.0, "meV/Å^3"),
}
# errors that differ by more than this depend on how the frames stand
NOTABLE = 0.05


@dataclass
class ErrorSums:
    """Running sums of one quantity's errors."""

    absolute: float = 0.0
    squared: float = 0.0
    largest: float = 0.0
    count: int = 0

    def add(self, errors: Tensor) -> None:
        """Add the errors of one batch, any shape."""
        if errors.numel() == 0:
            return
        errors = errors.detach().to(torch.float64)
        self.absolute += float(errors.abs().sum())
        self.squared += float(errors.pow(2).sum())
        self.largest = max(self.largest, float(errors.abs().max()))
        self.count += errors.numel()

    def merge(self, other: "ErrorSums") -> None:
        """Add the sums of other errors."""
        self.absolute += other.absolute
        self.squared += other.squared
        self.largest = max(self.largest, other.largest)
        self.count += other.count

    @property
    def mae(self) -> float:
        """Mean absolute error, NaN without data."""
        return self.absolute / self.count if self.count else math.nan

    @property
    def rmse(self) -> float:
        """Root mean square error, NaN without data."""
        return math.sqrt(self.squared / self.count) if self.count else math.nan


@dataclass
class Metrics:
    """Errors over a set of structures.

    Energy errors are per atom (eV/atom), force errors per component (eV/Å), stress
    errors per component (eV/Å^3). Structures without a label do not count in it, those
    of weight 0 nowhere.
    """

    sums: dict[str, ErrorSums] = field(
        default_factory=lambda: {name: ErrorSums() for name in QUANTITIES}
    )
    n_structures: int = 0

    def add(self, prediction: Prediction, labels: Labels) -> None:
        """Add one batch; the energies must both include the composition or neither."""
        self.n_structures += int((labels.weights > 0).sum())
        per_atom = (prediction.energy - labels.energy) / labels.n_atoms
        self.sums["energy"].add(per_atom[labels.has_energy])
        if prediction.forces is not None:
            difference = prediction.forces - labels.forces
            self.sums["forces"].add(difference[labels.has_forces])
        if prediction.stress is not None:
            difference = prediction.stress - labels.stress
            self.sums["stress"].add(difference[labels.has_stress])

    def merge(self, other: "Metrics") -> None:
        """Add the errors of other structures."""
        self.n_structures += other.n_structures
        for name, sums in self.sums.items():
            sums.merge(other.sums[name])

    def merge_over(self, ranks: Ranks, device: torch.device) -> None:
        """Make each process's errors those of all, in place."""
        sums = list(self.sums.values())
        values = [v for s in sums for v in (s.absolute, s.squared, float(s.count))]
        values = ranks.sum([*values, float(self.n_structures)], device)
        largest = ranks.find_largest([s.largest for s in sums], device)
        for i, s in enumerate(sums):
            s.absolute, s.squared = values[3 * i], values[3 * i + 1]
            s.count, s.largest = round(values[3 * i + 2]), largest[i]
        self.n_structures = round(values[-1])

    def to_dict(self) -> dict[str, float]:
        """Return ``energy_mae``, ``energy_rmse``, ... in eV and Å; no NaN."""
        values = {}
        for name, sums in self.sums.items():
            if sums.count:
                values[f"{name}_mae"] = sums.mae
                values[f"{name}_rmse"] = sums.rmse
        return values

    def to_text(self) -> str:
        """Return one line with the errors in readable units."""
        return format_errors(self.to_dict())


@dataclass
class SpreadSums:
    """How much predictions change when a structure is turned, summed over structures.

    Of each structure it is the standard deviation over its orientations: of the energy
    per atom, of a force component and of a stress component, turned back. Exact
    equivariance gives zero.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, spreads: Tensor) -> None:
        """Add the spreads of a batch of structures, [n_structures], in eV and Å."""
        if spreads.numel():
            self.sums[name] = self.sums.get(name, 0.0) + float(spreads.sum())
            self.counts[name] = self.counts.get(name, 0) + spreads.numel()

    def merge(self, other: "SpreadSums") -> None:
        """Add the spreads of other structures."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def to_dict(self) -> dict[str, float]:
        """Return the mean over structures of ``energy``, ``forces``, ``stress``."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}


def merge_by_target(metrics: dict[str, Metrics]) -> dict[str, float]:
    """Return the errors over all targets, and those of each where there are several.

    Args:
        metrics: by target.

    Returns:
        ``energy_mae``, ... over all frames, and with several targets
        ``energy/pbe0.energy_mae``, ... as well.
    """
    merged = Metrics()
    for part in metrics.values():
        merged.merge(part)
    values = merged.to_dict()
    if len(metrics) > 1:
        for target, part in metrics.items():
            own = part.to_dict()
            values |= {f"{target}.{name}": own[name] for name in own}
    return values


def format_spread(values: dict[str, float]) -> str:
    """Return one line for spreads as ``SpreadSums.to_dict`` gives them."""
    parts = []
    for name in QUANTITIES:
        if name in values:
            factor, unit = DISPLAY_UNITS[name]
            parts.append(f"{name} {factor * values[name]:.2f} {unit}")
    return ", ".join(parts)


def format_errors(values: dict[str, float]) -> str:
    """Return one line for errors as ``Metrics.to_dict`` gives them."""
    parts = []
    for name, (factor, unit) in DISPLAY_UNITS.items():
        if f"{name}_mae" in values:
            mae = factor * values[f"{name}_mae"]
            rmse = factor * values[f"{name}_rmse"]
            parts.append(
                f"{name.replace('_', ' ')} MAE {mae:.2f} RMSE {rmse:.2f} {unit}"
            )
    return "; ".join(parts) or "no labels to compare with"


def depends_on_file(turned: dict[str, float], as_in_file: dict[str, float]) -> bool:
    """Return whether an error in the file's orientation is another one."""
    return any(
        abs(as_in_file[key] - turned[key]) > NOTABLE * turned[key]
        for name in QUANTITIES
        if (key := f"{name}_mae") in turned and key in as_in_file
    )

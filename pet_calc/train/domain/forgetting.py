"""How much of the base's own domain a fine-tuning has forgotten."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from pet_calc.data.frames import LabeledFrame
from pet_calc.evaluate.metrics import DISPLAY_UNITS, QUANTITIES, Metrics
from pet_calc.evaluate.predict import predict_frames
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable

ENERGY_REFERENCE = (
    "energies before and after both have the base's energy per element (E0), since a "
    "new one is no forgetting"
)
# eV/atom, eV/Å: labels that the base meets this well are its own predictions
_OWN_LABELS = 1e-5


@dataclass
class Forgetting:
    """Errors on frames of the base's domain before and after, in eV and Å."""

    n_frames: int
    before: dict[str, float]
    """Errors of the base, as ``Metrics.to_dict`` has them."""
    after: dict[str, dict[str, float]] = field(default_factory=dict)
    """Errors of the result, by energy target: the trained one, then the base's own if
    it was kept."""

    def compute_ratios(self, target: str) -> dict[str, float | None]:
        """Return MAE after / MAE before of energy per atom, forces and stress.

        1 is nothing forgotten. None where the base makes no error to compare with:
        the labels are its own predictions.
        """
        ratios: dict[str, float | None] = {}
        for name in QUANTITIES:
            before, after = (
                values.get(f"{name}_mae", math.nan)
                for values in (self.before, self.after[target])
            )
            if not math.isnan(before) and not math.isnan(after):
                ratios[name] = after / before if before > _OWN_LABELS else None
        return ratios

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        targets = {
            name: {"after": values, "ratio": self.compute_ratios(name)}
            for name, values in self.after.items()
        }
        return {
            "n_frames": self.n_frames,
            "energy_reference": ENERGY_REFERENCE,
            "before": self.before,
            "outputs": targets,
        }

    def to_text(self) -> str:
        """Return a line for each target and one on what the energies refer to."""
        lines = [f"{name}: {self._describe(name)}" for name in self.after]
        lines.append(f"on {self.n_frames} retained frames; {ENERGY_REFERENCE}")
        return "\n".join(lines)

    def _describe(self, target: str) -> str:
        parts = []
        for name, ratio in self.compute_ratios(target).items():
            factor, unit = DISPLAY_UNITS[name]
            before, after = (
                factor * values[f"{name}_mae"]
                for values in (self.before, self.after[target])
            )
            shown = "no ratio" if ratio is None else f"x{ratio:.2f}"
            parts.append(f"{name} {shown} ({before:.2f} -> {after:.2f} {unit})")
        return ", ".join(parts)


def measure_forgetting(
    model: PET,
    frames: Sequence[LabeledFrame],
    before: dict[str, float],
    targets: Sequence[str],
    composition: Tensor,
) -> Forgetting:
    """Return the errors of the trained model beside those of the base.

    Args:
        model: the result.
        frames: of the base's domain, with labels.
        before: errors of the base on them, from ``measure_retained``.
        targets: energy targets to measure; those that the model lacks are left out.
        composition: [n_species] in eV, the base's energies per element.
    """
    forgetting = Forgetting(len(frames), before)
    for name in dict.fromkeys(targets):
        if name in model.targets:
            forgetting.after[name] = measure_retained(model, frames, name, composition)
    return forgetting


def measure_retained(
    model: PET,
    frames: Sequence[LabeledFrame],
    target: str,
    composition: Tensor,
    progress: Any = None,
) -> dict[str, float]:
    """Return the errors of a target on retained frames, in eV and Å.

    Args:
        model: on its device.
        frames: of the base's domain, with labels.
        target: an energy target.
        composition: [n_species] in eV; stand in for the target's energies per element.
        progress: wraps the iteration over frames.
    """
    metrics = Metrics()
    with _exchanged_composition(model, target, composition):
        for _ in predict_frames(model, frames, target, metrics, progress=progress):
            pass
    return metrics.to_dict()


def has_own_labels(errors: dict[str, float]) -> bool:
    """Return whether labels are the model's own predictions, by its errors on them."""
    found = [errors[f"{n}_mae"] for n in QUANTITIES if f"{n}_mae" in errors]
    return max(found, default=math.inf) < _OWN_LABELS


@contextmanager
def _exchanged_composition(
    model: PET, target: str, composition: Tensor
) -> Iterator[None]:
    own = cast(TargetTable, model.baseline.tables[target]).composition
    kept = own.clone()
    with torch.no_grad():
        own[:, 0] = composition.to(own.device)
    try:
        yield
    finally:
        with torch.no_grad():
            own.copy_(kept)

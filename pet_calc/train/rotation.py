"""How far training and base agree with themselves when frames are turned."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.read_dataset import select_target
from pet_calc.data.systems import build_system
from pet_calc.evaluate.metrics import (
    DISPLAY_UNITS,
    depends_on_file,
    format_errors,
    format_spread,
)
from pet_calc.evaluate.predict import BatchPredictor, Errors
from pet_calc.model.pet import PET
from pet_calc.train.datasets import RunFrames

N_ORIENTATIONS = 4
# enough frames for a mean, and no more pairs and atoms than take some seconds
MOST_FRAMES = 50
MOST_TOKENS = 400_000
# beyond this part of the error a spread is most of what is wrong in another orientation
MOST_OF_ERROR = 1 / 3
# what a spread may grow by without being called larger
TOLERANCE = 0.1
# a spread of less than this part of the error may grow: beside the error it is nothing
FREE_OF_ERROR = 0.1


class Sample(NamedTuple):
    """Frames of the main target on which rotation is measured."""

    part: str
    """The set that they are of: ``test`` or ``validation``."""
    frames: list[LabeledFrame]


@dataclass
class RotationReport:
    """What turning the frames does to base and result, in eV and Å."""

    sample: Sample
    base: dict[str, float] = field(default_factory=dict)
    """The base's spread, by quantity; empty for a network from scratch."""
    spread: dict[str, float] = field(default_factory=dict)
    """The result's."""
    turned: dict[str, float] = field(default_factory=dict)
    """The result's errors on the turned frames."""
    as_in_file: dict[str, float] = field(default_factory=dict)
    """Its errors on the same frames as they stand in the file."""

    def measure(self, model: PET, target: str) -> None:
        """Measure the result."""
        errors = measure_turned(model, target, self.sample)
        self.spread = errors.spread.to_dict()
        self.turned = errors.turned.to_dict()
        self.as_in_file = errors.as_in_file.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "set": self.sample.part,
            "n_frames": len(self.sample.frames),
            "n_orientations": N_ORIENTATIONS,
            "base": self.base,
            "spread": self.spread,
            "turned": self.turned,
            "as_in_file": self.as_in_file,
        }

    def to_text(self) -> str:
        """Return a line on the spread, and one on the file where that differs."""
        base = f" (base: {format_spread(self.base)})" if self.base else ""
        lines = [
            f"spread over orientations: {format_spread(self.spread)}{base}; "
            f"{len(self.sample.frames)} {self.sample.part} frames in {N_ORIENTATIONS} "
            "orientations"
        ]
        if depends_on_file(self.turned, self.as_in_file):
            lines.append(
                f"these frames turned: {format_errors(self.turned)}; as they stand in "
                f"the file: {format_errors(self.as_in_file)}"
            )
        return "\n".join(lines)

    def find_warnings(self) -> list[str]:
        """Return what a user has to know before the model meets another orientation."""
        warnings = []
        for name in ("energy", "forces"):
            factor, unit = DISPLAY_UNITS[name]
            spread, error = self.spread.get(name), self.turned.get(f"{name}_mae")
            if spread is None or (error and spread < FREE_OF_ERROR * error):
                continue
            shown = f"{name}: turning a frame changes the prediction by"
            before = self.base.get(name)
            if before is not None and spread > (1 + TOLERANCE) * before:
                warnings.append(
                    f"{shown} {factor * spread:.2f} {unit}, more than with the base "
                    f"({factor * before:.2f}); augmentation O3 (the default), "
                    "consistency 2 and more frames make it smaller"
                )
            elif error is not None and spread > MOST_OF_ERROR * error:
                warnings.append(
                    f"{shown} {factor * spread:.2f} {unit}, more than a third of its "
                    f"error ({factor * error:.2f}); keep to one orientation, or train "
                    "longer, with augmentation O3 and consistency 2"
                )
        return warnings


def choose_sample(frames: RunFrames, target: str, cutoff: float) -> Sample:
    """Return frames from all over the test set, or else the validation set.

    As many as are worth their time.
    """
    part = "test" if frames.test else "validation"
    own = select_target(getattr(frames, part), target)
    if not len(own):
        return Sample(part, [])
    spaced = np.linspace(0, len(own) - 1, min(len(own), MOST_FRAMES)).astype(int)
    few = [own[i] for i in spaced.tolist()]
    system = build_system(max(few, key=lambda frame: frame.n_atoms), cutoff)
    each = (1 + N_ORIENTATIONS) * system.n_tokens
    return Sample(part, few[:: -(-len(few) // max(4, MOST_TOKENS // each))])


def measure_turned(model: PET, target: str, sample: Sample) -> Errors:
    """Return the errors of frames as in the file and turned, and their spread."""
    errors = Errors()
    predictor = BatchPredictor(model, target, n_orientations=N_ORIENTATIONS)
    for batch in predictor.predict(sample.frames):
        errors.merge(batch.errors)
    return errors

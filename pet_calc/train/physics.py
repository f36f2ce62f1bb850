"""The short form of `pet-calc validate` at the end of a run, on a validation frame."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.read_dataset import select_target
from pet_calc.data.systems import build_system
from pet_calc.errors import PetCalcError
from pet_calc.model.pet import PET
from pet_calc.train.datasets import RunFrames
from pet_calc.validate import LEAST, SHORT, ValidationReport, load_potential, validate

logger = logging.getLogger(__name__)

# validation frames of which one is taken
_MOST_LOOKED_AT = 50
# elements of the training set, up to which all pairs of them are looked at
_MOST_ELEMENTS = 10
# pairs and atoms of the frame, up to which the short form takes some seconds, and up to
# which its cheapest part does
MOST_TOKENS, MOST_TOKENS_AT_ALL = 1000, 6000


@dataclass
class PhysicsCheck:
    """What is validated, and what was found."""

    frame: LabeledFrame
    """Of the validation set."""
    is_large: bool
    """Whether the frame is looked at as little as possible."""
    elements: list[int]
    """Of the dimers."""
    report: ValidationReport | None = None
    why_not: str = "not looked at"
    """Why there is no report."""

    def measure(self, model: PET, target: str) -> None:
        """Validate a model of the run, in float64.

        What stands in the way of that is a warning: the run itself has ended well.
        """
        try:
            potential = load_potential(
                model,
                name="best model",
                target=target,
                device=model.edge_embedder.weight.device,
            )
            self.report = validate(
                potential,
                self.frame.to_atoms(),
                pairs_of=self.elements,
                effort=LEAST if self.is_large else SHORT,
            )
        # such as a GPU without the memory for float64
        except (PetCalcError, RuntimeError) as error:
            self.why_not = f"could not be looked at: {error}"
            logger.warning("physics %s; try pet-calc validate", self.why_not)

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain values for JSON, None without a report."""
        if self.report is None:
            return None
        found = self.report.to_dict(with_curves=False)
        return {"frame": self.frame.source, **found}

    def to_text(self) -> str:
        """Return a line on how many checks are good, and one for each that fails."""
        if self.report is None:
            return self.why_not
        lines = [f"{self.report.summarize()}; {self.frame.source}"]
        lines += [
            f"{row.name}: {row.detail}"
            for row in self.report.rows
            if row.verdict == "fail"
        ]
        return "\n".join(lines)


def choose_check(frames: RunFrames, target: str, cutoff: float) -> PhysicsCheck | None:
    """Return what a run is to validate: a validation frame of middling size.

    The smallest one where that would take long; None where all would, or are none.

    Args:
        frames: of the run.
        target: the main energy.
        cutoff: of neighbour lists, Å.
    """
    own = select_target(frames.validation, target)
    if not len(own):
        return None
    few = np.linspace(0, len(own) - 1, min(len(own), _MOST_LOOKED_AT)).astype(int)
    by_size = sorted((own[i] for i in few.tolist()), key=lambda frame: frame.n_atoms)
    for frame in (by_size[len(by_size) // 2], by_size[0]):
        n_tokens = build_system(frame, cutoff).n_tokens
        if n_tokens <= MOST_TOKENS:
            break
    if n_tokens > MOST_TOKENS_AT_ALL:
        logger.info(
            "physics: all validation frames are large; see pet-calc validate --quick"
        )
        return None
    census = frames.census.get("train", {}).get(target)
    symbols = [] if census is None else list(census.elements)
    elements = {atomic_numbers[symbol] for symbol in symbols}
    if len(elements) > _MOST_ELEMENTS:
        elements = set()
    return PhysicsCheck(
        frame,
        n_tokens > MOST_TOKENS,
        sorted(elements | set(frame.numbers.tolist())),
    )

"""The options of replay, apart from which files are replayed."""

from dataclasses import dataclass
from typing import Literal

from pet_calc.config.fields import check_fields, check_positive, check_range


@dataclass(frozen=True)
class ReplayOptions:
    """How the base's domain is kept in mind; ``architecture: training: replay:``."""

    labels: Literal["file", "base"] = "file"
    """Labels of replay_set: those in the files, or what the base predicts."""
    generate: int = 0
    """Frames to make from the training set as well, labelled by the base."""
    weight: float = 1.0
    """Factor of their loss, beside the loss on the training set."""
    batch_size: int | None = None
    """Frames replayed in each step; null: as many as in a training step, at least 4."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_fields(self)
        check_range(self, "generate", 0, float("inf"))
        check_positive(self, "weight", "batch_size")

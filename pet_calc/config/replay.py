"""The options of replay, apart from which files are replayed."""

from typing import Annotated, Literal

from pydantic import Field

from pet_calc.config.fields import Count, Options, Positive
from pet_calc.config.flags import DOMAIN, option


class ReplayOptions(Options):
    """How the base's domain is kept in mind; ``architecture: training: replay:``."""

    labels: Literal["file", "base"] = option("file", "--replay-labels", DOMAIN)
    """Labels of what is replayed: those in the files, or what the base predicts."""
    generate: Annotated[int, Field(ge=0)] = option(0, "--replay-generate", DOMAIN)
    """Frames to make from the training set as well, labelled by the base."""
    weight: Positive = option(1.0, "--replay-weight", DOMAIN, is_rare=True)
    """Factor of their loss, beside the loss on the training set."""
    batch_size: Count | None = option(None, "--replay-batch-size", DOMAIN, is_rare=True)
    """Frames replayed in each step; null: as many as in a training step, at least 4."""

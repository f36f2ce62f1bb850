"""The folder of a run: names of its models, and the state that it goes on from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet_calc.checkpoint import load_training_state
from pet_calc.errors import CheckpointError

BEST_NAME = "best_model.ckpt"
LAST_NAME = "last_model.ckpt"


@dataclass(frozen=True)
class RunFolder:
    """Where the models of a run go, and what they say of it."""

    path: Path
    best_name: str = BEST_NAME
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of the model files; empty in processes that write none."""

    @property
    def best(self) -> Path:
        """The best model."""
        return self.path / self.best_name

    @property
    def last(self) -> Path:
        """The model to resume from."""
        return self.path / LAST_NAME

    def load_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights."""
        state = load_training_state(self.last)
        if state is None:
            raise CheckpointError(
                f"{self.last}: holds no training state to resume from"
            )
        return state

"""The folder of a run: names of its models, and the state that it goes on from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet_calc.checkpoint import load_training_state
from pet_calc.errors import CheckpointError

BEST_NAME = "best_model.ckpt"
LAST_NAME = "last_model.ckpt"


def name_best(folder: Path, run_name: str, *, is_resumed: bool) -> str:
    """Return the name of the file of a run's best model.

    A run that goes on keeps the one it has, also under another name than it began with.

    Args:
        folder: of the run.
        run_name: goes into the name.
        is_resumed: whether the run goes on.
    """
    name = f"best_model_{run_name}.ckpt" if run_name else BEST_NAME
    if is_resumed and not (folder / name).exists():
        found = sorted(folder.glob("best_model*.ckpt"), key=lambda p: p.stat().st_mtime)
        name = found[-1].name if found else name
    return name


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

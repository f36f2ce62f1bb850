"""How far a training is, on a terminal and in the log file of the run."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pet_calc.data.loader import BatchLoader
from pet_calc.model.memory import read_peak_memory

LOG_NAME = "run.log"
IN_BAR = "is_in_bar"
"""Attribute of a log record that the progress bar shows as well."""


class TrainingBar:
    """Shows frames done, frames a second, the time left, errors and memory."""

    def __init__(
        self,
        loader: BatchLoader,
        n_epochs: int,
        device: torch.device,
        *,
        n_steps_done: int = 0,
        hide: bool | None = None,
    ) -> None:
        """Begin.

        Args:
            loader: of the training set; a frame counts once in each epoch.
            n_epochs: of the whole run.
            device: whose memory is shown.
            n_steps_done: by an earlier session.
            hide: tqdm's ``disable``; None shows the bar on a terminal only.
        """
        self._device = device
        # a step of all processes, also where frames differ in size
        self._frames_per_step = len(loader.only) / loader.n_steps
        self._bar = tqdm(
            total=n_epochs * len(loader.only),
            initial=self._count_frames(n_steps_done),
            disable=hide,
            desc="training",
            unit="frame",
            dynamic_ncols=True,
        )

    @property
    def is_hidden(self) -> bool:
        """Whether nothing is shown."""
        return bool(self._bar.disable)

    def show_step(self, n_steps: int) -> None:
        """Move on to so many steps in all."""
        self._bar.update(self._count_frames(n_steps) - self._bar.n)

    def show_epoch(self, line: str) -> None:
        """Show what an epoch reached, and the most memory so far."""
        memory = read_peak_memory(self._device)
        parts = [line] if memory is None else [line, f"{memory / 1e9:.1f} GB"]
        self._bar.set_postfix_str(", ".join(parts), refresh=False)

    def begin_again(self) -> None:
        """Go back to the start."""
        self._bar.reset()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._bar.close()

    def _count_frames(self, n_steps: int) -> int:
        return round(n_steps * self._frames_per_step)


class RunLog(logging.Handler):
    """Writes what a run says to ``run.log`` in its folder, with the time.

    What comes before the folder is known to be good waits until ``open``.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._waiting: list[str] = []
        self._path: Path | None = None

    def open(self, folder: Path, *, is_resumed: bool = False) -> None:
        """Write from now on, and what waited; after what is there in a resumed run."""
        self._path = folder / LOG_NAME
        if not is_resumed:
            self._path.write_text("", encoding="utf-8")
        self._append("".join(self._waiting))
        self._waiting.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        is_warning = record.levelno >= logging.WARNING
        self.write(f"{'warning: ' if is_warning else ''}{record.getMessage()}")

    def write(self, text: str) -> None:
        """Write some lines, the first one with the time."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        if self._path is None:
            self._waiting.append(line)
        else:
            self._append(line)

    def _append(self, text: str) -> None:
        assert self._path is not None  # open
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            # a full disk: what the run leaves of its own will fail and say so
            pass


@contextmanager
def listen(handler: logging.Handler) -> Iterator[None]:
    """Give a handler the package's log of the block."""
    logger = logging.getLogger("pet_calc")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def keep_log() -> Iterator[RunLog]:
    """Write the package's log of the block, and the error that ends it, to a file."""
    handler = RunLog()
    with listen(handler):
        try:
            yield handler
        except Exception as error:
            handler.write(f"error: {error}")
            raise


def log_epoch(logger: logging.Logger, line: str, *, is_in_bar: bool) -> None:
    """Log the line of an epoch; a handler that shows a bar can leave it out."""
    extra: dict[str, Any] = {IN_BAR: is_in_bar}
    logger.info("%s", line, extra=extra)

"""Predictions on their way to a file, where an interrupted run can go on.

They are appended to ``PATH.partial``, batch by batch. After each batch,
``PATH.partial.json`` says how many bytes and frames of it are whole, with the errors of
these frames; what lies behind that is cut off when the file is opened again. So a run
may end at any moment, and no frame is missing, doubled or cut.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import IO, Any

import ase.io

from pet_calc.errors import ConfigError
from pet_calc.evaluate.metrics import ErrorSums, Metrics, SpreadSums
from pet_calc.evaluate.predict import Errors, PredictedBatch
from pet_calc.evaluate.predicted_atoms import make_writable
from pet_calc.evaluate.reliability import Reliability
from pet_calc.system.atomic import write_text_atomically
from pet_calc.system.locks import hold_lock
from pet_calc.system.paths import expand_path

logger = logging.getLogger(__name__)

# 3: predictions under names of their own
RECORD_VERSION = 3


class PredictionWriter:
    """Appends batches to an open file and keeps the record of what is whole."""

    def __init__(
        self, file: IO[bytes], record: Path, run: dict[str, Any], model: str
    ) -> None:
        self.n_frames = 0
        """Frames that are written."""
        self.errors = Errors()
        """Their errors."""
        self._file = file
        self._record = record
        self._run = run
        self._model = model
        self._n_bytes = 0

    def resume(self, partial: str) -> None:
        """Take over what the record says is whole.

        Raises:
            ConfigError: if it was made by another run, or file and record do not
                belong together; names both.
        """
        n_there = os.fstat(self._file.fileno()).st_size
        if n_there == 0:
            logger.info("%s: nothing to go on with, starts anew", partial)
            return
        if not self._record.exists():
            raise ConfigError(
                f"{partial}: there is no {self._record.name} that says how far it "
                "got; leave --resume out to start anew"
            )
        try:
            values = json.loads(self._record.read_text())
            if values["format_version"] != RECORD_VERSION:
                raise ValueError(
                    f"of version {values['format_version']}, not {RECORD_VERSION}"
                )
            n_bytes, before = values["n_bytes"], values["run"]
            self.n_frames = values["n_frames"]
            self.errors = Errors(
                _read_metrics(values["errors"]["as_in_file"]),
                _read_metrics(values["errors"]["turned"]),
                SpreadSums(**values["errors"]["spread"]),
                # records of earlier versions have none
                Reliability.from_sums(values["errors"].get("reliability", {})),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._record}: cannot be read ({error}); leave --resume out to "
                "start anew"
            ) from error
        differing = [name for name in self._run if before.get(name) != self._run[name]]
        if differing:
            raise ConfigError(
                f"{partial}: was begun with another {', '.join(differing)}; leave "
                "--resume out to start anew, or choose another -o"
            )
        if n_there < n_bytes:
            raise ConfigError(
                f"{partial}: has {n_there} bytes, but {self._record.name} speaks of "
                f"{n_bytes}; leave --resume out to start anew"
            )
        self._n_bytes = n_bytes
        logger.info("%s: goes on after %d predictions", partial, self.n_frames)

    def add(self, batch: PredictedBatch) -> None:
        """Write the predictions of a batch; they are on disk when this returns."""
        text = StringIO()
        for prediction in batch.predictions:
            atoms = make_writable(prediction.to_atoms(self._model))
            ase.io.write(text, atoms, format="extxyz")
        content = text.getvalue().encode()
        self._file.write(content)
        self._sync()
        self._n_bytes += len(content)
        self.n_frames += len(batch.predictions)
        self.errors.merge(batch.errors)
        self._write_record()

    def cut(self) -> None:
        """Cut off what is not whole."""
        self._file.truncate(self._n_bytes)
        self._sync()

    def _sync(self) -> None:
        self._file.flush()
        # before the record speaks of it, also if the machine goes down
        os.fsync(self._file.fileno())

    def _write_record(self) -> None:
        values = {
            "format_version": RECORD_VERSION,
            "run": self._run,
            "n_frames": self.n_frames,
            "n_bytes": self._n_bytes,
            "errors": asdict(self.errors),
        }
        write_text_atomically(self._record, json.dumps(values))


def _read_metrics(values: dict[str, Any]) -> Metrics:
    sums = {name: ErrorSums(**value) for name, value in values["sums"].items()}
    # records of earlier versions have another name
    n_frames: int = values["n_frames" if "n_frames" in values else "n_structures"]
    return Metrics(sums, n_frames)


@contextmanager
def open_predictions(
    path: str | Path,
    run: dict[str, Any],
    *,
    model: str = "unknown",
    is_resumed: bool = False,
) -> Iterator[PredictionWriter]:
    """Give a writer of predictions, whose file gets its name after the block.

    If the block raises, the whole frames until then stay in ``PATH.partial``, and an
    older ``path`` stays as it is.

    Args:
        path: of an extended XYZ file.
        run: what the predictions depend on, as JSON has it.
        model: whose predictions they are; goes into the file.
        is_resumed: go on with what an interrupted run has left, if it did.

    Raises:
        ConfigError: if the folder does not exist, if another process writes there, or
            if what is there was begun with another ``run``.
    """
    path = Path(expand_path(path))
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    partial = path.with_name(path.name + ".partial")
    record = path.with_name(path.name + ".partial.json")
    with hold_lock(path.with_name(path.name + ".lock"), waits=False) as is_ours:
        if not is_ours:
            raise ConfigError(f"{partial}: another process writes to it; choose -o")
        with partial.open("ab") as file:
            writer = PredictionWriter(file, record, run, model)
            if is_resumed:
                writer.resume(str(partial))
            else:
                record.unlink(missing_ok=True)
            writer.cut()
            try:
                yield writer
            except BaseException:
                if not writer.n_frames:
                    partial.unlink()
                    raise
                writer.cut()
                logger.warning(
                    "%s has the first %d predictions; --resume goes on with them",
                    partial,
                    writer.n_frames,
                )
                raise
        partial.replace(path)
        record.unlink(missing_ok=True)

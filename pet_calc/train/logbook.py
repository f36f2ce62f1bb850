"""The log of a run: one row an epoch, as CSV for people and JSONL for programs.

Where TensorBoard is installed, it gets the numbers as well.
"""

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

COLUMNS = (
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "val_loss",
    "val_energy_mae",
    "val_energy_rmse",
    "val_forces_mae",
    "val_forces_rmse",
    "val_stress_mae",
    "val_stress_rmse",
    "val_direct_forces_mae",
    "val_direct_stress_mae",
    "metric",
    "is_best",
    "restarts",
    "seconds",
)


class Logbook:
    """Appends rows to ``log.csv`` and ``log.jsonl`` in the run's folder.

    With TensorBoard, curves over epochs are in the folder ``tensorboard``.
    """

    def __init__(self, folder: Path, *, keep_until_epoch: int | None = None) -> None:
        """Open the log.

        Args:
            folder: of the run; must exist.
            keep_until_epoch: for a resumed run, the last epoch whose row stays; later
                rows were written by a run that was cut off and will come again. None
                starts a new log.
        """
        self._folder = folder
        self._csv = folder / "log.csv"
        self._jsonl = folder / "log.jsonl"
        rows: list[dict[str, Any]] = []
        if keep_until_epoch is not None and self._jsonl.exists():
            for line in self._jsonl.read_text().splitlines():
                row = json.loads(line)
                if row["epoch"] <= keep_until_epoch:
                    rows.append(row)
        self._columns: tuple[str, ...] = ()
        self._jsonl.write_text("")
        for row in rows:
            self._write(row)
        self._board = _open_board(folder / "tensorboard", keep_until_epoch)

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; values in eV and Å, empty where there is none."""
        self._write(row)
        if self._board is not None:
            for name, value in row.items():
                if name not in ("epoch", "is_best"):
                    self._board.add_scalar(name, value, row["epoch"])
            self._board.flush()

    def clear(self) -> None:
        """Start anew: the epochs so far were of an attempt that diverged."""
        self.close()
        self._columns = ()
        self._jsonl.write_text("")
        self._board = _open_board(self._folder / "tensorboard", None)

    def close(self) -> None:
        """End TensorBoard's part; the files are whole at any time."""
        if self._board is not None:
            self._board.close()

    def _write(self, row: dict[str, Any]) -> None:
        if not self._columns:
            # what each target adds comes last
            self._columns = (*COLUMNS, *(name for name in row if name not in COLUMNS))
            with self._csv.open("w", newline="") as file:
                csv.DictWriter(file, self._columns).writeheader()
        with self._csv.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, extrasaction="ignore").writerow(row)
        with self._jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _open_board(folder: Path, keep_until_epoch: int | None) -> Any:
    """Return TensorBoard's writer, None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    if keep_until_epoch is None:
        shutil.rmtree(folder, ignore_errors=True)
        return SummaryWriter(str(folder))
    # later points are shown no more: they will come again
    return SummaryWriter(str(folder), purge_step=keep_until_epoch + 1)

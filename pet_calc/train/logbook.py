"""The log of a run: one row an epoch, as CSV for people and JSONL for programs."""

import csv
import json
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
    "metric",
    "is_best",
    "seconds",
)


class Logbook:
    """Appends rows to ``log.csv`` and ``log.jsonl`` in the run's folder."""

    def __init__(self, folder: Path, *, keep_until_epoch: int | None = None) -> None:
        """Open the log.

        Args:
            folder: of the run; must exist.
            keep_until_epoch: for a resumed run, the last epoch whose row stays; later
                rows were written by a run that was cut off and will come again. None
                starts a new log.
        """
        self._csv = folder / "log.csv"
        self._jsonl = folder / "log.jsonl"
        rows: list[dict[str, Any]] = []
        if keep_until_epoch is not None and self._jsonl.exists():
            for line in self._jsonl.read_text().splitlines():
                row = json.loads(line)
                if row["epoch"] <= keep_until_epoch:
                    rows.append(row)
        with self._csv.open("w", newline="") as file:
            csv.DictWriter(file, COLUMNS).writeheader()
        self._jsonl.write_text("")
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; values in eV and Å, empty where there is none."""
        with self._csv.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(row)
        with self._jsonl.open("a") as file:
            file.write(json.dumps(row) + "\n")

"""Files of kept predictions: arrays of NumPy, and names in JSON."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pet_calc.errors import DataError
from pet_calc.evaluate.kept import FIELDS, KeptPredictions
from pet_calc.evaluate.viewed import VIEWED_FIELDS, ViewedFrames
from pet_calc.system.atomic import write_atomically

FORMAT_VERSION = 1


@dataclass
class KeptPart:
    """What is known of the frames that were kept of a set."""

    n_frames: int
    """Of the set, kept or not."""
    index: list[int] = field(default_factory=list)
    """Of each kept frame in the set, ascending."""
    sources: list[str] = field(default_factory=list)
    """Of each kept frame."""
    config_types: list[str] = field(default_factory=list)
    """Of each kept frame, empty where its file names none."""

    def find(self, kept: KeptPredictions) -> list[int]:
        """Return the places of frames in the lists."""
        places: list[int] = np.searchsorted(self.index, kept.index).tolist()
        return places


@dataclass
class KeptFile:
    """Predictions of one model for frames of the sets of a run."""

    parts: dict[str, KeptPart] = field(default_factory=dict)
    """By set: ``train``, ``validation``, ``test``."""
    predictions: dict[tuple[str, str], KeptPredictions] = field(default_factory=dict)
    """By set and target."""
    viewed: ViewedFrames | None = None
    """Frames to look at."""

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            OSError: if that fails.
        """
        arrays: dict[str, Any] = {}
        for i, kept in enumerate(self.predictions.values()):
            arrays |= {f"{i}.{name}": getattr(kept, name) for name in FIELDS}
        header = {
            "format_version": FORMAT_VERSION,
            "parts": {name: vars(part) for name, part in self.parts.items()},
            "predictions": [list(key) for key in self.predictions],
            "viewed": None if self.viewed is None else self.viewed.names(),
        }
        if self.viewed is not None:
            found = {name: getattr(self.viewed, name) for name in VIEWED_FIELDS}
            arrays |= {f"viewed.{name}": value for name, value in found.items()}
        text = json.dumps(header).encode()
        arrays["header"] = np.frombuffer(text, dtype=np.uint8)
        # some MB; the writer wants to seek
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))

    @classmethod
    def load(cls, path: Path) -> "KeptFile":
        """Read a file.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(arrays["header"].tobytes())
                if header["format_version"] != FORMAT_VERSION:
                    raise DataError(
                        f"{path}: expected predictions of version {FORMAT_VERSION}, "
                        f"got {header['format_version']}; use the pet-calc of the run"
                    )
                predictions = {
                    tuple(key): KeptPredictions(
                        **{name: arrays[f"{i}.{name}"] for name in FIELDS}
                    )
                    for i, key in enumerate(header["predictions"])
                }
                viewed = None
                if header["viewed"] is not None:
                    found = {n: arrays[f"viewed.{n}"] for n in VIEWED_FIELDS}
                    viewed = ViewedFrames(**header["viewed"], **found)
        except (KeyError, ValueError, OSError) as error:
            raise DataError(f"{path}: no file of kept predictions ({error})") from error
        parts = {name: KeptPart(**part) for name, part in header["parts"].items()}
        return cls(parts, predictions, viewed)

"""What a selection found: the frames, why each was taken, and what was left out."""

import math
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
from ase import Atoms

from pet_calc.data.files import split_source
from pet_calc.data.frames import LabeledFrame
from pet_calc.system.atomic import write_text_atomically

SOURCE = "select_from"
"""Key in ``info`` of the frames that are written, by which a file is known as ours."""
MEV = 1000.0


class Chosen(NamedTuple):
    """A frame that was taken, and why."""

    frame: LabeledFrame
    uncertainty: float | None
    """eV, per atom or of the most uncertain one; None without."""
    distance: float
    """To what is nearest, see ``SelectOptions.near``; infinite for a first one."""
    nearest: str
    """Such as ``train.xyz, frame 3``, or ``number 2`` of those taken."""

    def to_atoms(self) -> Atoms:
        """Return the frame in Å, without labels, with where it is from and why.

        Energies and forces in a trajectory are those of the model that drove it: kept,
        they would be taken for labels.
        """
        atoms = self.frame.to_atoms()
        atoms.calc = None
        for name in ("charge", "spin_multiplicity"):
            if name not in self.frame.only_labels.origins:
                atoms.info.pop(name)
        atoms.info[SOURCE] = self.frame.source
        if self.uncertainty is not None:
            atoms.info["select_uncertainty"] = self.uncertainty
        if math.isfinite(self.distance):
            atoms.info["select_distance"] = self.distance
        return atoms


@dataclass
class Tally:
    """Counts frames for a reason."""

    count: int = 0
    example: str = ""
    """The first one, and its values."""

    def add(self, example: str = "", count: int = 1) -> None:
        """Count frames; the first example stays."""
        self.count += count
        self.example = self.example or example


@dataclass
class Selection:
    """The frames, in the order in which they were taken."""

    chosen: list[Chosen]
    n_frames: int
    """That were read."""
    what: str
    """The uncertainty is of; empty without."""
    left_out: dict[str, Tally] = field(default_factory=dict)
    """By reason."""

    def to_text(self) -> str:
        """Return a table of the frames, and why others were left out."""
        lines = [f"read      {self.n_frames} frames"]
        for reason, tally in self.left_out.items():
            if tally.count:
                example = f" (such as {tally.example})" if tally.example else ""
                lines.append(f"left out  {tally.count} {reason}{example}")
        lines.append(f"taken     {len(self.chosen)} frames")
        return "\n".join(lines + self._draw_table())

    def _draw_table(self) -> list[str]:
        heads = ["", "file", "frame", self.what, "distance", "to"]
        rows = [heads]
        for number, each in enumerate(self.chosen, start=1):
            file, index = split_source(each.frame.source)
            value = "" if each.uncertainty is None else f"{MEV * each.uncertainty:.3g}"
            distance = f"{each.distance:.3f}" if math.isfinite(each.distance) else ""
            rows.append([str(number), file, index, value, distance, each.nearest])
        kept = [k for k, head in enumerate(heads) if head != "" or k == 0]
        widths = {k: max(len(row[k]) for row in rows) for k in kept}
        lines = []
        for row in rows:
            cells = [
                row[k].ljust(widths[k]) if k in (1, 5) else row[k].rjust(widths[k])
                for k in kept
            ]
            lines.append("  ".join(cells).rstrip())
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the same for JSON, in eV."""
        taken = []
        for each in self.chosen:
            file, index = split_source(each.frame.source)
            is_first = not math.isfinite(each.distance)
            taken.append(
                {
                    "file": file,
                    "frame": int(index),
                    "uncertainty": each.uncertainty,
                    "distance": None if is_first else each.distance,
                    "nearest": each.nearest,
                }
            )
        return {
            "n_frames": self.n_frames,
            "taken": taken,
            "left_out": {
                reason: {"count": tally.count, "example": tally.example}
                for reason, tally in self.left_out.items()
            },
        }


def write_selection(path: str | Path, selection: Selection) -> None:
    """Write the frames as extended XYZ, in the order in which they were taken."""
    text = StringIO()
    atoms = [each.to_atoms() for each in selection.chosen]
    ase.io.write(text, atoms, format="extxyz")
    write_text_atomically(path, text.getvalue())

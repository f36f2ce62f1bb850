"""What a check of a data set says: findings, and how frames are named in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pet_calc.data.files import split_source
from pet_calc.data.frames import LabeledFrame

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_MOST_NAMED = 4
# of one finding, to be looked at
MOST_LISTED = 12


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know about the data."""

    severity: Severity
    """Error: training would learn something wrong. Warning: look at it."""
    code: str
    """Short and stable, for programs, such as ``stress-sign``."""
    what: str
    """One line: what was found, with the numbers."""
    advice: str
    """One line: what to do."""
    frames: tuple[str, ...] = ()
    """Sources of the first frames that it is about, empty where it is about all."""

    def to_text(self) -> str:
        """Return two lines for people."""
        return f"{self.severity:<9} {self.what}\n{'':<9} -> {self.advice}"


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the gravest first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def name_frames(frames: Sequence[LabeledFrame]) -> str:
    """Return ``a.xyz, frame 3``, or ``a.xyz, frames 3, 7, 9, 12, ... (31 in all)``."""
    first = frames[0].source
    if len(frames) == 1:
        return first
    file = name_file(frames[0])
    numbers = []
    for frame in frames[:_MOST_NAMED]:
        own, number = split_source(frame.source)
        numbers.append(number if own == file else frame.source)
    more = len(frames) - _MOST_NAMED
    ending = f", ... ({len(frames)} in all)" if more > 0 else ""
    return f"{file}, frames {', '.join(numbers)}{ending}"


def list_sources(frames: Sequence[LabeledFrame]) -> tuple[str, ...]:
    """Return the names of the first frames, for ``Finding.frames``."""
    return tuple(frame.source for frame in frames[:MOST_LISTED])


def name_file(frame: LabeledFrame) -> str:
    """Return the file a frame was read from, empty if it was not read."""
    return split_source(frame.source)[0]

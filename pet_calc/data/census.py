"""Count what a data set holds, so that nothing is missing or dropped unseen."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from ase.data import chemical_symbols

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.near_names import PREDICTED_NAMES
from pet_calc.data.places import name_of

T = TypeVar("T", int, str)

# keys listed as unused before the rest is only counted
_MOST_KEYS = 20


@dataclass(frozen=True)
class LabelCensus:
    """What is where in a list of frames; eV, Å, eV/Å, eV/Å^3."""

    n_frames: int
    """Number of frames."""
    n_atoms: int
    """Atoms in all frames together."""
    atoms_range: tuple[int, int]
    """Atoms in the smallest and in the largest frame."""
    n_labeled: dict[str, int]
    """Frames with energy, with forces, with stress, and with each extra label."""
    origins: dict[str, dict[str, int]]
    """For each label, how many frames had it under which key."""
    elements: dict[str, int]
    """Atoms of each element, by symbol in the order of atomic numbers."""
    periodicity: dict[str, int]
    """Frames for each pbc, such as ``TTF``."""
    config_types: dict[str, int]
    """Frames of each config_type, empty if none is named."""
    charges: dict[int, int]
    """Frames of each total charge."""
    spin_multiplicities: dict[int, int]
    """Frames of each spin multiplicity."""
    energy_per_atom_range: tuple[float, float] | None
    """Smallest and largest energy/n_atoms."""
    largest_force: float | None
    """Largest norm of the force on an atom."""
    largest_net_force: float | None
    """Largest norm of a frame's sum of forces; zero in theory."""
    pressure_range: tuple[float, float] | None
    """Smallest and largest -trace(stress)/3."""
    notes: dict[str, tuple[int, str]]
    """What was there but not used: how often, and in which frame first."""
    unused_keys: tuple[str, ...]
    """Keys in the files that no label was taken from."""

    @classmethod
    def from_frames(cls, frames: Iterable[LabeledFrame]) -> "LabelCensus":
        """Build from frames, in one pass; none at all is allowed."""
        counter = CensusCounter()
        for frame in frames:
            counter.add(frame)
        return counter.build()

    def to_text(self) -> str:
        """Return a table for people, a few lines without a final newline."""
        low, high = self.atoms_range
        size = f"{low}" if low == high else f"{low} to {high}"
        lines = [
            f"frames    {self.n_frames}, with {size} atoms each, {self.n_atoms} in all",
            f"elements  {_join(self.elements)}",
            f"periodic  {_join(self.periodicity)}",
        ]
        if self.config_types:
            lines.append(f"types     {_join(self.config_types)}")
        if set(self.charges) - {0} or set(self.spin_multiplicities) - {1}:
            lines.append(f"charges   {_join(self.charges)}")
            lines.append(f"spins     {_join(self.spin_multiplicities)} (2S + 1)")
        lines += [self._describe_label(label) for label in self.n_labeled]
        for note, (count, first) in self.notes.items():
            lines.append(f"note      {count} x {note} (first: {first})")
        if self.unused_keys:
            shown = ", ".join(self.unused_keys[:_MOST_KEYS])
            n_more = len(self.unused_keys) - _MOST_KEYS
            more = f" and {n_more} more" if n_more > 0 else ""
            lines.append(f"unused    {shown}{more}")
        return "\n".join(lines)

    def _describe_label(self, label: str) -> str:
        n_labeled = self.n_labeled[label]
        text = f"{label:<9} {n_labeled} of {self.n_frames}"
        found = self.origins.get(label, {})
        if len(found) == 1:
            text += f", from {next(iter(found))}"
        elif found:
            text += f", from {_join(found)}"
        if label == "energy" and self.energy_per_atom_range:
            low, high = self.energy_per_atom_range
            text += f", {low:.4f} to {high:.4f} eV/atom"
        if label == "forces" and self.largest_force is not None:
            text += f", up to {self.largest_force:.3f} eV/A"
            text += f" (sum over a frame up to {self.largest_net_force:.2g})"
        if label == "stress" and self.pressure_range:
            low, high = self.pressure_range
            text += f", pressure {low:.3g} to {high:.3g} eV/A^3"
        return text


class CensusCounter:
    """Counts frames that come one by one, keeping none of them."""

    def __init__(self) -> None:
        self._n_frames = self._n_atoms = 0
        self._sizes, self._energies, self._pressures = _Range(), _Range(), _Range()
        self._forces, self._net_forces = _Range(), _Range()
        self._counts: dict[str, Counter] = {
            name: Counter()
            for name in ("elements", "pbc", "types", "charges", "spins", "labels")
        }
        self._origins: dict[str, Counter[str]] = {}
        self._notes: dict[str, tuple[int, str]] = {}
        self._keys: set[tuple[str, ...]] = set()

    def watch(self, frames: Iterable[LabeledFrame]) -> Iterator[LabeledFrame]:
        """Yield the frames, counting them on the way."""
        for frame in frames:
            self.add(frame)
            yield frame

    def add(self, frame: LabeledFrame) -> None:
        """Count one frame."""
        counts = self._counts
        self._n_frames += 1
        self._n_atoms += frame.n_atoms
        self._sizes.add(frame.n_atoms)
        numbers, each = np.unique(frame.numbers, return_counts=True)
        counts["elements"].update(dict(zip(numbers.tolist(), each, strict=True)))
        counts["pbc"]["".join("FT"[int(p)] for p in frame.pbc)] += 1
        if frame.config_type:
            counts["types"][frame.config_type] += 1
        counts["charges"][frame.charge] += 1
        counts["spins"][frame.spin_multiplicity] += 1
        counts["labels"].update(list(frame.extras))
        for label, origin in frame.origins.items():
            self._origins.setdefault(label, Counter())[origin] += 1
        for note in frame.notes:
            count, first = self._notes.get(note, (0, frame.source))
            self._notes[note] = (count + 1, first)
        self._keys.add(frame.keys)
        for label in ("energy", "forces", "stress", "direct_forces", "direct_stress"):
            counts["labels"][label] += getattr(frame, label) is not None
        # what has weight 0 is listed, but says nothing of the sizes
        if frame.weight > 0:
            self._add_sizes(frame)

    def _add_sizes(self, frame: LabeledFrame) -> None:
        """Take the labels of a frame into the ranges."""
        if frame.energy is not None:
            self._energies.add(frame.energy / frame.n_atoms)
        if frame.forces is not None:
            self._forces.add(float(np.linalg.norm(frame.forces, axis=1).max()))
            self._net_forces.add(float(np.linalg.norm(frame.forces.sum(axis=0))))
        if frame.stress is not None:
            self._pressures.add(-float(np.trace(frame.stress)) / 3)

    def build(self) -> LabelCensus:
        """Return what was counted so far."""
        counts = self._counts
        used = {origin for found in self._origins.values() for origin in found}
        keys = {key for key_list in self._keys for key in key_list}
        sizes = self._sizes.get() or (0, 0)
        labels = dict.fromkeys(("energy", "forces", "stress"), 0)
        # the others are shown only where there are some
        labels |= {label: n for label, n in counts["labels"].items() if n}
        return LabelCensus(
            n_frames=self._n_frames,
            n_atoms=self._n_atoms,
            atoms_range=(int(sizes[0]), int(sizes[1])),
            n_labeled=labels,
            origins={label: dict(found) for label, found in self._origins.items()},
            elements={
                chemical_symbols[z]: int(n) for z, n in _sort(counts["elements"])
            },
            periodicity=dict(_sort(counts["pbc"])),
            config_types=dict(_sort(counts["types"])),
            charges=dict(_sort(counts["charges"])),
            spin_multiplicities=dict(_sort(counts["spins"])),
            energy_per_atom_range=self._energies.get(),
            largest_force=self._forces.largest,
            largest_net_force=self._net_forces.largest,
            pressure_range=self._pressures.get(),
            notes=dict(self._notes),
            unused_keys=tuple(sorted(key for key in keys - used if not _is_known(key))),
        )


def _is_known(key: str) -> bool:
    """Return whether a key is no label, and another line of the census has it."""
    return key == "info['config_type']" or name_of(key) in PREDICTED_NAMES


class _Range:
    """Smallest and largest of the numbers so far."""

    def __init__(self) -> None:
        self.smallest: float | None = None
        self.largest: float | None = None

    def add(self, value: float) -> None:
        if self.smallest is None or value < self.smallest:
            self.smallest = value
        if self.largest is None or value > self.largest:
            self.largest = value

    def get(self) -> tuple[float, float] | None:
        if self.smallest is None or self.largest is None:
            return None
        return self.smallest, self.largest


def _sort(counts: Mapping[T, int]) -> list[tuple[T, int]]:
    return sorted(counts.items())


def _join(counts: Mapping[T, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items()) or "none"

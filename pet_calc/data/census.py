"""Count what a data set holds, so that nothing is missing or dropped unseen."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from ase.data import chemical_symbols

from pet_calc.data.frames import LabeledFrame

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
    def from_frames(cls, frames: Sequence[LabeledFrame]) -> "LabelCensus":
        """Build from frames; an empty list is allowed."""
        sizes = [frame.n_atoms for frame in frames]
        origins: dict[str, dict[str, int]] = {}
        notes: dict[str, tuple[int, str]] = {}
        for frame in frames:
            for label, origin in frame.origins.items():
                counts = origins.setdefault(label, {})
                counts[origin] = counts.get(origin, 0) + 1
            for note in frame.notes:
                count, first = notes.get(note, (0, frame.source))
                notes[note] = (count + 1, first)
        used = {origin for counts in origins.values() for origin in counts}
        keys = dict.fromkeys(key for keys in {f.keys for f in frames} for key in keys)
        energies = [f.energy / f.n_atoms for f in frames if f.energy is not None]
        forces = [f.forces for f in frames if f.forces is not None]
        stresses = [f.stress for f in frames if f.stress is not None]
        pressures = [-float(np.trace(stress)) / 3 for stress in stresses]
        return cls(
            n_frames=len(frames),
            n_atoms=sum(sizes),
            atoms_range=(min(sizes, default=0), max(sizes, default=0)),
            n_labeled={
                "energy": len(energies),
                "forces": len(forces),
                "stress": len(stresses),
                **Counter(name for frame in frames for name in frame.extras),
            },
            origins=origins,
            elements=_count_elements(frames),
            periodicity=_count(_format_pbc(frame) for frame in frames),
            config_types=_count(f.config_type for f in frames if f.config_type),
            charges=_count(frame.charge for frame in frames),
            spin_multiplicities=_count(frame.spin_multiplicity for frame in frames),
            energy_per_atom_range=_range(energies),
            largest_force=_largest_norm(forces),
            largest_net_force=_largest_norm([f.sum(axis=0)[None] for f in forces]),
            pressure_range=_range(pressures),
            notes=notes,
            unused_keys=tuple(sorted(set(keys) - used - {"info['config_type']"})),
        )

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


def _count_elements(frames: Sequence[LabeledFrame]) -> dict[str, int]:
    if not frames:
        return {}
    numbers = np.concatenate([frame.numbers for frame in frames])
    values, counts = np.unique(numbers, return_counts=True)
    return {chemical_symbols[v]: int(c) for v, c in zip(values, counts, strict=True)}


def _count(values: Iterable[T]) -> dict[T, int]:
    return dict(sorted(Counter(values).items()))


def _format_pbc(frame: LabeledFrame) -> str:
    return "".join("T" if periodic else "F" for periodic in frame.pbc)


def _range(values: list[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _largest_norm(vectors: Sequence[np.ndarray]) -> float | None:
    if not vectors:
        return None
    return max(float(np.linalg.norm(v, axis=1).max()) for v in vectors)


def _join(counts: Mapping[T, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items()) or "none"

"""Read frames and their labels from files, and refuse what cannot be used."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.data.files import Paths, describe_paths, iterate_atoms, name_source
from pet_calc.data.found_keys import check_configured_keys, warn_of_mixed_origins
from pet_calc.data.labels import (
    AUTOMATIC_KEYS,
    DEFAULT_UNITS,
    Array,
    LabelKeys,
    LabelSource,
    LabelUnits,
    TargetLabels,
    UnitFactors,
    extract_labels,
    list_keys,
)
from pet_calc.data.neighbors import check_cell, find_close_pair
from pet_calc.data.state import read_state
from pet_calc.errors import ConfigError, DataError

# nothing real is this close, Å; a doubled or a zeroed atom is
CLOSEST_DISTANCE = 0.05
# the target of labels of which nobody has said what they belong to
NO_NAME = ""

Indices = npt.NDArray[np.int64]

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps an iterable to show progress, such as ``tqdm.tqdm``."""


def _of_only_target(name: str) -> Any:
    """Return a property for a label of a frame that has those of one target."""

    def read(frame: "LabeledFrame") -> Any:
        return getattr(frame.only_labels, name)

    def write(frame: "LabeledFrame", value: Any) -> None:
        frame.labels = frame.relabel(**{name: value}).labels

    return property(read, write)


@dataclass
class LabeledFrame:
    """One frame with the labels it has, in eV, Å, eV/Å and eV/Å^3."""

    numbers: npt.NDArray[np.int64]
    """[n_atoms] atomic numbers."""
    positions: Array
    """[n_atoms, 3]."""
    cell: Array
    """[3, 3], rows are lattice vectors, as in the file."""
    pbc: npt.NDArray[np.bool_]
    """[3]."""
    labels: dict[str, TargetLabels] = field(
        default_factory=lambda: {NO_NAME: TargetLabels()}
    )
    """By target; ``NO_NAME`` where nobody has said what they belong to."""
    charge: int = 0
    """Total charge."""
    spin_multiplicity: int = 1
    """2S + 1."""
    weight: float = 1.0
    """Weight in the loss."""
    source: str = ""
    """Such as ``train.xyz, frame 12``; the index counts from 0, as ASE's ``@12``."""
    config_type: str = ""
    """What the file calls this kind of frame."""
    notes: tuple[str, ...] = ()
    """What was there but not used, and why."""
    keys: tuple[str, ...] = ()
    """Every key the file had for this frame."""
    atoms: Atoms | None = None
    """What the file holds, in its units; None unless it was asked for."""

    energy = _of_only_target("energy")
    forces = _of_only_target("forces")
    stress = _of_only_target("stress")
    direct_forces = _of_only_target("direct_forces")
    direct_stress = _of_only_target("direct_stress")
    extras = _of_only_target("extras")
    origins = _of_only_target("origins")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def only_labels(self) -> TargetLabels:
        """The labels of a frame that has those of one target."""
        (labels,) = self.labels.values()
        return labels

    def relabel(self, **changes: Any) -> "LabeledFrame":
        """Return a copy with other labels of its only target, such as ``energy``."""
        (name,) = self.labels
        return replace(self, labels={name: replace(self.only_labels, **changes)})

    def of_target(self, name: str) -> "LabeledFrame":
        """Return the frame with the labels of one of its targets."""
        if len(self.labels) == 1:
            return self
        own = self.labels[name]
        others = [other for other in self.labels if other != name]
        taken = {key for other in others for key in self.labels[other].origins.values()}
        taken -= set(own.origins.values())
        starts = tuple(_name_note(other, "") for other in others)
        return replace(
            self,
            labels={name: own},
            # what is read for another target is not left unread
            keys=tuple(key for key in self.keys if key not in taken),
            notes=tuple(
                note.removeprefix(_name_note(name, ""))
                for note in self.notes
                if not note.startswith(starts)
            ),
        )

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        *,
        keys: LabelKeys = AUTOMATIC_KEYS,
        factors: UnitFactors | None = None,
        source: str = "",
    ) -> "LabeledFrame":
        """Build from ASE's atoms, without the checks of ``check_geometry``."""
        factors = factors or DEFAULT_UNITS.compute_factors()
        return cls.from_table(atoms, {NO_NAME: (keys, factors)}, source)

    @classmethod
    def from_table(
        cls,
        atoms: Atoms,
        table: Mapping[str, tuple[LabelKeys, UnitFactors]],
        source: str,
    ) -> "LabeledFrame":
        """Build with the labels of several targets.

        Args:
            atoms: in the file's units.
            table: of each target, where its labels are and in which units; what is
                said there of charge, spin, weight and length is the same for all.
            source: of the frame.
        """
        keys, factors = next(iter(table.values()))
        state = read_state(
            atoms,
            charge=keys.charge,
            spin=keys.spin_multiplicity,
            weight=keys.weight,
            source=source,
        )
        labels = {}
        notes: list[str] = []
        for name, entry in table.items():
            own: list[str] = []
            labels[name] = extract_labels(atoms, *entry, source, own)
            labels[name].origins |= state.origins
            notes += own if len(table) == 1 else [_name_note(name, n) for n in own]
        return cls(
            numbers=np.array(atoms.numbers, dtype=np.int64),
            positions=atoms.get_positions() * factors.length,
            cell=np.array(atoms.cell, dtype=np.float64) * factors.length,
            pbc=np.array(atoms.pbc, dtype=bool),
            labels=labels,
            charge=state.charge,
            spin_multiplicity=state.spin_multiplicity,
            weight=state.weight,
            source=source,
            config_type=str(atoms.info.get("config_type", "")),
            notes=(*notes, *state.notes),
            keys=tuple(list_keys(atoms)),
        )

    def to_atoms(self) -> Atoms:
        """Return ASE's atoms, with the labels as a ``SinglePointCalculator``."""
        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info["charge"] = self.charge
        atoms.info["spin_multiplicity"] = self.spin_multiplicity
        if self.config_type:
            atoms.info["config_type"] = self.config_type
        results: dict[str, Any] = {}
        if self.energy is not None:
            results["energy"] = self.energy
        if self.forces is not None:
            results["forces"] = self.forces
        if self.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(self.stress)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


def _name_note(target: str, note: str) -> str:
    """Return a note on the labels of one of several targets."""
    return f"{target}: {note}"


def iterate_frames(
    paths: Paths,
    labels: Mapping[str, LabelSource],
    *,
    index: str = ":",
    weight: float = 1.0,
    keeps_atoms: bool = False,
    elements: Sequence[str] = (),
    on_broken: Callable[[LabeledFrame, DataError], None] | None = None,
) -> Iterator[LabeledFrame]:
    """Yield the frames of one or many files that ASE can read, one by one.

    Args:
        paths: files, globs, or ASE's ``file.xyz@0:10``, in the order given.
        labels: of each target, where its labels are.
        index: which frames of each file, as ASE writes it.
        weight: multiplies the weight of every frame.
        keeps_atoms: give each frame what the file has, see ``LabeledFrame.atoms``.
        elements: of the atom types in dumps of LAMMPS, in order.
        on_broken: called with a frame that makes no sense and why, and the frame left
            out; without it, that is an error.

    Raises:
        DataError: no file or no frame, a file ASE cannot read, or a frame that
            makes no sense; names file and frame. After the last frame, a configured
            key that was in no frame.
    """
    table = {
        name: (source.keys, source.units.compute_factors())
        for name, source in labels.items()
    }
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    origins: dict[str, dict[str, set[str]]] = {name: {} for name in table}
    n_frames = 0
    for read in iterate_atoms(paths, index, elements):
        n_frames += 1
        source = name_source(read.file, read.number)
        frame = LabeledFrame.from_table(read.atoms, table, source)
        frame.notes += read.notes
        if keeps_atoms:
            frame.atoms = read.atoms
        try:
            check_geometry(frame)
        except DataError as error:
            if on_broken is None:
                raise
            on_broken(frame, error)
            continue
        frame.weight *= weight
        # the same few key lists for all frames: share them
        frame.keys = shared.setdefault(frame.keys, frame.keys)
        for name, found in frame.labels.items():
            for label, origin in found.origins.items():
                origins[name].setdefault(label, set()).add(origin)
        yield frame
    if n_frames == 0:
        raise DataError(f"no frames in {describe_paths(paths)} with index {index!r}")
    present = sorted({key for key_list in shared for key in key_list})
    for name, source_of_labels in labels.items():
        check_configured_keys(present, source_of_labels.keys, describe_paths(paths))
        warn_of_mixed_origins(origins[name])


def read_frames(
    paths: Paths,
    *,
    keys: LabelKeys = AUTOMATIC_KEYS,
    units: LabelUnits = DEFAULT_UNITS,
    index: str = ":",
    weight: float = 1.0,
    progress: Progress | None = None,
) -> list[LabeledFrame]:
    """Return what ``iterate_frames`` yields; ``progress`` wraps the iteration."""
    frames: Iterable[LabeledFrame] = iterate_frames(
        paths, {NO_NAME: LabelSource(keys, units)}, index=index, weight=weight
    )
    return list(progress(frames) if progress else frames)


def split_indices(
    n_frames: int, fractions: tuple[float, float, float], *, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Return the indices of training, validation and test frames, each ascending.

    They are drawn without replacement; the same number, fractions and seed give the
    same split. A fraction above zero gives at least one frame.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise ConfigError(
            f"the fractions for training, validation and test must be at least 0 and "
            f"add up to 1, got {fractions}"
        )
    n_validation, n_test = (
        max(1, round(fraction * n_frames)) if fraction > 0 else 0
        for fraction in fractions[1:]
    )
    n_train = n_frames - n_validation - n_test
    if n_train < 0 or (fractions[0] > 0 and n_train == 0):
        raise DataError(
            f"{n_frames} frames are too few to split them by {fractions}; give more "
            "frames, or separate files"
        )
    order = np.random.default_rng(seed).permutation(n_frames)
    ends = np.cumsum([n_train, n_validation])
    train, validation, test = (np.sort(part) for part in np.split(order, ends))
    return train, validation, test


def check_geometry(frame: LabeledFrame) -> None:
    """Raise ``DataError`` for a frame that no model could serve."""
    if frame.n_atoms == 0:
        raise DataError(f"{frame.source}: has no atoms; remove the frame")
    bad = ~np.isfinite(frame.positions).all(axis=1)
    if bad.any():
        raise DataError(
            f"{frame.source}: the position of atom {int(bad.argmax())} is not finite"
        )
    try:
        check_cell(frame.cell, frame.pbc)
        pair = find_close_pair(frame.positions, frame.cell, frame.pbc, CLOSEST_DISTANCE)
    except DataError as error:
        raise DataError(f"{frame.source}: {error}") from error
    if pair is not None:
        i, j, distance = pair
        names = [chemical_symbols[frame.numbers[k]] for k in (i, j)]
        raise DataError(
            f"{frame.source}: atoms {i} ({names[0]}) and {j} ({names[1]}) are "
            f"{distance:.3g} A apart, less than {CLOSEST_DISTANCE} A; remove the "
            "frame, or set the length unit"
        )


def check_elements(frames: Iterable[LabeledFrame], atomic_types: Sequence[int]) -> None:
    """Raise ``DataError`` if a frame has an element outside ``atomic_types``.

    Names each such element, in how many frames it is, and the first of them.
    """
    known = set(atomic_types)
    found: dict[int, tuple[int, str]] = {}
    for frame in frames:
        for number in set(frame.numbers.tolist()) - known:
            count, first = found.get(number, (0, frame.source))
            found[number] = (count + 1, first)
    if found:
        listed = "; ".join(
            f"{chemical_symbols[number]} ({count} frames, first {first})"
            for number, (count, first) in sorted(found.items())
        )
        raise DataError(
            f"elements that the model does not know: {listed}; it knows "
            f"{', '.join(chemical_symbols[number] for number in sorted(known))}"
        )

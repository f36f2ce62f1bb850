"""Read frames and their labels from files, and refuse what cannot be used."""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.data.files import Paths, describe_paths, iterate_atoms, name_source
from pet_calc.data.labels import (
    AUTOMATIC_KEYS,
    DEFAULT_UNITS,
    Array,
    LabelKeys,
    LabelUnits,
    UnitFactors,
    extract_labels,
    list_keys,
)
from pet_calc.data.neighbors import check_cell, find_close_pair
from pet_calc.errors import ConfigError, DataError

# nothing real is this close, Å; a doubled or a zeroed atom is
CLOSEST_DISTANCE = 0.05

logger = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps an iterable to show progress, such as ``tqdm.tqdm``."""


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
    energy: float | None = None
    """Total energy."""
    forces: Array | None = None
    """[n_atoms, 3]."""
    stress: Array | None = None
    """[3, 3], positive in tension."""
    direct_forces: Array | None = None
    """[n_atoms, 3], of a direct head that has labels of its own."""
    direct_stress: Array | None = None
    """[3, 3], likewise."""
    charge: int = 0
    """Total charge."""
    spin_multiplicity: int = 1
    """2S + 1."""
    weight: float = 1.0
    """Weight in the loss."""
    target: str = ""
    """Target that the labels belong to; empty where nobody has said."""
    source: str = ""
    """Such as ``train.xyz, frame 12``; the index counts from 0, as ASE's ``@12``."""
    config_type: str = ""
    """What the file calls this kind of frame."""
    extras: dict[str, Array] = field(default_factory=dict)
    """Further labels by target name, in the file's units."""
    origins: dict[str, str] = field(default_factory=dict)
    """Where each label was found, such as ``info['REF_energy']``."""
    notes: tuple[str, ...] = ()
    """What was there but not used, and why."""
    keys: tuple[str, ...] = ()
    """Every key the file had for this frame."""
    atoms: Atoms | None = None
    """What the file holds, in its units; None unless it was asked for."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

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
        frame = cls(
            numbers=np.array(atoms.numbers, dtype=np.int64),
            positions=atoms.get_positions() * factors.length,
            cell=np.array(atoms.cell, dtype=np.float64) * factors.length,
            pbc=np.array(atoms.pbc, dtype=bool),
            source=source,
            config_type=str(atoms.info.get("config_type", "")),
            keys=tuple(list_keys(atoms)),
        )
        labels = extract_labels(atoms, keys, factors, source)
        frame.energy = labels.energy
        frame.forces = labels.forces
        frame.stress = labels.stress
        frame.direct_forces = labels.direct_forces
        frame.direct_stress = labels.direct_stress
        frame.charge = labels.charge
        frame.spin_multiplicity = labels.spin_multiplicity
        frame.weight = labels.weight
        frame.extras = labels.extras
        frame.origins = labels.origins
        frame.notes = tuple(labels.notes)
        return frame

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


def iterate_frames(
    paths: Paths,
    *,
    keys: LabelKeys = AUTOMATIC_KEYS,
    units: LabelUnits = DEFAULT_UNITS,
    index: str = ":",
    weight: float = 1.0,
    keeps_atoms: bool = False,
) -> Iterator[LabeledFrame]:
    """Yield the frames of one or many files that ASE can read, one by one.

    Args:
        paths: files, globs, or ASE's ``file.xyz@0:10``, in the order given.
        keys: where the labels are.
        units: the files' units.
        index: which frames of each file, as ASE writes it.
        weight: multiplies the weight of every frame.
        keeps_atoms: give each frame what the file has, see ``LabeledFrame.atoms``.

    Raises:
        DataError: no file or no frame, a file ASE cannot read, or a frame that
            makes no sense; names file and frame. After the last frame, a configured
            key that was in no frame.
    """
    factors = units.compute_factors()
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    origins: dict[str, set[str]] = {}
    n_frames = 0
    for read in iterate_atoms(paths, index):
        frame = LabeledFrame.from_atoms(
            read.atoms,
            keys=keys,
            factors=factors,
            source=name_source(read.file, read.number),
        )
        frame.notes += read.notes
        if keeps_atoms:
            frame.atoms = read.atoms
        check_geometry(frame)
        frame.weight *= weight
        # the same few key lists for all frames: share them
        frame.keys = shared.setdefault(frame.keys, frame.keys)
        for label, origin in frame.origins.items():
            origins.setdefault(label, set()).add(origin)
        n_frames += 1
        yield frame
    if n_frames == 0:
        raise DataError(f"no frames in {describe_paths(paths)} with index {index!r}")
    present = sorted({key for key_list in shared for key in key_list})
    _check_configured_keys(present, keys, describe_paths(paths))
    _warn_of_mixed_origins(origins)


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
        paths, keys=keys, units=units, index=index, weight=weight
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


def _check_configured_keys(present: list[str], keys: LabelKeys, files: str) -> None:
    wanted = {
        "energy": keys.energy,
        "forces": keys.forces,
        "stress": keys.stress,
        "virial": keys.virial,
        "direct forces": keys.direct_forces,
        "direct stress": keys.direct_stress,
        "charge": keys.charge,
        "spin_multiplicity": keys.spin_multiplicity,
        "weight": keys.weight,
        **keys.extras,
    }
    names = sorted({key[key.index("[") + 2 : -2] for key in present})
    for label, key in wanted.items():
        if key and not any(entry.endswith(f"[{key!r}]") for entry in present):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DataError(
                f"no frame of {files} has {key!r}, the key for {label}{hint}; keys "
                f"there are: {', '.join(present) or 'none'}"
            )


def _warn_of_mixed_origins(origins: dict[str, set[str]]) -> None:
    for label in ("energy", "forces", "stress"):
        found = sorted(origins.get(label, ()))
        if len(found) > 1:
            logger.warning(
                "%s comes from %s in different frames; set its key if these are not "
                "the same level of theory",
                label,
                " and ".join(found),
            )

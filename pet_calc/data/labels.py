"""Find energy, forces and stress on ``ase.Atoms``, and bring them to eV and Å.

A label may sit in the calculator's results, in ``info`` or in ``arrays``. A configured
key is the only one looked at; without one, ``REF_*`` names win over plain ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms

from pet_calc.data.advice import advise
from pet_calc.data.near_names import PREDICTED_PREFIX
from pet_calc.data.notes import NOT_FINITE, NOT_SYMMETRIC, PREDICTED
from pet_calc.data.places import Array, Found, Key, find, list_keys, name_of, to_floats
from pet_calc.data.state import read_charge_and_spin
from pet_calc.errors import ConfigError, DataError
from pet_calc.units import energy_factor, force_factor, length_factor, stress_factor

__all__ = [
    "AUTOMATIC_KEYS",
    "DEFAULT_UNITS",
    "NO_LABELS",
    "PREDICTED_BY",
    "Array",
    "Key",
    "LabelKeys",
    "LabelSource",
    "LabelUnits",
    "TargetLabels",
    "UnitFactors",
    "extract_labels",
    "list_keys",
    "read_charge_and_spin",
]

PREDICTED_BY = f"{PREDICTED_PREFIX}model"
"""Where ``eval`` writes, in ``info``, whose predictions a file holds."""

# REF_* first: the plain names may hold what another calculator has left there
ENERGY_NAMES = ("REF_energy", "energy")
FORCES_NAMES = ("REF_forces", "REF_force", "forces", "force")
DIRECT_FORCES_NAMES = (
    "non_conservative_force",
    "non_conservative_forces",
    *FORCES_NAMES,
)
DIRECT_STRESS_NAMES = ("non_conservative_stress", "REF_stress", "stress")
STRESS_TIERS = (
    ("REF_stress", ("REF_virial", "REF_virials")),
    ("stress", ("virial", "virials")),
)
# of MACE, for a label of a frame; "virials" goes with the stress
LABEL_WEIGHTS = {
    "energy": ("config_energy_weight",),
    "forces": ("config_forces_weight",),
    "stress": ("config_stress_weight", "config_virials_weight"),
}

# how far a stress and a virial of the same frame may differ, relative and in eV/Å^3
CONTRADICTION = (0.02, 1e-5)
# a stress less symmetric than this (relative) is counted before it is symmetrised
ASYMMETRY = 0.01


@dataclass(frozen=True)
class LabelKeys:
    """Where the labels are; None looks the usual names up, False reads none."""

    energy: Key = None
    """Total energy of the frame."""
    forces: Key = None
    """[n_atoms, 3]."""
    stress: Key = None
    """3x3, 9 or 6 numbers (xx yy zz yz xz xy)."""
    virial: Key = None
    """3x3, 9 or 6 numbers, -stress * volume."""
    charge: Key = None
    """Total charge, a whole number."""
    spin_multiplicity: Key = None
    """2S + 1, a whole number."""
    direct_forces: Key = False
    """As the forces, of a direct head that has labels of its own."""
    direct_stress: Key = False
    """As the stress, likewise."""
    weight: Key = None
    """Weight of the frame in the loss."""
    extras: Mapping[str, str] = field(default_factory=dict)
    """Further labels by the name to store them under; not converted."""


@dataclass(frozen=True)
class LabelUnits:
    """The units of the file, and the sign of its stress."""

    energy: str = "eV"
    """Unit of the energy."""
    length: str = "A"
    """Unit of positions and cell."""
    forces: str | None = None
    """Unit of the forces; None means energy/length."""
    stress: str | None = None
    """Unit of the stress; None means energy/length^3."""
    virial: str | None = None
    """Unit of the virial, an energy; None means that of the energy."""
    direct_forces: str | None = None
    """Unit of a direct head's forces; None means energy/length."""
    direct_stress: str | None = None
    """Unit of a direct head's stress; None means energy/length^3."""
    stress_sign: Literal[1, -1] = 1
    """-1 for a stress positive in compression (VASP)."""
    virial_sign: Literal[1, -1] | None = None
    """-1 for a virial of +stress * volume; None means that of the stress."""

    def compute_factors(self) -> "UnitFactors":
        """Return the factors to eV and Å; an unknown unit raises ``ConfigError``."""
        virial_sign = self.stress_sign if self.virial_sign is None else self.virial_sign
        for name, sign in (("stress", self.stress_sign), ("virial", virial_sign)):
            if sign not in (1, -1):
                raise ConfigError(f"{name}_sign must be 1 or -1, got {sign!r}")
        energy, length = energy_factor(self.energy), length_factor(self.length)
        forces = energy / length
        stress = energy / length**3
        return UnitFactors(
            energy=energy,
            length=length,
            forces=force_factor(self.forces) if self.forces else forces,
            stress=self.stress_sign
            * (stress_factor(self.stress) if self.stress else stress),
            virial=virial_sign
            * (energy_factor(self.virial) if self.virial else energy),
            direct_forces=(
                force_factor(self.direct_forces) if self.direct_forces else forces
            ),
            direct_stress=(
                stress_factor(self.direct_stress) if self.direct_stress else stress
            ),
        )


AUTOMATIC_KEYS = LabelKeys()
NO_LABELS = LabelKeys(
    energy=False, forces=False, stress=False, virial=False, weight=False
)
DEFAULT_UNITS = LabelUnits()


class UnitFactors(NamedTuple):
    """What a number of the file is multiplied with; stress and virial with sign."""

    energy: float
    length: float
    forces: float
    stress: float
    virial: float
    direct_forces: float
    direct_stress: float


@dataclass
class TargetLabels:
    """What a frame is labelled with for one target, in eV, Å, eV/Å and eV/Å^3."""

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
    extras: dict[str, Array] = field(default_factory=dict)
    """Further labels by name, in the file's units."""
    origins: dict[str, str] = field(default_factory=dict)
    """Where each label was found, such as ``info['REF_energy']``."""


class LabelSource(NamedTuple):
    """Where a file has the labels of a target, and in which units."""

    keys: LabelKeys = AUTOMATIC_KEYS
    units: LabelUnits = DEFAULT_UNITS


def extract_labels(
    atoms: Atoms, keys: LabelKeys, factors: UnitFactors, source: str, notes: list[str]
) -> TargetLabels:
    """Return what ``atoms`` is labelled with.

    A label that is absent, NaN or infinite is None. A label of the wrong shape, or a
    stress and a virial that contradict each other, raise ``DataError`` naming
    ``source``. ``atoms`` is still in the file's units.

    Args:
        atoms: to look at.
        keys: where the labels are.
        factors: of the file's units.
        source: of the frame, for messages.
        notes: gets what was there but not used, and why.
    """
    labels = TargetLabels()
    energy = find(atoms, keys.energy, ENERGY_NAMES, ("results", "info"))
    if energy is not None:
        numbers = to_floats(energy, (1,), source)
        if _note_if_not_finite(numbers, "energy", notes):
            labels.energy = float(numbers[0]) * factors.energy
            labels.origins["energy"] = energy.origin
    forces = find(atoms, keys.forces, FORCES_NAMES, ("results", "arrays"))
    if forces is not None:
        numbers = to_floats(forces, (len(atoms), 3), source)
        if _note_if_not_finite(numbers, "forces", notes):
            labels.forces = numbers * factors.forces
            labels.origins["forces"] = forces.origin
    _extract_stress(atoms, keys, factors, source, labels, notes)
    _extract_direct(atoms, keys, factors, source, labels, notes)
    if keys.weight is not False:
        _apply_label_weights(atoms, labels, notes)
    for name, key in keys.extras.items():
        extra = find(atoms, key, (), ())
        if extra is not None:
            numbers = to_floats(extra, None, source)
            if _note_if_not_finite(numbers, name, notes):
                labels.extras[name] = numbers
                labels.origins[name] = extra.origin
    _note_predictions(atoms, labels, notes)
    return labels


def _note_if_not_finite(numbers: Array, name: str, notes: list[str]) -> bool:
    """Return whether all ``numbers`` are finite, leaving a note if not."""
    is_finite = bool(np.isfinite(numbers).all())
    if not is_finite:
        notes.append(f"{name} {NOT_FINITE}")
    return is_finite


def _apply_label_weights(atoms: Atoms, labels: TargetLabels, notes: list[str]) -> None:
    """Leave out labels of weight 0; note other weights, which are not read."""
    for label, names in LABEL_WEIGHTS.items():
        for name in names:
            weight = atoms.info.get(name)
            if weight is None or getattr(labels, label) is None:
                continue
            if weight == 0:
                setattr(labels, label, None)
                del labels.origins[label]
                notes.append(
                    f"{label} has weight 0 (info[{name!r}]), treated as missing"
                )
            elif weight != 1:
                notes.append(
                    f"info[{name!r}] not read; weights of labels are set for all "
                    "frames together, in the loss"
                )


def _note_predictions(atoms: Atoms, labels: TargetLabels, notes: list[str]) -> None:
    """Note predictions of ours, and labels that are such."""
    model = atoms.info.get(PREDICTED_BY)
    taken = [
        origin
        for origin in labels.origins.values()
        if f"[{PREDICTED_PREFIX!r}"[:-1] in origin
    ]
    for origin in taken:
        notes.append(f"{origin} {PREDICTED} (of {model or 'an unknown model'})")
    if model is not None and not taken:
        notes.append(
            f"predictions of {model} under {PREDICTED_PREFIX}*, which are no labels"
        )


def _extract_stress(
    atoms: Atoms,
    keys: LabelKeys,
    factors: UnitFactors,
    source: str,
    labels: TargetLabels,
    notes: list[str],
) -> None:
    stress, virial = _find_stress_and_virial(atoms, keys)
    if stress is None and virial is None:
        return
    if not all(atoms.pbc):
        notes.append("stress of a frame not periodic in 3 directions, ignored")
        return
    candidates: dict[str, Array] = {}
    if stress is not None:
        tensor = _to_tensor(stress, source, notes)
        if _note_if_not_finite(tensor, "stress", notes):
            candidates[stress.origin] = tensor * factors.stress
    if virial is not None:
        tensor = _to_tensor(virial, source, notes)
        volume = atoms.get_volume() * factors.length**3
        if volume > 0 and _note_if_not_finite(tensor, "virial", notes):
            candidates[virial.origin] = -tensor * factors.virial / volume
    if len(candidates) == 2:
        _check_agreement(candidates, source)
    for origin, tensor in candidates.items():
        labels.stress = tensor
        labels.origins["stress"] = origin
        break  # the stress itself comes before the virial


def _extract_direct(
    atoms: Atoms,
    keys: LabelKeys,
    factors: UnitFactors,
    source: str,
    labels: TargetLabels,
    notes: list[str],
) -> None:
    """Read the labels of direct heads."""
    forces = find(atoms, keys.direct_forces, DIRECT_FORCES_NAMES, ("results", "arrays"))
    if forces is not None:
        numbers = to_floats(forces, (len(atoms), 3), source)
        if _note_if_not_finite(numbers, "direct forces", notes):
            labels.direct_forces = numbers * factors.direct_forces
            labels.origins["direct_forces"] = forces.origin
    stress = find(atoms, keys.direct_stress, DIRECT_STRESS_NAMES, ("results", "info"))
    # of one that is not periodic in three directions `_extract_stress` has its note
    if stress is not None and all(atoms.pbc):
        tensor = _to_tensor(stress, source, notes)
        if _note_if_not_finite(tensor, "direct stress", notes):
            labels.direct_stress = tensor * factors.direct_stress
            labels.origins["direct_stress"] = stress.origin


def _find_stress_and_virial(
    atoms: Atoms, keys: LabelKeys
) -> tuple[Found | None, Found | None]:
    if keys.stress or keys.virial:
        # a configured one switches the automatic look-up of the other off
        return (
            find(atoms, keys.stress or False, (), ()),
            find(atoms, keys.virial or False, (), ()),
        )
    for stress_name, virial_names in STRESS_TIERS:
        stress = find(atoms, keys.stress, (stress_name,), ("results", "info"))
        virial = find(atoms, keys.virial, virial_names, ("results", "info"))
        if stress is not None or virial is not None:
            return stress, virial
    return None, None


def _to_tensor(found: Found, source: str, notes: list[str]) -> Array:
    """Return [3, 3] from 3x3, 9 or Voigt-6 numbers, symmetrised."""
    size = np.size(found.value)
    if size == 6:
        xx, yy, zz, yz, xz, xy = to_floats(found, (6,), source)
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if size != 9:
        raise DataError(
            f"{source}: {found.origin} has {size} numbers, expected 3x3, 9, or 6 in "
            "the order xx yy zz yz xz xy"
        )
    tensor = to_floats(found, (3, 3), source)
    symmetric = 0.5 * (tensor + tensor.T)
    if np.abs(tensor - symmetric).max() > ASYMMETRY * np.abs(tensor).max():
        notes.append(f"{found.origin} {NOT_SYMMETRIC}")
    return symmetric


def _check_agreement(candidates: dict[str, Array], source: str) -> None:
    (name, stress), (other_name, other) = candidates.items()
    relative, absolute = CONTRADICTION
    limit = relative * max(np.abs(stress).max(), np.abs(other).max()) + absolute
    if np.abs(stress - other).max() > limit:
        raise DataError(
            f"{source}: {name} says xx = {stress[0, 0]:.6g} eV/A^3 but {other_name} "
            f"says {other[0, 0]:.6g} (stress = -virial/volume); name the right one: "
            f"{advise(stress_key=name_of(name))}, or "
            f"{advise(virial_key=name_of(other_name))}; or correct unit and sign"
        )

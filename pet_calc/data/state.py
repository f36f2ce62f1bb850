"""Read charge, spin multiplicity and weight of a frame, and say what may hold them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms

from pet_calc.data.near_names import find_near
from pet_calc.data.notes import MAY_HOLD, NO_WEIGHT, NOT_WHOLE
from pet_calc.data.places import Found, Key, find, to_floats
from pet_calc.errors import DataError

logger = logging.getLogger(__name__)

CHARGE_NAMES = ("charge", "total_charge")
SPIN_NAMES = ("spin_multiplicity", "spin", "multiplicity")
# of MACE; a plain `weight` may be that of the molecule
WEIGHT_NAMES = ("config_weight",)
# sums of partial charges are this far from whole numbers
WHOLE = 1e-3


@dataclass
class FrameState:
    """What a frame is besides its atoms, and how much it counts."""

    charge: int = 0
    spin_multiplicity: int = 1
    weight: float = 1.0
    origins: dict[str, str] = field(default_factory=dict)
    """Where each was found."""
    notes: list[str] = field(default_factory=list)
    """What was there but not used."""


def read_state(
    atoms: Atoms, *, charge: Key, spin: Key, weight: Key, source: str
) -> FrameState:
    """Return charge, spin multiplicity and weight.

    What is found under a usual name and is no whole number is left out with a note:
    models without conditioning do not ask for it. Under a configured key it is an
    error.

    Args:
        atoms: in the file's units.
        charge: key of the total charge.
        spin: key of the multiplicity.
        weight: key of the weight.
        source: of the frame, for messages.

    Raises:
        DataError: for values that make no sense.
    """
    state = FrameState()
    found = find(atoms, charge, CHARGE_NAMES, ("info",))
    if found is not None:
        number = _to_whole_number(found, charge, "charge", source, state)
        if number is not None:
            state.charge = number
            state.origins["charge"] = found.origin
    elif charge is None:
        _note_near("charge", "initial_charges", atoms, state)
    found = find(atoms, spin, SPIN_NAMES, ("info",))
    if found is not None:
        _take_spin(found, spin, source, state)
    elif spin is None:
        _note_near("spin", "initial_magmoms", atoms, state)
    found = find(atoms, weight, WEIGHT_NAMES, ("info",))
    if found is not None:
        state.weight = float(to_floats(found, (1,), source)[0])
        state.origins["weight"] = found.origin
        if not (np.isfinite(state.weight) and state.weight >= 0):
            raise DataError(
                f"{source}: {found.origin} is {state.weight}, expected a finite "
                "weight of at least 0"
            )
        if state.weight == 0:
            state.notes.append(f"{found.origin} {NO_WEIGHT}")
    elif weight is None:
        _note_near("weight", None, atoms, state)
    return state


def read_charge_and_spin(atoms: Atoms) -> tuple[int, int]:
    """Return total charge (else 0) and spin multiplicity (else 1) from ``info``.

    Warns, once, of another key that may hold them.

    Raises:
        DataError: for what is no whole number.
    """
    state = read_state(atoms, charge=None, spin=None, weight=False, source="atoms")
    for note in state.notes:
        if NOT_WHOLE in note:
            raise DataError(f"atoms: {note}; expected a whole number in info")
        if MAY_HOLD in note:
            _warn_once(f"{note}; set info['charge'] and info['spin'] (2S + 1)")
    return state.charge, state.spin_multiplicity


def give_usual_names(atoms: Atoms) -> Atoms:
    """Return atoms whose ``info`` has charge and spin under the names metatomic reads.

    They are the same atoms unless ``info`` has another of our names.
    """
    others = {*CHARGE_NAMES, *SPIN_NAMES} - {"charge", "spin", "spin_multiplicity"}
    if not others & atoms.info.keys():
        return atoms
    named = atoms.copy()
    for key, names in (("charge", CHARGE_NAMES), ("spin_multiplicity", SPIN_NAMES)):
        found = find(atoms, None, names, ("info",))
        if found is not None:
            # as it is: a model that reads it refuses what is no whole number
            named.info[key] = found.value
    return named


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    logger.warning("atoms: %s", text)


def _take_spin(found: Found, key: Key, source: str, state: FrameState) -> None:
    number = _to_whole_number(found, key, "spin", source, state)
    if number is None:
        return
    # data sets that mix molecules with bulk write 0 where it means nothing
    if number == 0 and key is None:
        number = 1
        state.notes.append(f"{found.origin} of 0, taken as 1")
    if number < 1:
        text = f"{found.origin} is {number}, expected the multiplicity 2S + 1"
        if key is not None:
            raise DataError(f"{source}: {text}, at least 1")
        state.notes.append(f"spin {NOT_WHOLE} above 0: {text}; taken as 1")
        return
    state.spin_multiplicity = number
    state.origins["spin_multiplicity"] = found.origin


def _to_whole_number(
    found: Found, key: Key, what: str, source: str, state: FrameState
) -> int | None:
    """Return the whole number; None, with a note, if it is none."""
    try:
        number = float(np.asarray(found.value, dtype=np.float64).item())
    except (TypeError, ValueError):
        number = float("nan")
    if np.isfinite(number) and abs(number - round(number)) <= WHOLE:
        return round(number)
    if key is not None:
        raise DataError(
            f"{source}: {found.origin} is {found.value!r}, expected a whole number; "
            "name another key, or none to look for the usual names"
        )
    default = "0" if what == "charge" else "1"
    state.notes.append(
        f"{what} {NOT_WHOLE}: {found.origin} is {found.value!r}; taken as {default}"
    )
    return None


def _note_near(what: str, array: str | None, atoms: Atoms, state: FrameState) -> None:
    """Note what may hold an input that was found under none of the usual names."""
    if not atoms.info and array not in atoms.arrays:
        return
    near = [
        key
        for key in find_near(what, [f"info[{name!r}]" for name in atoms.info])
        if _may_count(atoms.info, key)
    ]
    values = None if array is None else atoms.arrays.get(array)
    if values is not None and abs(float(np.sum(values))) > WHOLE:
        near.append(f"arrays[{array!r}] (initial values, not summing to 0)")
    if near:
        state.notes.append(f"{what} {MAY_HOLD} {', '.join(near)}")


def _may_count(info: Mapping[str, Any], key: str) -> bool:
    """Return whether a value is one number other than 0, which is the default."""
    value = info[key[len("info['") : -2]]
    if isinstance(value, bool | np.bool_ | str) or np.size(value) != 1:
        return False
    try:
        return float(np.asarray(value, dtype=np.float64).item()) != 0.0
    except (TypeError, ValueError):
        return False

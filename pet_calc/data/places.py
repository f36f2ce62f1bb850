"""Look up what ``ase.Atoms`` holds: the calculator's results, ``info``, ``arrays``."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from ase import Atoms

from pet_calc.errors import DataError

Key: TypeAlias = str | Literal[False] | None
"""A name to read; None looks the usual names up; False reads nothing."""

Array: TypeAlias = npt.NDArray[np.float64]

PLACES = ("results", "info", "arrays")

_STANDARD = {"numbers", "positions", "masses", "tags", "initial_magmoms"}


class Found(NamedTuple):
    """A value, and where it was."""

    value: Any
    origin: str
    """Such as ``info['REF_energy']``."""

    @property
    def name(self) -> str:
        """The key alone, such as ``REF_energy``."""
        return name_of(self.origin)


def find(
    atoms: Atoms, key: Key, automatic: Sequence[str], places: Sequence[str]
) -> Found | None:
    """Return the configured key's value, or that of the first automatic name.

    Args:
        atoms: to look at.
        key: the only one looked at, in all places, unless it is None.
        automatic: names to look up without a key, the first found wins.
        places: where these are looked up, of ``PLACES``.
    """
    if key is False:
        return None
    # a configured key is never replaced by another one: it may mean another level
    # of theory
    names, where = (automatic, places) if key is None else ((key,), PLACES)
    for name in names:
        for place in where:
            value = get_place(atoms, place).get(name)
            if value is not None:
                return Found(value, f"{place}[{name!r}]")
    return None


def get_place(atoms: Atoms, place: str) -> Mapping[str, Any]:
    """Return what one of ``PLACES`` holds."""
    if place == "results":
        return {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    return atoms.info if place == "info" else atoms.arrays


def list_keys(atoms: Atoms) -> list[str]:
    """Return every key that could hold a label, such as ``info['U0']``."""
    return [
        f"{place}[{key!r}]"
        for place in PLACES
        for key in get_place(atoms, place)
        if not (place == "arrays" and key in _STANDARD)
    ]


def name_of(origin: str) -> str:
    """Return ``U0`` for ``info['U0']``."""
    return origin[origin.index("[") + 2 : -2]


def to_floats(found: Found, shape: tuple[int, ...] | None, source: str) -> Array:
    """Return a value as an array.

    Args:
        found: the value.
        shape: that it must have; None takes any.
        source: of the frame, for the message.

    Raises:
        DataError: if it is not numeric, or of another size.
    """
    try:
        numbers = np.array(found.value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{source}: {found.origin} is not numeric: {found.value!r}"
        ) from error
    if shape is None:
        return numbers
    if numbers.size != int(np.prod(shape)):
        raise DataError(
            f"{source}: {found.origin} has shape {numbers.shape}, expected {shape}; "
            "name another key for this label, or take it out of the file"
        )
    return numbers.reshape(shape)

"""Predictions beside what a file holds, under names that no reader takes for labels."""

import logging
from functools import lru_cache
from typing import Any

from ase import Atoms

from pet_calc.data.labels import PREDICTED_BY
from pet_calc.data.near_names import PREDICTED_NAMES, PREDICTED_PREFIX

logger = logging.getLogger(__name__)

PER_ATOM = ("forces", "energies_uncertainty")

# of extended XYZ itself
_RESERVED = ("Lattice", "Properties", "pbc")


def add_predictions(atoms: Atoms, predictions: dict[str, Any], model: str) -> Atoms:
    """Return a copy with predictions under ``pet_energy``, ``pet_forces``, ...

    All else stays as it is; predictions of an earlier ``eval`` are replaced.

    Args:
        atoms: as the file has it, labels included.
        predictions: by name without the prefix, in eV and Å; ``PER_ATOM`` have a row
            for each atom.
        model: goes into ``info['pet_model']``.
    """
    calculator = atoms.calc
    atoms = atoms.copy()
    atoms.calc = calculator
    before = atoms.info.get(PREDICTED_BY)
    if before is not None and before != model:
        _warn_once(f"predictions of {before} are replaced")
    for place in (atoms.info, atoms.arrays):
        for name in [name for name in place if _is_ours(name)]:
            del place[name]
    for name, value in predictions.items():
        place = atoms.arrays if name in PER_ATOM else atoms.info
        place[f"{PREDICTED_PREFIX}{name}"] = value
    atoms.info[PREDICTED_BY] = model
    return atoms


def make_writable(atoms: Atoms) -> Atoms:
    """Return atoms that extended XYZ can hold, in place; warn of what it cannot.

    Names that the format has for itself are changed, and of two values of one name,
    in ``info`` and in the results, both are kept.
    """
    results = getattr(atoms.calc, "results", {})
    for name in list(atoms.arrays):
        if ":" in name or " " in name:
            other = name.replace("::", "_").replace(":", "_").replace(" ", "_")
            atoms.arrays[other] = atoms.arrays.pop(name)
            _warn_once(f"column {name!r} is written as {other!r}")
    for place in (atoms.info, atoms.arrays):
        for name in list(place):
            if name in results or name in _RESERVED:
                place[f"other_{name}"] = place.pop(name)
                _warn_once(f"{name!r} is written as 'other_{name}'")
    for name, values in list(atoms.arrays.items()):
        if values.ndim > 2 or values.dtype.kind not in "biufSU":
            del atoms.arrays[name]
            _warn_once(f"column {name!r} cannot be written, and is left out")
    return atoms


def _is_ours(name: Any) -> bool:
    return name in PREDICTED_NAMES


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    logger.warning("predictions: %s", text)

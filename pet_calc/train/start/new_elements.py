"""Elements that the base does not know: refused, or started from known ones."""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.errors import ConfigError, DataError
from pet_calc.model.elements import add_elements
from pet_calc.model.pet import PET

logger = logging.getLogger(__name__)

# first element of each period, and of what would be the next one
_PERIODS = (1, 3, 11, 19, 37, 55, 87, 119)
_F_BLOCKS = (range(57, 72), range(89, 104))


def add_new_elements(
    model: PET,
    frames: Iterable[LabeledFrame],
    choice: Literal["refuse", "nearest"] | dict[str, str],
) -> dict[str, str]:
    """Give the model the elements of the frames that it lacks, in place.

    Args:
        model: the base.
        frames: all of the run, to iterate over more than once.
        choice: ``refuse``; ``nearest`` starts from the element of the same group
            whose period is nearest, or from the mean of all if none is known; or the
            symbol to start from for each new one.

    Returns:
        What was added: symbol to what it started from, in words.

    Raises:
        DataError: naming element and frame where a new one is not allowed.
        ConfigError: if ``choice`` names elements that cannot be meant.
    """
    known = list(model.atomic_types)
    found = {int(z) for frame in frames for z in set(frame.numbers.tolist())}
    new = sorted(found - set(known))
    if choice == "refuse" or (isinstance(choice, dict) and not _covers(choice, new)):
        _refuse(frames, known, choice)
    if isinstance(choice, dict):
        _check_choice(choice, known, new)
    sources: dict[int, list[int]] = {}
    described: dict[str, str] = {}
    for z in new:
        symbol = chemical_symbols[z]
        if isinstance(choice, dict):
            sources[z], reason = [atomic_numbers[choice[symbol]]], "as asked for"
        else:
            sources[z], reason = choose_like(z, known)
        n_sources = len(sources[z])
        described[symbol] = (
            chemical_symbols[sources[z][0]]
            if n_sources == 1
            else f"the mean of all {n_sources}"
        )
        logger.info(
            "new element %s: its embeddings start as those of %s (%s) and train; its "
            "energy per element is fitted",
            symbol,
            described[symbol],
            reason,
        )
    add_elements(model, sources)
    if model.zbl is not None:
        rows = [model.atomic_types.index(z) for z in new]
        radii = torch.tensor(covalent_radii[new], dtype=torch.float64)
        model.zbl.covalent_radii[rows] = radii.to(model.zbl.covalent_radii.device)
    return described


def choose_like(number: int, known: Sequence[int]) -> tuple[list[int], str]:
    """Return the known elements that a new one starts from, and why these."""
    group = _find_group(number)
    same = [z for z in known if _find_group(z) == group]
    if same:
        # nearest period, the lighter one of two: it is the commoner
        best = min(same, key=lambda z: (abs(_find_period(z) - _find_period(number)), z))
        return [best], "same group, nearest period"
    block = next((block for block in _F_BLOCKS if number in block), range(0))
    same = [z for z in known if z in block]
    if same:
        return [min(same, key=lambda z: abs(z - number))], "same f-block, nearest"
    return list(known), "none of its group is known"


def _refuse(
    frames: Iterable[LabeledFrame],
    known: Sequence[int],
    choice: Literal["refuse", "nearest"] | dict[str, str],
) -> None:
    """Raise if a frame has an unknown element, with what to do about it."""
    try:
        check_elements(frames, known)
    except DataError as error:
        hint = (
            "name a known one for each of them: --allow-new-elements Ge=Si,Sn=Si"
            if isinstance(choice, dict)
            else "--allow-new-elements starts them from known ones and trains them"
        )
        raise DataError(f"{error}; {hint}") from error


def _covers(choice: dict[str, str], new: Sequence[int]) -> bool:
    return all(chemical_symbols[z] in choice for z in new)


def _check_choice(
    choice: dict[str, str], known: Sequence[int], new: Sequence[int]
) -> None:
    for symbol, like in choice.items():
        for name in (symbol, like):
            if name not in atomic_numbers or name == "X":
                raise ConfigError(f"new_elements: {name!r} is no element")
        if atomic_numbers[symbol] in known:
            raise ConfigError(f"new_elements: the base knows {symbol} already")
        if atomic_numbers[symbol] not in new:
            raise ConfigError(f"new_elements: no frame has {symbol}")
        if atomic_numbers[like] not in known:
            listed = ", ".join(chemical_symbols[z] for z in known)
            raise ConfigError(
                f"new_elements: {symbol} cannot start from {like}, which the base does "
                f"not know; it knows {listed}"
            )


def _find_period(number: int) -> int:
    return sum(number >= first for first in _PERIODS)


def _find_group(number: int) -> str:
    """Return the column of the periodic table: 1 to 18, f1 to f15, or H."""
    if number == 1:
        # no alkali metal
        return "H"
    for block in _F_BLOCKS:
        if number in block:
            return f"f{number - block.start + 1}"
    period = _find_period(number)
    from_start = number - _PERIODS[period - 1] + 1
    if from_start <= 2 and number != 2:
        return str(from_start)
    return str(18 - (_PERIODS[period] - 1 - number))

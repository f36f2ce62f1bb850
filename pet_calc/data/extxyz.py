"""Read extended XYZ frame by frame, so that none is lost and a broken one is named.

ASE parses what a frame holds. Where a frame ends is found here, for ASE takes an empty
line, and whatever follows it, for the end of the file.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from io import StringIO
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.io.formats import open_with_compression

from pet_calc.data.notes import COLUMNS_NOT_READ, LIKE_FORCES

_BYTE_ORDER_MARK = "\ufeff"
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_PROPERTIES = re.compile(r"(?:^|\s)Properties\s*=\s*[\"']?([^\s\"']+)")
# symbol and position
_FEWEST_COLUMNS = 4
# isotopes, which ASE knows as hydrogen of another mass
_ISOTOPES = ("D", "T")
# what is not declared looks like forces if its sum is this part of its size
_SUM_OF_FORCES = 1e-3


class FrameError(ValueError):
    """A frame that is broken; its text says in which line of the file."""


class _Text(NamedTuple):
    """The lines of one frame."""

    lines: list[str]
    first: int
    """Number of the first line in the file, from 1."""


def iterate_extxyz(name: str) -> Iterator[tuple[Atoms, tuple[str, ...]]]:
    """Yield the frames of a file, each with notes on what was not read of it.

    Memory stays flat: ``ase.io.iread`` makes a list of all frames' places first.

    Raises:
        FrameError: if something is left that is no frame, after the frames before it.
    """
    with open_with_compression(name, "rt") as file:
        for text in _split(file):
            atoms = _parse(text)
            yield atoms, _find_notes(text.lines, atoms)


def _split(file: IO[Any]) -> Iterator[_Text]:
    """Yield the lines of each frame; blank lines between frames are skipped."""
    number = 1
    line = file.readline().removeprefix(_BYTE_ORDER_MARK)
    while line:
        if not line.strip():
            line, number = file.readline(), number + 1
            continue
        n_atoms = _read_count(line, number)
        lines = [line, *islice(file, n_atoms + 1)]
        if len(lines) < n_atoms + 2 and n_atoms > 0:
            raise FrameError(
                f"line {number}: a frame of {n_atoms} atoms begins here, but the file "
                f"ends after {max(0, len(lines) - 2)} of them"
            )
        first, number = number, number + len(lines)
        line = file.readline()
        while line.lstrip().startswith("VEC"):
            lines.append(line)
            line, number = file.readline(), number + 1
        yield _Text(lines, first)


def _read_count(line: str, number: int) -> int:
    try:
        n_atoms = int(line)
    except ValueError:
        n_atoms = -1
    if n_atoms < 0:
        shown = line.strip()
        shown = shown if len(shown) < 40 else shown[:37] + "..."
        raise FrameError(
            f"line {number}: expected the number of atoms of the next frame, got "
            f"{shown!r}; is the number of atoms of the frame before it right?"
        )
    return n_atoms


def _parse(text: _Text) -> Atoms:
    try:
        (atoms,) = read_xyz(StringIO("".join(text.lines)), index=slice(None))
    # ASE's parsing raises whatever it meets
    except Exception as error:
        raise FrameError(_explain(text, str(error) or type(error).__name__)) from error
    if len(atoms) != int(text.lines[0]):
        raise FrameError(_explain(text, f"{len(atoms)} atoms could be read"))
    return atoms


def _explain(text: _Text, why: str) -> str:
    """Return why ASE could not parse a frame, with the line where that is known."""
    lines, first = text
    columns = _read_columns(lines[1])
    if isinstance(columns, str):
        return f"line {first + 1}: {columns}"
    n_atoms = int(lines[0])
    n_columns = sum(n for _, _, n in columns)
    place = _find_column(columns, "species")
    for i, line in enumerate(lines[2 : 2 + n_atoms]):
        where = f"line {first + 2 + i}, atom {i}"
        words = line.split()
        if len(words) < n_columns:
            return f"{where}: expected {n_columns} columns, got {len(words)}"
        symbol = words[place].capitalize() if place is not None else "H"
        if symbol in _ISOTOPES:
            return (
                f"{where}: the isotope {symbol} is no element of a potential; write H "
                "(mass does not change energies and forces)"
            )
        if symbol not in atomic_numbers:
            return f"{where}: expected a chemical element, got {words[place or 0]!r}"
        for word, kind in zip(words, _spread_kinds(columns), strict=False):
            if kind in "RI" and not _is_number(word, kind):
                what = "whole number" if kind == "I" else "number"
                return f"{where}: expected a {what}, got {word!r}"
    return f"line {first}: {why}"


def _read_columns(comment: str) -> list[tuple[str, str, int]] | str:
    """Return (name, kind, number) of the columns declared, or what is wrong there."""
    try:
        info = key_val_str_to_dict(comment.strip()) if comment.strip() else {}
    except Exception as error:
        return f"the comment line cannot be read ({type(error).__name__}: {error})"
    declared = str(info.get("Properties", _DEFAULT_PROPERTIES))
    if "::" in declared:
        return (
            f"Properties={declared} has '::' in the name of a column, but ':' parts "
            "names, kinds and numbers there; rename that column, such as mtt_forces"
        )
    words = declared.split(":")
    triples = list(zip(words[::3], words[1::3], words[2::3], strict=False))
    if len(words) % 3 or not all(
        kind in ("R", "I", "S", "L") and n.isdigit() for _, kind, n in triples
    ):
        return (
            f"Properties={declared} is not a list of NAME:KIND:NUMBER with a kind R, "
            "I, S or L, such as species:S:1:pos:R:3:forces:R:3"
        )
    return [(name, kind, int(n)) for name, kind, n in triples]


@lru_cache(maxsize=64)
def _count_columns(declared: str) -> tuple[frozenset[str], int]:
    """Return the names and the number of columns that a readable header declares."""
    words = (declared or _DEFAULT_PROPERTIES).split(":")
    return frozenset(words[::3]), sum(int(n) for n in words[2::3] if n.isdigit())


def _find_column(columns: list[tuple[str, str, int]], name: str) -> int | None:
    start = 0
    for found, _, n in columns:
        if found == name:
            return start
        start += n
    return None


def _spread_kinds(columns: list[tuple[str, str, int]]) -> str:
    """Return the kind of each column, one letter a column."""
    return "".join(kind * n for _, kind, n in columns)


def _is_number(word: str, kind: str) -> bool:
    try:
        int(word) if kind == "I" else float(word)
    except ValueError:
        return False
    return True


def _find_notes(lines: list[str], atoms: Atoms) -> tuple[str, ...]:
    """Return a note if the frame has columns that its header does not declare."""
    if len(atoms) == 0:
        return ()
    n_there = len(lines[2].split())
    if n_there <= _FEWEST_COLUMNS:
        return ()
    # no parsing of the whole comment: this is done for every frame
    declared = _PROPERTIES.search(lines[1])
    names, n_declared = _count_columns(declared[1] if declared else "")
    n_more = n_there - n_declared
    if n_more <= 0:
        return ()
    note = f"{n_more} {COLUMNS_NOT_READ}"
    if n_more >= 3 and "forces" not in names:
        rows = lines[2 : 2 + len(atoms)]
        if _sums_to_zero(rows, n_declared):
            note += LIKE_FORCES
    return (note,)


def _sums_to_zero(rows: list[str], start: int) -> bool:
    """Return whether three columns are numbers that sum to zero, as forces do."""
    try:
        numbers = np.array(
            [[float(word) for word in row.split()[start : start + 3]] for row in rows]
        )
    except ValueError:
        return False
    if numbers.shape != (len(rows), 3) or len(rows) < 2:
        return False
    size = float(np.abs(numbers).sum())
    return size > 0 and float(np.abs(numbers.sum(axis=0)).max()) < _SUM_OF_FORCES * size

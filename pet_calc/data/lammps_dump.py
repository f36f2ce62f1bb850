"""Read LAMMPS text dumps frame by frame, with the elements that atom types stand for.

ASE parses what a frame holds. Where a frame ends is found here: ASE makes a list of all
frames, and takes types for atomic numbers where nothing says what they are.
"""

from collections.abc import Iterator, Sequence
from io import StringIO
from typing import IO, Any

from ase import Atoms
from ase.data import atomic_numbers
from ase.io.formats import open_with_compression
from ase.io.lammpsrun import read_lammps_dump_text

from pet_calc.data.extxyz import FrameError

_START = "ITEM: TIMESTEP"
_ATOMS = "ITEM: ATOMS"
_NUMBER = "ITEM: NUMBER OF ATOMS"


def iterate_dump(name: str, elements: Sequence[str] = ()) -> Iterator[Atoms]:
    """Yield the frames of a file; memory stays flat.

    Args:
        name: of the file, maybe compressed.
        elements: of the atom types, in order. They count also where the file has a
            column of elements.

    Raises:
        FrameError: if a frame is cut off, or its elements are not known, after the
            frames before it.
    """
    with open_with_compression(name, "rt") as file:
        for lines, first in _split(file):
            yield _parse(lines, first, list(elements))


def _split(file: IO[Any]) -> Iterator[tuple[list[str], int]]:
    """Yield the lines of each frame, and the number of the first one, from 1."""
    lines: list[str] = []
    first = 1
    for number, line in enumerate(file, start=1):
        if line.startswith(_START):
            if lines:
                yield lines, first
            lines, first = [], number
        lines.append(line)
    if any(line.strip() for line in lines):
        yield lines, first


def _parse(lines: list[str], first: int, elements: list[str]) -> Atoms:
    columns, rows = _find_rows(lines, first)
    symbols: list[str] = []
    if elements and "type" in columns:
        symbols = _name_atoms(columns, rows, first, elements)
    elif not {"element", "mass"}.intersection(columns):
        raise FrameError(
            f"line {first}: has types of atoms and no elements; name those of type 1, "
            "2, ... in order (`pet-calc select --elements O,H`), or let LAMMPS write "
            "them (`dump ... custom ... id element x y z`, `dump_modify ... element "
            "O H`)"
        )
    try:
        atoms: Atoms = read_lammps_dump_text(StringIO("".join(lines)), index=0)
    # ASE's parsing raises whatever it meets
    except Exception as error:
        why = str(error) or type(error).__name__
        raise FrameError(f"line {first}: {why}") from error
    if symbols:
        atoms.set_chemical_symbols(symbols)
    return atoms


def _find_rows(lines: list[str], first: int) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the words of each atom's line."""
    n_atoms, start = 0, len(lines)
    for i, line in enumerate(lines):
        if line.startswith(_NUMBER) and lines[i + 1 : i + 2]:
            n_atoms = int(lines[i + 1])
        if line.startswith(_ATOMS):
            start = i
            break
    columns = lines[start].split()[2:] if start < len(lines) else []
    rows = [line.split() for line in lines[start + 1 :] if line.strip()]
    is_cut = len(rows) < n_atoms or any(len(row) < len(columns) for row in rows[-1:])
    if start == len(lines) or is_cut:
        raise FrameError(
            f"line {first}: a frame begins here, but the file ends within it, at atom "
            f"{max(len(rows) - 1, 0)} of {n_atoms}; read those before it with FILE@:N"
        )
    return columns, rows[:n_atoms]


def _name_atoms(
    columns: list[str], rows: list[list[str]], first: int, elements: list[str]
) -> list[str]:
    """Return the elements of the atoms, in the order in which ASE has them."""
    unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
    if unknown:
        raise FrameError(f"expected a chemical element for a type, got {unknown[0]!r}")
    if "id" in columns:
        place = columns.index("id")
        rows = sorted(rows, key=lambda row: int(row[place]))
    place = columns.index("type")
    types = [row[place] for row in rows]
    symbol_of = {str(k): symbol for k, symbol in enumerate(elements, start=1)}
    missing = sorted(set(types) - set(symbol_of))
    if missing:
        raise FrameError(
            f"line {first}: atoms of type {missing[0]}, and elements of types 1 to "
            f"{len(elements)} are given ({', '.join(elements)})"
        )
    return [symbol_of[kind] for kind in types]

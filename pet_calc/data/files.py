"""Iterate over the structures in files that ASE reads, without holding them all."""

import glob
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import filetype, open_with_compression, string2index

from pet_calc.errors import ConfigError, DataError

Paths = str | Path | Sequence[str | Path]

# frames of extended XYZ that are parsed at a time
_BLOCK = 200


def describe_paths(paths: Paths) -> str:
    """Return the names for a message."""
    return ", ".join(str(path) for path in _to_list(paths))


def expand_paths(paths: Paths, index: str = ":") -> list[tuple[str, str]]:
    """Return (file, index) for files, globs, or either with ``@index``, in order.

    Raises:
        DataError: nothing given, or a name that matches no file.
    """
    if not _to_list(paths):
        raise DataError("no files given")
    return [entry for path in _to_list(paths) for entry in _expand(str(path), index)]


def iterate_atoms(paths: Paths, index: str = ":") -> Iterator[tuple[Atoms, str, int]]:
    """Yield (atoms, file, index in the file) of each structure.

    Memory stays flat for extended XYZ; of other formats ASE may keep more, and an
    ``index`` that counts from the end needs the whole file.

    Raises:
        DataError: no file, or one that ASE cannot read, naming the frame.
        ConfigError: an index that is none.
    """
    for name, file_index in expand_paths(paths, index):
        for i, atoms in _iterate_frames(name, file_index):
            yield atoms, name, i


def _to_list(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _expand(path: str, index: str) -> list[tuple[str, str]]:
    """Return (file, index) for a file, a glob, or either with ``@index``."""
    name, at, ending = path.rpartition("@")
    if at and not Path(path).exists() and set(ending) <= set("0123456789:-"):
        path, index = name, ending
    if Path(path).is_file():
        return [(path, index)]
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder; name files, such as {path}/*.xyz")
    names = sorted(n for n in glob.glob(path, recursive=True) if Path(n).is_file())
    if not names:
        what = "matches no file" if glob.has_magic(path) else "does not exist"
        raise DataError(f"{path} {what}")
    return [(name, index) for name in names]


def _iterate_frames(name: str, index: str) -> Iterator[tuple[int, Atoms]]:
    """Yield (index in the file, atoms), reading no further than needed."""
    try:
        chosen = string2index(index)
    except ValueError as error:
        raise ConfigError(
            f"index {index!r} is none; write it as ASE does, such as 0:100:2 or -1"
        ) from error
    if isinstance(chosen, str):
        raise ConfigError(f"index {index!r} is none; write it as 0:100:2 or -1")
    if isinstance(chosen, int):
        chosen = slice(chosen, None if chosen == -1 else chosen + 1)
    stream = enumerate(_iterate_ase(name))
    parts = (chosen.start, chosen.stop, chosen.step)
    if any(part is not None and part < 0 for part in parts):
        yield from list(stream)[chosen]
    else:
        yield from islice(stream, *parts)


def _iterate_ase(name: str) -> Iterator[Atoms]:
    n_read = 0
    try:
        is_extxyz = filetype(name) == "extxyz"
        for atoms in _iterate_extxyz(name) if is_extxyz else iread(name, index=":"):
            yield atoms
            n_read += 1
    # ASE's readers raise whatever their parsing meets
    except Exception as error:
        raise DataError(
            f"{name}, frame {n_read}: ASE cannot read it: "
            f"{type(error).__name__}: {error}"
        ) from error


def _iterate_extxyz(name: str) -> Iterator[Atoms]:
    """Yield the frames of an extended XYZ file, parsed by ASE block by block.

    ``ase.io.iread`` makes a list of all frames' places before the first one comes.
    """
    with open_with_compression(name, "rt") as file:
        frames = _split_extxyz(file)
        while block := "".join(islice(frames, _BLOCK)):
            yield from read_xyz(StringIO(block), index=slice(None))


def _split_extxyz(file: IO[Any]) -> Iterator[str]:
    """Yield the text of each frame; what is no frame is left to ASE to refuse."""
    line = file.readline()
    # ASE, too, takes an empty line in the place of a number for the end
    while line.strip():
        lines = [line]
        n_atoms = int(line) if line.strip().isdigit() else 0
        lines += islice(file, n_atoms + 1)
        line = file.readline()
        while line.lstrip().startswith("VEC"):
            lines.append(line)
            line = file.readline()
        yield "".join(lines)

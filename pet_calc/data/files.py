"""Iterate over the frames in files that ASE reads, without holding them all."""

import glob
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, string2index

from pet_calc.data.extxyz import FrameError, iterate_extxyz
from pet_calc.data.lammps_dump import iterate_dump
from pet_calc.errors import ConfigError, DataError
from pet_calc.system.paths import expand_path

Paths = str | Path | Sequence[str | Path]

_Read = tuple[Atoms, tuple[str, ...]]

_DATABASES = ("db", "json", "aselmdb", "postgresql", "mysql")


class ReadAtoms(NamedTuple):
    """A frame from a file."""

    atoms: Atoms
    file: str
    number: int
    """Of the frame in the file, from 0."""
    notes: tuple[str, ...]
    """What was in the file but not read."""


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


def name_source(file: str, number: int) -> str:
    """Return what messages call a frame of a file; ``split_source`` undoes it."""
    return f"{file}, frame {number}"


def split_source(source: str) -> tuple[str, str]:
    """Return the file and the number of a frame; no file for one that was not read."""
    file, _, number = source.rpartition(", frame ")
    return file, number


def iterate_atoms(
    paths: Paths, index: str = ":", elements: Sequence[str] = ()
) -> Iterator[ReadAtoms]:
    """Yield each frame of the files, in order.

    Memory stays flat for extended XYZ, dumps of LAMMPS and ASE's trajectories; of
    other formats ASE may keep more, and an ``index`` that counts from the end needs
    the whole file.

    Args:
        paths: files, globs, or ASE's ``file.xyz@0:10``.
        index: which frames of each file.
        elements: of the atom types in dumps of LAMMPS, in order.

    Raises:
        DataError: no file, or one that cannot be read, naming the frame.
        ConfigError: an index that is none.
    """
    for name, file_index in expand_paths(paths, index):
        for i, (atoms, notes) in _iterate_frames(name, file_index, elements):
            yield ReadAtoms(atoms, name, i, notes)


def read_last(paths: Paths) -> Atoms:
    """Return the last frame of the files, whatever blank lines are between.

    Raises:
        DataError: as ``iterate_atoms``, or if there is none.
    """
    last: Atoms | None = None
    for read in iterate_atoms(paths):
        last = read.atoms
    if last is None:
        raise DataError(f"no frame in {describe_paths(paths)}")
    return last


def _to_list(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _expand(path: str, index: str) -> list[tuple[str, str]]:
    """Return (file, index) for a file, a glob, or either with ``@index``."""
    path = expand_path(path)
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


def _iterate_frames(
    name: str, index: str, elements: Sequence[str]
) -> Iterator[tuple[int, _Read]]:
    """Yield (index in the file, what is there), reading no further than needed."""
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
    stream = enumerate(_iterate_file(name, elements))
    parts = (chosen.start, chosen.stop, chosen.step)
    if any(part is not None and part < 0 for part in parts):
        yield from list(stream)[chosen]
    else:
        yield from islice(stream, *parts)


def _iterate_file(name: str, elements: Sequence[str]) -> Iterator[_Read]:
    n_read = 0
    try:
        form = filetype(name)
        if form == "extxyz":
            frames = iterate_extxyz(name)
        elif form in _DATABASES:
            frames = _iterate_database(name)
        elif form == "lammps-dump-text":
            frames = ((atoms, ()) for atoms in iterate_dump(name, elements))
        else:
            frames = ((atoms, ()) for atoms in ase.io.iread(name, index=":"))
        for read in frames:
            yield read
            n_read += 1
    except FrameError as error:
        raise DataError(f"{name}, frame {n_read}, {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}, frame {n_read}: is no text in UTF-8 ({error.reason}); convert it "
            "first, for example with `iconv -t utf-8`"
        ) from error
    except UnknownFileTypeError as error:
        raise DataError(
            f"{name}: is of no format that ASE knows ({error}); give frames, such "
            "as extended XYZ"
        ) from error
    # a disk or network that fails is no fault of the content
    except OSError:
        raise
    # ASE's readers raise whatever their parsing meets
    except Exception as error:
        raise DataError(
            f"{name}, {_name_broken(name, n_read)}: ASE cannot read it: "
            f"{type(error).__name__}: {error}"
        ) from error


def _name_broken(name: str, n_read: int) -> str:
    """Return which frame is broken: some readers parse all before they give any."""
    if n_read > 0:
        return f"frame {n_read}"
    for i in count():
        try:
            ase.io.read(name, index=i)
        except Exception:
            return f"frame {i}" if i > 0 else "frame 0 or a later one"
    raise AssertionError("a file with a broken frame has an end")


def _iterate_database(name: str) -> Iterator[_Read]:
    """Yield the rows of an ASE database; what people store beside them goes along.

    Key-value pairs and data get into ``info``, and data with a row for each atom into
    ``arrays``; ``ase.io.iread`` drops them.
    """
    with ase.db.connect(name, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            for key, value in {**row.key_value_pairs, **row.data}.items():
                array = np.asarray(value) if isinstance(value, list) else value
                is_array = isinstance(array, np.ndarray) and array.dtype.kind in "fi"
                is_of_atoms = is_array and array.shape[:1] == (len(atoms),)
                if is_of_atoms and array.ndim == 2 and key not in atoms.arrays:
                    atoms.arrays[key] = array
                else:
                    atoms.info.setdefault(key, value)
            yield atoms, ()

"""Labelled frames in a memory-mapped folder, for data sets larger than memory.

A store is written once, from a stream, and then only read. Its folder holds

- ``frames.bin``: the arrays of one frame after the other;
- ``index.bin``: a row for each frame, see ``records.py``;
- ``header.json``: where the data come from, texts that frames share, checksums.

It is made under another name and renamed when it is whole, under a lock, so that a
reader never sees half of one and two processes never make the same one. Every frame is
compared with its checksum when it is read.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet_calc.data.files import name_source, split_source
from pet_calc.data.frames import NO_NAME, LabeledFrame
from pet_calc.data.labels import TargetLabels
from pet_calc.data.records import (
    HAS_ENERGY,
    PBC,
    count_reals,
    cut_labels,
    describe_kind,
    describe_row,
    name_column,
    pack_frame,
)
from pet_calc.errors import DataError
from pet_calc.system.atomic import write_atomically, write_text_atomically
from pet_calc.system.hashing import hash_file
from pet_calc.system.locks import hold_lock

logger = logging.getLogger(__name__)

# 2: weights of frames are read, and charges that are nearly whole
FORMAT_VERSION = 2
FRAMES_NAME, INDEX_NAME, HEADER_NAME = "frames.bin", "index.bin", "header.json"


class FrameStore:
    """A store that is read; frames come by their number, in the order of the files."""

    def __init__(self, folder: str | Path) -> None:
        """Open a store.

        Raises:
            DataError: if it is damaged, or of another version.
        """
        self.folder = Path(folder)
        self._header = _read_header(self.folder)
        index_path = self.folder / INDEX_NAME
        if (
            not index_path.is_file()
            or hash_file(index_path) != (self._header["index_sha256"])
        ):
            raise _damaged(index_path, "its checksum is another")
        frames_path = self.folder / FRAMES_NAME
        n_bytes = frames_path.stat().st_size if frames_path.is_file() else 0
        if n_bytes != self._header["n_bytes"]:
            raise _damaged(
                frames_path,
                f"{n_bytes} bytes instead of {self._header['n_bytes']}",
            )
        # plain arrays of the mapped memory: a memmap takes several times as long
        self.n_targets: int = self._header.get("n_targets", 1)
        row = describe_row(self.n_targets)
        self._columns = row.names or ()
        self.index = np.asarray(np.memmap(index_path, dtype=row, mode="r"))
        self._bytes = np.asarray(np.memmap(frames_path, dtype=np.uint8, mode="r"))
        self.kinds: list[dict[str, Any]] = self._header["kinds"]
        for kind in self.kinds:
            kind["notes"], kind["keys"] = tuple(kind["notes"]), tuple(kind["keys"])

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[Any, ...]:
        # other processes map the files themselves
        return FrameStore, (self.folder,)

    def read(self, number: int, targets: Sequence[str] = (NO_NAME,)) -> LabeledFrame:
        """Return a frame.

        Args:
            number: of the frame.
            targets: names to give to the targets, in the store's order.

        Raises:
            DataError: if its bytes are not those that were written.
        """
        row = dict(zip(self._columns, self.index[number].item(), strict=True))
        n_atoms, start = row["n_atoms"], row["start"]
        source = name_source(self._header["files"][row["file"]], row["number"])
        flags = [row[name_column("flags", k)] for k in range(self.n_targets)]
        n_reals = count_reals(n_atoms, flags)
        record = self._bytes[start : start + 8 * n_reals + n_atoms].tobytes()
        if zlib.crc32(record) != row["crc"]:
            raise _damaged(self.folder / FRAMES_NAME, f"at {source}")
        kind = self.kinds[row["kind"]]
        # a copy: what NumPy makes of bytes cannot be written to
        reals = np.frombuffer(record, "<f8", n_reals).copy().reshape(-1, 3)
        numbers = np.frombuffer(record, np.uint8, n_atoms, 8 * n_reals)
        labels = cut_labels(reals[n_atoms + 3 :], n_atoms, flags)
        origins = [kind["origins"], *kind.get("further_origins", [])]
        return LabeledFrame(
            numbers=numbers.astype(np.int64),
            positions=reals[:n_atoms],
            cell=reals[n_atoms : n_atoms + 3],
            pbc=np.array([bool(flags[0] & bit) for bit in PBC]),
            labels={
                name: TargetLabels(
                    energy=row[name_column("energy", k)]
                    if flags[k] & HAS_ENERGY
                    else None,
                    **labels[k],
                    origins=dict(origins[k]),
                )
                for k, name in enumerate(targets)
            },
            charge=row["charge"],
            spin_multiplicity=row["spin_multiplicity"],
            weight=row["weight"],
            source=source,
            config_type=kind["config_type"],
            notes=kind["notes"],
            keys=kind["keys"],
        )


def open_or_build_store(
    root: str | Path,
    name: str,
    made_from: dict[str, Any],
    files: Iterable[str],
    read: Callable[[], Iterable[LabeledFrame]],
    *,
    n_targets: int = 1,
) -> FrameStore:
    """Return the store of some files, made now if it is not there.

    Args:
        root: folder of stores.
        name: what the store's folder begins with.
        made_from: everything besides the files that decides about the content, as
            JSON has it.
        files: that the frames are read from.
        read: returns the frames, in their order, one by one.
        n_targets: that each frame has labels of.

    Raises:
        DataError: if the store is damaged, a file changes while it is read, or the
            frames cannot be stored.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    files = list(files)
    before = _describe_files(files)
    text = json.dumps([FORMAT_VERSION, made_from, before], sort_keys=True)
    folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if not folder.exists():
        waiting = f"{folder}: another process writes it; waiting"
        with hold_lock(root / f"{folder.name}.lock", message=waiting):
            if not folder.exists():
                _report_outdated(root, folder, files)
                _build(folder, read(), n_targets, made_from, before)
                return FrameStore(folder)
    store = FrameStore(folder)
    logger.info("%s: %d frames, from an earlier run", folder, len(store))
    return store


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array beside a store, whole or not at all."""
    write_atomically(path, lambda file: np.save(file, values))


def _build(
    folder: Path,
    frames: Iterable[LabeledFrame],
    n_targets: int,
    made_from: dict[str, Any],
    sources: list[dict[str, Any]],
) -> None:
    temporary = folder.with_name(folder.name + ".tmp")
    # of a writer that was killed: the lock is ours
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        header = _write_frames(temporary, frames, n_targets)
        if _describe_files([source["path"] for source in sources]) != sources:
            raise DataError(
                f"{', '.join(s['path'] for s in sources)}: changed while being read; "
                "start again when they are complete"
            )
        header |= {"made_from": made_from, "sources": sources}
        text = json.dumps({"format_version": FORMAT_VERSION, **header})
        write_text_atomically(temporary / HEADER_NAME, text)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    size = header["n_bytes"] + header["n_frames"] * describe_row(n_targets).itemsize
    logger.info("%s: stored %d frames, %.3f GB", folder, header["n_frames"], size / 1e9)


def _write_frames(
    folder: Path, frames: Iterable[LabeledFrame], n_targets: int
) -> dict[str, Any]:
    """Write both tables; return what the header has to say about them."""
    tables: dict[str, dict[str, int]] = {"files": {}, "kinds": {}}

    def number(table: str, text: str) -> int:
        return tables[table].setdefault(text, len(tables[table]))

    columns = describe_row(n_targets)
    start = n_frames = 0
    digest = hashlib.sha256()
    with (
        (folder / FRAMES_NAME).open("wb") as data,
        (folder / INDEX_NAME).open("wb") as index,
    ):
        for frame in frames:
            record, flags = pack_frame(frame)
            file, in_file = split_source(frame.source)
            row = np.zeros(1, columns)
            row["start"], row["crc"] = start, zlib.crc32(record)
            for k, labels in enumerate(frame.labels.values()):
                row[name_column("energy", k)] = labels.energy or 0.0
                row[name_column("flags", k)] = flags[k]
            row["weight"], row["n_atoms"] = frame.weight, frame.n_atoms
            row["file"], row["number"] = number("files", file), int(in_file)
            row["kind"] = number("kinds", describe_kind(frame))
            row["charge"] = frame.charge
            row["spin_multiplicity"] = frame.spin_multiplicity
            data.write(record)
            index.write(row.tobytes())
            digest.update(row.tobytes())
            start += len(record)
            n_frames += 1
        _sync(data)
        _sync(index)
    return {
        "n_targets": n_targets,
        "n_frames": n_frames,
        "n_bytes": start,
        "index_sha256": digest.hexdigest(),
        "files": list(tables["files"]),
        "kinds": [json.loads(kind) for kind in tables["kinds"]],
    }


def _describe_files(files: list[str]) -> list[dict[str, Any]]:
    """Return what tells a changed file: its size and time."""
    described = []
    for file in files:
        state = Path(file).stat()
        described.append(
            {
                "path": str(Path(file).resolve()),
                "size": state.st_size,
                "mtime_ns": state.st_mtime_ns,
            }
        )
    return described


def _report_outdated(root: Path, folder: Path, files: list[str]) -> None:
    """Name stores of these files that are of no use any more."""
    paths = [str(Path(file).resolve()) for file in files]
    for header_path in root.glob(f"*/{HEADER_NAME}"):
        try:
            sources = json.loads(header_path.read_text())["sources"]
        except (OSError, ValueError, KeyError):
            continue
        if [source["path"] for source in sources] == paths:
            logger.info(
                "%s holds these files as they were, or read otherwise; delete it if "
                "it is not needed",
                header_path.parent,
            )


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER_NAME
    try:
        header: dict[str, Any] = json.loads(path.read_text())
        version = header["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: expected a store of version {FORMAT_VERSION}, got {version}; "
            "delete the folder, it is made again"
        )
    return header


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: the store is damaged ({why}); delete {path.parent}, it is made again "
        "from the data files"
    )

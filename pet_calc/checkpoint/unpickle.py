"""Read PyTorch checkpoints of unknown origin without running what is in them.

A checkpoint is a zip file with one pickle and one raw file per tensor storage. A
pickle is a program; ``torch.load(weights_only=False)`` runs it. Here, three fences
keep it from doing anything but build plain data:

- only the opcodes that a saved model needs are allowed;
- the names a pickle may mention are listed, each is answered with an inert object of
  ``stand_ins.py``, never with the function or class itself, and nothing else is called;
- every tensor must lie inside its storage, and every storage inside the file.
"""

import gzip
import io
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pet_calc.checkpoint.stand_ins import (
    ALLOWED,
    DatasetInfo,
    Function,
    NumpyType,
    ScriptObject,
    StandIn,
    StateDict,
    Storage,
    StorageKind,
    TargetInfo,
)
from pet_calc.errors import CheckpointError
from pet_calc.system.paths import expand_path

MAX_BYTES = 64 * 2**30
"""Largest decompressed file that is read, so that a gzip bomb stops early."""

_GZIP_MAGIC = b"\x1f\x8b"

_OPCODE_NAMES = """
PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE
PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS
EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
"""
_OPCODES = frozenset(_OPCODE_NAMES.split())


def read_archive(path: str | Path) -> Any:
    """Return the content of a checkpoint: dicts, lists, numbers, tensors, stand-ins.

    Args:
        path: a file written by ``torch.save``, possibly compressed by gzip.

    Raises:
        CheckpointError: if there is no such file, it is damaged, it is of another
            kind (an exported TorchScript model, an old pickle), or it asks for
            anything that a model file has no need of.
    """
    path = Path(expand_path(path))
    try:
        with _open_zip(path) as archive:
            return _read_zip(archive)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            f"{path}: expected a model checkpoint (a zip file), but it cannot be "
            f"read: {error}; copy or download it again"
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: too large for this machine's memory") from error
    except Exception as error:
        # a hand-made pickle can make the unpickler fail in any way; all mean "damaged"
        raise CheckpointError(
            f"{path}: damaged or not a model checkpoint: "
            f"{type(error).__name__}: {error}"
        ) from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    if path.is_dir():
        raise CheckpointError("expected a model file, this is a folder")
    with path.open("rb") as file:
        magic = file.read(len(_GZIP_MAGIC))
    if magic == _GZIP_MAGIC:
        return zipfile.ZipFile(_decompress(path))
    return zipfile.ZipFile(path)


def _decompress(path: Path) -> io.BytesIO:
    content = io.BytesIO()
    with gzip.open(path) as packed:
        while chunk := packed.read(2**24):
            content.write(chunk)
            if content.tell() > MAX_BYTES:
                raise CheckpointError(f"larger than {MAX_BYTES} bytes when unpacked")
    return content


def _read_zip(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    pickles = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
    if any(n.count("/") == 1 and n.endswith("/constants.pkl") for n in names):
        raise CheckpointError(
            "this is an exported TorchScript model, not a checkpoint; use it directly "
            "in PETCalculator(...) or in LAMMPS, or give the checkpoint it was made of"
        )
    if len(pickles) != 1:
        raise CheckpointError(
            "expected a file written by torch.save (one data.pkl), "
            f"found {len(pickles)} of it"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in names:
        order = _read_member(archive, f"{prefix}byteorder")
        if order != b"little":
            raise CheckpointError(f"byte order {order!r} is not supported")
    program = _read_member(archive, pickles[0])
    _check_opcodes(program)
    return _Unpickler(program, archive, prefix).load()


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{name} is compressed, torch.save does not do that")
    return archive.read(info)


def _check_opcodes(program: bytes) -> None:
    """Refuse opcodes outside the list, and memo places made to exhaust memory."""
    opcodes = pickletools.genops(program)
    for n_opcodes, (opcode, argument, _) in enumerate(opcodes, start=1):
        if opcode.name not in _OPCODES:
            raise CheckpointError(
                f"refused: pickle opcode {opcode.name} ({argument!r}) does not belong "
                "into a model file"
            )
        # torch numbers its memo in order of writing
        if opcode.name.endswith("PUT") and int(argument or 0) > n_opcodes:
            raise CheckpointError("refused: memo index beyond the pickle's length")


class _Unpickler(pickle._Unpickler):
    """Builds plain data; see the module's docstring.

    This is the unpickler written in Python: the one written in C would look up
    ``__setstate__`` and ``__new__`` of whatever lies on its stack, tensors included.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(
        pickle._Unpickler.dispatch
    )
    stack: list[Any]

    def __init__(self, program: bytes, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get((module, name))
        if found is None:
            raise CheckpointError(
                f"refused: the file asks for {module}.{name}, which a model file has "
                "no need of; do not open this file with other programs"
            )
        return found

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise CheckpointError(f"refused: the file calls {function!r:.100}")
        self.stack[-1] = function.call(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack[-1]
        is_known = any(kind is k for k in (DatasetInfo, TargetInfo, ScriptObject))
        if not is_known or arguments != ():
            raise CheckpointError(f"refused: the file creates {kind!r:.100}")
        self.stack[-1] = kind()

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, StandIn):
            instance.state = state
        elif not isinstance(instance, (StateDict, NumpyType)):
            raise CheckpointError(f"refused: the file changes {instance!r:.100}")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise CheckpointError(f"refused: unknown persistent object {pid!r:.100}")
        _, kind, key, location, n_elements = pid
        is_known = (
            isinstance(kind, StorageKind)
            and isinstance(key, str)
            and isinstance(location, str)
            and type(n_elements) is int
            and n_elements >= 0
        )
        if not is_known:
            raise CheckpointError(f"refused: malformed tensor storage {pid!r:.100}")
        dtype = kind.dtype
        if key not in self._storages:
            self._storages[key] = self._read_storage(key)
        storage = self._storages[key]
        n_bytes = n_elements * dtype.itemsize
        if storage.numel() != n_bytes:
            raise CheckpointError(
                f"tensor storage {key}: expected {n_bytes} bytes, "
                f"the file has {storage.numel()}"
            )
        return Storage(storage, dtype)

    def _read_storage(self, key: str) -> Tensor:
        if not key.isdigit():
            raise CheckpointError(f"refused: tensor storage named {key!r:.100}")
        try:
            content = _read_member(self._archive, f"{self._prefix}data/{key}")
        except KeyError as error:
            raise CheckpointError(f"tensor storage {key} is missing") from error
        if not content:
            return torch.empty(0, dtype=torch.uint8)
        # a bytearray, because tensors over read-only bytes are undefined behaviour
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

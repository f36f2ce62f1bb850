"""Write a file so that a crash, or a full disk, never leaves half of it."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from pet_calc.system.paths import expand_path


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write ``path`` through a temporary file in the same folder.

    An older file of this name stays whole until the new one is on disk. If ``write``
    raises, the temporary file is removed and the older file is untouched.

    Args:
        path: the file; its folder must exist.
        write: called once with the open binary file, which it only writes to.

    Raises:
        OSError: if the file cannot be written whole, such as on a full disk, whatever
            ``write`` makes of that.
    """
    path = Path(expand_path(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            guarded = _Guarded(file)
            try:
                write(cast(BinaryIO, guarded))
            except Exception as error:
                raise guarded.error or error from error
            if guarded.error is not None:
                raise guarded.error
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # the name that the caller knows
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 likewise."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


class _Guarded:
    """A file whose first error waits until the writer is done.

    The writers of torch do not bear one: on a full disk they raise a RuntimeError of
    their own, or end the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or do nothing after an error; return how much is to be written."""
        n_bytes = memoryview(data).nbytes
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return n_bytes

    def flush(self) -> None:
        """Do nothing; the file is flushed in the end."""


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the data is synced already
        pass
    finally:
        os.close(handle)

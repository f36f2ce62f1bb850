"""Write a file so that a crash, or a full disk, never leaves half of it."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write ``path`` through a temporary file in the same folder.

    An older file of this name stays whole until the new one is on disk. If ``write``
    raises, the temporary file is removed and the older file is untouched.

    Args:
        path: the file; its folder must exist.
        write: called once with the open binary file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 likewise."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


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

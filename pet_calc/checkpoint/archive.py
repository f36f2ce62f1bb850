"""Is a zip archive what was written? Its checksums say, and torch does not look."""

import struct
import zipfile
import zlib
from pathlib import Path

from pet_calc.errors import CheckpointError

# what zipfile raises over damaged bytes, besides its own error
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # UnicodeDecodeError is one
    RuntimeError,  # NotImplementedError is one; entries that claim to be encrypted
    OverflowError,
    LookupError,
    MemoryError,
)


def verify_archive(path: str | Path) -> None:
    """Raise ``CheckpointError`` if any entry differs from its checksum.

    Every zip archive has one for each entry. TorchScript's reader ignores them, so a
    file in which a disk or a download changed bits loads, and gives other numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            names = archive.namelist()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (*DAMAGED, OSError) as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"{path}: the file is damaged ({reason}); copy or download it again"
        ) from error
    if bad is not None or len(set(names)) != len(names):
        part = bad or "an entry that is there twice"
        raise CheckpointError(
            f"{path}: the file is damaged: {part} differs from its checksum; copy or "
            "download it again"
        )


def has_code(path: str | Path) -> bool:
    """Return whether the file is a TorchScript archive, by its content."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (*DAMAGED, FileNotFoundError):
        # whoever opens it will say what is wrong
        return False

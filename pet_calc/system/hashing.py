"""Checksums of files."""

import hashlib
from pathlib import Path

from pet_calc.system.paths import expand_path


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(expand_path(path)).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

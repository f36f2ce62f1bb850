"""Paths as people write them, with ``~`` and ``$VAR``."""

import os
from pathlib import Path


def expand_path(path: str | Path) -> str:
    """Return a path with ``~`` and ``$VAR`` filled in; an existing file stays as it is.

    A variable that is not set stays as written, so that a message shows it.
    """
    text = str(path)
    if not text.startswith("~") and "$" not in text:
        return text
    if os.path.lexists(text):
        return text
    return os.path.expandvars(os.path.expanduser(text))

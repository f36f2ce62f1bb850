"""Locks between processes, which the system releases when a process ends."""

import fcntl
from typing import IO, Any


def lock_file(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed.

    Args:
        file: opened for writing.
        wait: until another process releases it.

    Returns:
        Whether the lock was got; always True after waiting.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True

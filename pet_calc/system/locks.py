"""Locks between processes, which the system releases when a process ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(path: Path, *, waits: bool = True, message: str = "") -> Iterator[bool]:
    """Hold a lock during the block; give whether it was got.

    Args:
        path: of a file that stands for the lock, and is gone afterwards.
        waits: until another process releases it; else the block runs without it.
        message: logged if it has to wait.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not waits:
            yield False
            return
        if message:
            logger.info("%s", message)
        lock.acquire()
    try:
        yield True
    finally:
        # first, so that nobody comes to hold a file that is gone; Windows refuses it
        with suppress(OSError):
            path.unlink()
        lock.release()

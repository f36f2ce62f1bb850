"""Run an evaluation on fewer of torch's threads than there are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def use_threads(n_threads: int) -> Iterator[None]:
    """Run on so many threads, and give back what the calling thread had.

    OpenMP, and torch with it, keeps the number for each thread of Python by itself, so
    that evaluations in several threads do not disturb each other. It takes less than a
    microsecond.
    """
    before = torch.get_num_threads()
    if n_threads == before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""What a process made by ``fork`` needs, such as a worker of ``multiprocessing.Pool``.

Only the thread that forks lives on in the child. OpenMP does not know that its other
threads are gone: the first loop that wants them waits for ever. One thread asks for
none, and workers that share the machine are better off with one each.
"""

import functools
import logging
import os

import torch

logger = logging.getLogger(__name__)


@functools.cache
def prepare_for_forks() -> None:
    """Have every process that is forked from now on use one thread of torch's.

    Called by the first evaluation, since forks before it do no harm; a child may set
    another number afterwards only if it is 1.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        logger.debug("process %d was forked: one thread of torch's", os.getpid())

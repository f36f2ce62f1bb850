"""How much goes through the model at once, and what is said where it does not fit."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from ase import Atoms

from pet_calc.calculator.backend import Backend
from pet_calc.errors import TooLargeError
from pet_calc.model.batch import Batch
from pet_calc.model.memory import estimate_bound, is_out_of_memory, measure_memory

logger = logging.getLogger(__name__)

# pairs and atoms that one batch may hold: about 1 GB for a mid-sized model
DEFAULT_BATCH_TOKENS = 20_000
# how often a system is halved to find a part of it that fits
_N_HALVINGS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class AtOnce(Generic[Item]):
    """Computes items some at once; fewer from where memory ran out."""

    def __init__(
        self, most: int, measure: Callable[[Item], int], unit: str = "pairs and atoms"
    ) -> None:
        """Say how many.

        Args:
            most: the largest sum of sizes; one item alone may be larger.
            measure: size of an item.
            unit: of the size, for messages.
        """
        self.most = most
        self._measure = measure
        self._unit = unit

    def run(
        self, items: Iterable[Item], compute: Callable[[Sequence[Item]], Result]
    ) -> Iterator[Result]:
        """Yield ``compute`` of one run of items after the other, in order.

        Items are taken as they are needed. Where memory runs out with several at once,
        they are tried again in smaller runs, and so are those that follow. With one
        alone the error passes.
        """
        source = ((self._measure(item), item) for item in items)
        waiting: deque[tuple[int, Item]] = deque()
        following = next(source, None)
        filled = 0
        while following is not None or waiting:
            # one more than fits is looked at, to know that it does not
            while following is not None and (
                not waiting or filled + following[0] <= self.most
            ):
                waiting.append(following)
                filled += following[0]
                following = next(source, None)
            run = self._take(waiting)
            size = sum(each[0] for each in run)
            try:
                result = compute([item for _, item in run])
            except (RuntimeError, MemoryError) as error:
                if len(run) == 1 or not is_out_of_memory(error):
                    raise
            else:
                filled -= size
                yield result
                continue
            # outside of the handler: the traceback held tensors
            self._sink(size)
            waiting.extendleft(reversed(run))

    def _take(self, waiting: deque[tuple[int, Item]]) -> list[tuple[int, Item]]:
        run = [waiting.popleft()]
        size = run[0][0]
        while waiting and size + waiting[0][0] <= self.most:
            size += waiting[0][0]
            run.append(waiting.popleft())
        return run

    def _sink(self, size: int) -> None:
        self.most = max(size // 2, 1)
        logger.warning(
            "out of memory with %d %s at once; from now on at most %d",
            size,
            self._unit,
            self.most,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def count_batch_tokens(batch: Batch) -> int:
    """Return the pairs and atoms of a batch."""
    return len(batch.centers) + len(batch.species)


def run_if_it_fits(
    backend: Backend, atoms: Atoms, compute: Callable[[], Result]
) -> Result:
    """Return what ``compute`` does, or say which size of such a system would fit.

    Where memory ran out, parts of the system are tried until one fits. What it takes,
    and the memory that is free, give the estimate.

    Args:
        backend: that evaluates.
        atoms: what it evaluates.
        compute: has it do so.

    Raises:
        TooLargeError: where memory runs out.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    # outside of the handler: the traceback held tensors
    raise _build_error(backend, atoms, reason)


def _build_error(backend: Backend, atoms: Atoms, reason: str) -> TooLargeError:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    n_atoms, n_tokens = len(atoms), backend.count_tokens(atoms)
    advice = "take another device, dtype='float32', or several ranks of LAMMPS"
    text = (
        f"{n_atoms} atoms with {n_tokens - n_atoms} pairs do not fit in the memory of "
        f"{backend.device} ({reason})"
    )
    part = _find_part_that_fits(backend, atoms)
    if part is None:
        return TooLargeError(f"{text}, nor does a small part of them; {advice}")
    n_part, part_tokens, n_bytes = part
    bound = estimate_bound(n_bytes, part_tokens, backend.device)
    if bound is not None and part_tokens <= bound < n_tokens:
        # tokens, not atoms, need memory: a part has fewer pairs at its surface
        n_fitting = max(int(bound * n_atoms / n_tokens), 1)
        return TooLargeError(
            f"{text}; about {n_fitting} such atoms would ({bound} pairs and atoms; "
            f"a part of {n_part} atoms took {n_bytes / 1e6:.3g} MB); {advice}"
        )
    return TooLargeError(f"{text}; a part of {n_part} atoms does; {advice}")


def _find_part_that_fits(
    backend: Backend, atoms: Atoms
) -> tuple[int, int, float] | None:
    """Return atoms, tokens and bytes of a part of the system that runs, if one does."""
    distances = np.linalg.norm(atoms.positions - atoms.positions[0], axis=1)
    order = np.argsort(distances, kind="stable")
    for k in range(1, _N_HALVINGS + 1):
        n_part = len(atoms) >> k
        if n_part == 0:
            return None
        part = atoms[np.sort(order[:n_part])]
        part.pbc = False
        try:
            with backend.apart(), measure_memory(backend.device) as memory:
                backend.compute(part, ["energy", "forces"], False)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return n_part, backend.count_tokens(part), memory["bytes"]
    return None

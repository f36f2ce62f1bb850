"""How much goes through the model at once: found by trying, and cut when too much.

Whatever is cut, a step's loss and gradient are those of the whole step.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from pet_calc.data.loader import MicroBatch, Step
from pet_calc.data.split import split_in_two
from pet_calc.errors import DataError
from pet_calc.model.memory import estimate_bound, is_out_of_memory

T = TypeVar("T")

logger = logging.getLogger(__name__)


class MemoryBound:
    """The most pairs and atoms that are tried at once; sinks when memory runs out."""

    def __init__(self, most_tokens: int | None = None) -> None:
        self.most_tokens = most_tokens
        """None is no limit that is known."""

    def run(
        self,
        step: Step,
        compute: Callable[[MicroBatch], T],
        source: Callable[[int], str],
    ) -> Iterator[T]:
        """Yield ``compute`` of each part of a step, cut until each fits in memory.

        Args:
            step: of the loader.
            compute: must have no effect where it raises.
            source: names the frame of an index, for a message.

        Raises:
            DataError: if a single frame does not fit.
        """
        waiting = list(reversed(step.parts))
        while waiting:
            part = waiting.pop()
            too_large = self.most_tokens is not None and part.n_tokens > (
                self.most_tokens
            )
            if too_large and part.n_frames > 1:
                waiting.extend(reversed(split_in_two(part)))
                continue
            try:
                result = compute(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = (str(error) or type(error).__name__).splitlines()[0]
            else:
                yield result
                continue
            # outside of the handler: the traceback held the tensors of the step
            self._sink(part, message, source)
            waiting.extend(reversed(split_in_two(part)))

    def _sink(
        self, part: MicroBatch, message: str, source: Callable[[int], str]
    ) -> None:
        n_pairs = len(part.batch.centers)
        if part.n_frames == 1:
            raise DataError(
                f"{source(part.indices[0])}: does not fit in memory even alone, with "
                f"{n_pairs} pairs ({message}); leave it out, or use a device with "
                "more memory"
            )
        self.most_tokens = part.n_tokens // 2
        logger.warning(
            "out of memory with %d frames and %d pairs at once; cut in two, and "
            "from now on at most %d pairs and atoms at once",
            part.n_frames,
            n_pairs,
            self.most_tokens,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def add_gradient(loss: Tensor, parameters: list[torch.nn.Parameter]) -> None:
    """Add the loss's gradient to ``.grad``, to that of all parameters or to none.

    ``loss.backward()`` could run out of memory with half of them done.
    """
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient.detach()
        else:
            parameter.grad.add_(gradient)


def choose_bound(
    n_bytes: float, n_tokens: int, device: torch.device, *, n_ranks: int = 1
) -> int | None:
    """Return how many pairs and atoms fit, from what one step took; None if unknown.

    Args:
        n_bytes: that the step took.
        n_tokens: pairs and atoms that went through the model at once.
        device: where it ran.
        n_ranks: processes that share this machine's memory.
    """
    bound = estimate_bound(n_bytes, n_tokens, device, n_ranks=n_ranks)
    if bound is None:
        return None
    logger.info(
        "memory: %.1f kB per pair in a training step: at most %d pairs and atoms at "
        "once",
        n_bytes / n_tokens / 1e3,
        bound,
    )
    return bound


def describe_frame(dataset: Any) -> Callable[[int], str]:
    """Return a function that names the frame of an index."""
    return lambda index: str(dataset.frames[index].source)

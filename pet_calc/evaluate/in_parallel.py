"""Frames that several processes evaluate together, in the order of the files.

They are dealt out in blocks: process k of n evaluates block k of each round of n
blocks, and the first one collects the round. So what it has is always all frames up to
some number. Every process reads all frames, which takes 0.6 ms for a molecule of 21
atoms and bounds what more processes can gain.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

import torch.distributed as dist

from pet_calc.data.frames import LabeledFrame
from pet_calc.errors import ConfigError
from pet_calc.evaluate.predict import BatchPredictor, PredictedBatch

FAILED = -1
"""What the first process tells the others if it cannot begin."""

# atoms in a block: about what fits in a batch
_BLOCK_ATOMS = 1000


def predict_shared(
    predictor: BatchPredictor,
    frames: Iterable[LabeledFrame],
    ranks: Ranks,
    first: int = 0,
) -> Iterator[PredictedBatch]:
    """Yield all batches in the order of the frames in the first process.

    The others get none, but must take part. A single process evaluates all frames, in
    batches that do not end with a block.

    Args:
        predictor: of this process.
        frames: all of them, the same ones in each process.
        ranks: the processes, joined already.
        first: number of the first of the frames.
    """
    rank, size = ranks
    if size == 1:
        yield from predictor.predict(frames, first=first)
        return
    # results lie on the CPU, also where the processes talk through NCCL
    group = dist.new_group(backend="gloo")
    blocks = _cut(frames)
    while blocks_of_round := list(islice(blocks, size)):
        own: list[PredictedBatch] = []
        n_before = [0, *accumulate(len(block) for block in blocks_of_round)]
        if rank < len(blocks_of_round):
            start = first + n_before[rank]
            own = list(predictor.predict(blocks_of_round[rank], first=start))
        first += n_before[-1]
        gathered: list[list[PredictedBatch]] = [[]] * size
        dist.gather_object(own, gathered if rank == 0 else None, group=group)
        if rank == 0:
            for batches in gathered:
                yield from batches


def tell_all(number: int, ranks: Ranks) -> int:
    """Return the first process's number in every process.

    Raises:
        ConfigError: in the others, if it is ``FAILED``.
    """
    rank, size = ranks
    if size == 1:
        return number
    told: list[int] = [number]
    dist.broadcast_object_list(told)
    if rank > 0 and told[0] == FAILED:
        raise ConfigError("the first process could not begin; its message says why")
    return told[0]


def _cut(frames: Iterable[LabeledFrame]) -> Iterator[list[LabeledFrame]]:
    """Yield the frames in blocks, each closed by the frame that fills it."""
    block: list[LabeledFrame] = []
    n_atoms = 0
    for frame in frames:
        block.append(frame)
        n_atoms += frame.n_atoms
        if n_atoms >= _BLOCK_ATOMS:
            yield block
            block, n_atoms = [], 0
    if block:
        yield block

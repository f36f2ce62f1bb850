"""Turn structures and their labels: in training at random, in validation for good.

PET is not equivariant. What it says of a structure depends on how that stands in space,
so it learns from frames that stand anyhow, and is judged on frames that do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from pet_calc.config.train_options import Augmentation
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.systems import Labels
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch

Matrices = npt.NDArray[np.float64]

# Which draws a set of frames gets: no two sets of a run share them. Those that models
# are judged in do not depend on a run's seed, so that runs can be compared.
TRAINING, REPLAY, JUDGED = range(3)
# added to a stream: of the second orientation that a frame has in a step
_SECOND = 16


@dataclass(frozen=True)
class Orientation:
    """How the frames of a data set stand, by epoch and frame and nothing else."""

    kind: Augmentation = "O3"
    """O3: any rotation, half of them with an inversion through the origin."""
    seed: int = 0
    """Of the run."""
    stream: int = TRAINING
    """Which of the run's draws these are."""
    is_fixed: bool = False
    """Whether a frame stands the same in each epoch."""

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in get_args(Augmentation):
            raise ConfigError(
                f"augmentation: expected one of {', '.join(get_args(Augmentation))}, "
                f"got {self.kind}"
            )

    def draw(self, epoch: int, frames: Iterable[int]) -> Matrices:
        """Return an orthogonal matrix for each frame, [n_frames, 3, 3].

        Args:
            epoch: pass over the data, or a number of one's own for further draws.
            frames: their indices in the data set.
        """
        epoch = 0 if self.is_fixed else epoch
        key = np.array([self.seed, self.stream], dtype=np.uint64)
        draws = np.array(
            [
                # a counter, not a state: no draw depends on those before it
                np.random.Generator(
                    np.random.Philox(key=key, counter=[0, 0, epoch, frame])
                ).standard_normal(5)
                for frame in frames
            ]
        ).reshape(-1, 5)
        matrices = np.tile(np.eye(3), (len(draws), 1, 1))
        if self.kind in ("O3", "rotations"):
            # normal draws of a quaternion are uniform over rotations
            matrices = Rotation.from_quat(draws[:, :4]).as_matrix()
        if self.kind in ("O3", "inversions"):
            matrices = matrices * np.where(draws[:, 4] < 0, -1.0, 1.0)[:, None, None]
        return matrices

    def find_second(self) -> "Orientation":
        """Return the draws of a second orientation for the same epochs and frames."""
        return replace(self, stream=self.stream + _SECOND)


# How models are judged: in an orientation of each frame's own, the same for all models.
AS_JUDGED = Orientation(stream=JUDGED, is_fixed=True)
# more of them, by a number in place of the epoch
FURTHER = Orientation(stream=JUDGED)


def turn_as_judged(frames: Sequence[LabeledFrame]) -> list[LabeledFrame]:
    """Return copies of the frames in the orientations in which models are judged."""
    matrices = AS_JUDGED.draw(0, range(len(frames)))
    return [turn_frame(*pair) for pair in zip(frames, matrices, strict=True)]


def turn_batch(batch: Batch, matrices: Tensor) -> Batch:
    """Return the batch with each system turned about the origin.

    Args:
        batch: the structures.
        matrices: [n_systems, 3, 3], orthogonal; positions become Q r.
    """
    return batch._replace(
        positions=turn_rows(batch.positions, matrices, batch.system_of_atom),
        cells=torch.bmm(batch.cells, matrices.transpose(1, 2).to(batch.cells)),
    )


def turn_labels(labels: Labels, matrices: Tensor, system_of_atom: Tensor) -> Labels:
    """Return the labels of the turned systems: forces Q f, stress Q s Q^T."""
    return labels._replace(
        forces=turn_rows(labels.forces, matrices, system_of_atom),
        stress=turn_tensors(labels.stress, matrices),
    )


def turn_frame(frame: LabeledFrame, matrix: Matrices) -> LabeledFrame:
    """Return a turned copy of a frame, its labels included."""

    def rows(values: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64] | None:
        return None if values is None else values @ matrix.T

    def tensor(
        values: npt.NDArray[np.float64] | None,
    ) -> npt.NDArray[np.float64] | None:
        return None if values is None else matrix @ values @ matrix.T

    return replace(
        frame,
        positions=frame.positions @ matrix.T,
        cell=frame.cell @ matrix.T,
        forces=rows(frame.forces),
        stress=tensor(frame.stress),
        direct_forces=rows(frame.direct_forces),
        direct_stress=tensor(frame.direct_stress),
    )


def turn_rows(rows: Tensor, turns: Tensor, system_of_row: Tensor) -> Tensor:
    """Return vectors [n, 3] turned by the matrix of their system: Q v.

    Args:
        rows: in any dtype.
        turns: [n_systems, 3, 3].
        system_of_row: [n].
    """
    transposed = turns.transpose(1, 2).to(rows)
    if transposed.shape[0] == 1:
        return rows @ transposed[0]
    of_row = transposed.index_select(0, system_of_row)
    return torch.bmm(rows.unsqueeze(1), of_row).squeeze(1)


def turn_tensors(tensors: Tensor, turns: Tensor) -> Tensor:
    """Return tensors [n_systems, 3, 3] turned: Q T Q^T."""
    turns = turns.to(tensors)
    return torch.bmm(torch.bmm(turns, tensors), turns.transpose(1, 2))

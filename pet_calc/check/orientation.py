"""Find sets whose frames all stand in space the same way."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from pet_calc.check.finding import Finding
from pet_calc.data.frames import LabeledFrame

# degrees; random turns are below 20 in one pair of a thousand
SAME_ANGLE = 20.0
# of the frames, before a set is said to stand in one way
MOST = 0.7
LEAST_FRAMES = 5
# frames of a structure that the others are compared with
N_TRIED = 10


def check_orientation(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report a set that shows the model one orientation of each structure only.

    Crystals are compared by their cells, molecules of the same atoms by the rotation
    that brings one onto the other. Structures that are there once say nothing.
    """
    groups: dict[tuple[bytes, bool], list[LabeledFrame]] = defaultdict(list)
    for frame in frames:
        if frame.n_atoms > 2:
            groups[frame.numbers.tobytes(), bool(frame.pbc.all())].append(frame)
    found = [_find_angles(g) for g in groups.values() if len(g) >= LEAST_FRAMES]
    angles = np.concatenate([np.zeros(0), *found])
    if not len(angles) or np.mean(angles < SAME_ANGLE) < MOST:
        return []
    return [
        Finding(
            "note",
            "one-orientation",
            f"frames of one structure stand in one orientation: "
            f"{np.sum(angles < SAME_ANGLE)} of {len(angles)} within {SAME_ANGLE:g} "
            "degrees of each other",
            "train with `pet-calc finetune --augmentation O3`, the default: from it "
            "PET learns the other orientations, which MD and LAMMPS will ask for",
        )
    ]


def _find_angles(frames: Sequence[LabeledFrame]) -> np.ndarray:
    """Return the angles in degrees to the orientation that most frames have."""
    tried = [_turns_from(frame, frames) for frame in frames[:N_TRIED]]
    return max(tried, key=lambda angles: int(np.sum(angles < SAME_ANGLE)))


def _turns_from(first: LabeledFrame, frames: Sequence[LabeledFrame]) -> np.ndarray:
    """Return the angles in degrees by which frames are turned from the first."""
    if first.pbc.all():
        to_first = [np.linalg.solve(first.cell, frame.cell).T for frame in frames]
    else:
        # the covariance, whose nearest rotation is the best fit of one onto the other
        at_first = first.positions - first.positions.mean(axis=0)
        to_first = [
            (frame.positions - frame.positions.mean(axis=0)).T @ at_first
            for frame in frames
        ]
    angles = []
    for matrix in to_first:
        left, _, right = np.linalg.svd(matrix)
        rotation = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
        angles.append(np.degrees(Rotation.from_matrix(rotation).magnitude()))
    return np.array(angles)

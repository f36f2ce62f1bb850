"""Make frames that the base can label: displaced, strained, elements exchanged.

They stand in for the base's training data where that is not at hand.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from ase.data import covalent_radii

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.neighbors import compute_pairs
from pet_calc.errors import DataError

logger = logging.getLogger(__name__)

# Å, standard deviation of a displacement: thermal at about 300 K to 2000 K
DISPLACEMENTS = (0.02, 0.15)
# largest component of the strain of a cell
STRAIN = 0.04
# an element is exchanged for one whose covalent radius is within this factor
LIKE_RADIUS = 1.35
# of the sum of the covalent radii: nearer atoms are a clash
CLOSEST = 0.65
# eV/Å: beyond it the base was hardly trained and its label teaches nothing
LARGEST_FORCE = 25.0
# draws per wanted frame before giving up
MOST_DRAWS = 20

Labeller = Callable[[Sequence[LabeledFrame]], list[LabeledFrame]]


def generate_frames(
    frames: Sequence[LabeledFrame],
    n_frames: int,
    known: Sequence[int],
    label: Labeller,
    *,
    seed: int,
) -> list[LabeledFrame]:
    """Return ``n_frames`` labelled variations of the frames, the same for a seed.

    All are displaced and, if periodic, strained; every other one has an element
    exchanged for one of similar size that the base knows. Those with clashing atoms
    or a label beyond ``LARGEST_FORCE`` are drawn anew, and counted in the log.

    Args:
        frames: to start from.
        n_frames: how many to make.
        known: atomic numbers that the base knows; frames with others have these
            exchanged, or are not used.
        label: gives frames the base's labels.
        seed: of the variations.

    Raises:
        DataError: if hardly any variation can be used.
    """
    rng = np.random.default_rng([seed, 5])
    made: list[LabeledFrame] = []
    n_clashing = n_forceful = n_exchanged = 0
    n_left = MOST_DRAWS * n_frames
    while len(made) < n_frames and n_left > 0:
        drawn: list[LabeledFrame] = []
        for k in range(min(n_frames - len(made), n_left)):
            n_left -= 1
            frame = frames[int(rng.integers(len(frames)))]
            varied = vary_frame(frame, known, rng, exchange=k % 2 == 1)
            if varied is None or _has_clash(varied):
                n_clashing += 1
            else:
                drawn.append(varied)
        for frame in label(drawn) if drawn else []:
            assert frame.forces is not None
            if np.linalg.norm(frame.forces, axis=1).max() > LARGEST_FORCE:
                n_forceful += 1
            else:
                made.append(frame)
                n_exchanged += frame.config_type == _EXCHANGED
    if len(made) < n_frames:
        raise DataError(
            f"replay.generate: only {len(made)} of {n_frames} frames could be made of "
            f"the training set ({n_clashing} with clashing atoms or without elements "
            f"that the base knows, {n_forceful} with forces above {LARGEST_FORCE:g} "
            "eV/A); give a replay_set instead"
        )
    logger.info(
        "replay: made %d frames of the training set, %d with an element exchanged; "
        "drawn anew: %d with clashing atoms, %d with forces above %g eV/A",
        n_frames,
        n_exchanged,
        n_clashing,
        n_forceful,
        LARGEST_FORCE,
    )
    return made


_EXCHANGED, _DISPLACED = "exchanged", "displaced"


def vary_frame(
    frame: LabeledFrame,
    known: Sequence[int],
    rng: np.random.Generator,
    *,
    exchange: bool,
) -> LabeledFrame | None:
    """Return a variation without labels, None if an unknown element has no like one."""
    numbers = frame.numbers.copy()
    unknown = [z for z in np.unique(numbers).tolist() if z not in known]
    for z in unknown:
        like = _find_like(z, known)
        if not like:
            return None
        numbers[numbers == z] = rng.choice(like)
    has_exchanged = bool(unknown)
    if exchange and not unknown:
        options = {z: _find_like(z, known) for z in np.unique(numbers).tolist()}
        options = {z: like for z, like in options.items() if like}
        if options:
            z = int(rng.choice(list(options)))
            atoms = np.flatnonzero(numbers == z)
            n_atoms = int(rng.integers(1, len(atoms) + 1))
            numbers[rng.choice(atoms, n_atoms, replace=False)] = rng.choice(options[z])
            has_exchanged = True
    size = rng.uniform(*DISPLACEMENTS)
    positions = frame.positions + size * rng.standard_normal(frame.positions.shape)
    cell = frame.cell.copy()
    if frame.pbc.any():
        strain = rng.uniform(-STRAIN, STRAIN, (3, 3))
        deformation = np.eye(3) + 0.5 * (strain + strain.T)
        # a slab keeps its vacuum: only periodic directions are strained
        deformation = np.where(
            frame.pbc[:, None] & frame.pbc[None, :], deformation, np.eye(3)
        )
        positions, cell = positions @ deformation, cell @ deformation
    return LabeledFrame(
        numbers=numbers,
        positions=positions,
        cell=cell,
        pbc=frame.pbc,
        charge=frame.charge,
        spin_multiplicity=frame.spin_multiplicity,
        source=f"made of {frame.source}",
        config_type=_EXCHANGED if has_exchanged else _DISPLACED,
    )


def _find_like(number: int, known: Sequence[int]) -> list[int]:
    radius = covalent_radii[number]
    return [
        z
        for z in known
        if z != number and 1 / LIKE_RADIUS < covalent_radii[z] / radius < LIKE_RADIUS
    ]


def _has_clash(frame: LabeledFrame) -> bool:
    radii = covalent_radii[frame.numbers]
    reach = 2.0 * CLOSEST * float(radii.max())
    centers, neighbors, shifts = compute_pairs(
        frame.positions, frame.cell, frame.pbc, reach
    )
    vectors = frame.positions[neighbors] - frame.positions[centers]
    distances = np.linalg.norm(vectors + shifts @ frame.cell, axis=1)
    sums = radii[centers] + radii[neighbors]
    return bool((distances < CLOSEST * sums).any())

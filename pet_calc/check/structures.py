"""Find structures that are there twice, in training and validation, or fall apart."""

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from pet_calc.check.finding import Finding, list_sources, name_frames
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.neighbors import compute_pairs

# Å, in positions and cell: what is written with 6 digits is the same
SAME = 1e-6
# eV/atom between two calculations of one structure; converged ones agree to 1e-6
SAME_ENERGY = 1e-4
# Å; farther than any bond, and than most cutoffs reach with a neighbour left
ALONE = 6.0
# of the sum of covalent radii; bonds have 0.8 and more
CLOSE = 0.5


def check_duplicates(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report structures that are there more than once, and those with two energies."""
    groups = [group for group in group_same(frames) if len(group) > 1]
    if not groups:
        return []
    n_extra = sum(len(group) - 1 for group in groups)
    largest = max(groups, key=len)
    named = name_frames([frames[i] for i in largest])
    findings = [
        Finding(
            "warning",
            "duplicates",
            f"{n_extra} of {len(frames)} frames repeat another one (same elements, "
            f"positions and cell to {SAME:g} A), such as {named}",
            "remove the copies: they weigh more, and a random split puts them on both "
            "sides",
            frames=list_sources([frames[i] for i in largest]),
        )
    ]
    spreads = [_energy_spread([frames[i] for i in group]) for group in groups]
    worst = int(np.argmax(spreads))
    if spreads[worst] > SAME_ENERGY:
        n_bad = sum(spread > SAME_ENERGY for spread in spreads)
        named = name_frames([frames[i] for i in groups[worst]])
        findings.append(
            Finding(
                "warning",
                "contradicting-duplicates",
                f"{n_bad} structures have several energies, up to "
                f"{1000 * spreads[worst]:.3g} meV/atom apart: {named}",
                "find out which calculation is the right one, and keep that only",
                frames=list_sources([frames[i] for i in groups[worst]]),
            )
        )
    return findings


def check_contradictions(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report structures with two energies, and not that they are there twice."""
    findings = check_duplicates(frames)
    return [f for f in findings if f.code == "contradicting-duplicates"]


def check_leakage(
    train: Sequence[LabeledFrame], held_out: Sequence[LabeledFrame], name: str
) -> list[Finding]:
    """Report structures of ``held_out`` (called ``name``) that are in ``train`` too."""
    groups = group_same([*train, *held_out])
    n_train = len(train)
    leaked = [
        i - n_train
        for group in groups
        if group[0] < n_train
        for i in group
        if i >= n_train
    ]
    if not leaked:
        return []
    named = name_frames([held_out[i] for i in sorted(leaked)])
    return [
        Finding(
            "warning",
            "leakage",
            f"{len(leaked)} of {len(held_out)} {name} frames are in the training set "
            f"too: {named}",
            f"remove them, or the {name} errors promise too much",
            frames=list_sources([held_out[i] for i in sorted(leaked)]),
        )
    ]


def check_alone(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report atoms without any neighbour in frames of several atoms."""
    found = [frame for frame in frames if has_lone_atom(frame)]
    if not found:
        return []
    return [
        Finding(
            "warning",
            "lone-atoms",
            f"{len(found)} of {len(frames)} frames have an atom farther than "
            f"{ALONE:g} A from all others: {name_frames(found)}",
            "check positions, cell and length unit; if they evaporated in MD, leave "
            "them out",
            frames=list_sources(found),
        )
    ]


def check_close(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report atoms nearer to each other than half the sum of their covalent radii."""
    found = []
    for frame in frames:
        pair = find_closest(frame)
        if pair is not None and pair[0] < CLOSE:
            found.append((*pair, frame))
    if not found:
        return []
    ratio, distance, symbols, worst = min(found, key=lambda entry: entry[0])
    return [
        Finding(
            "note",
            "close-atoms",
            f"{len(found)} of {len(frames)} frames have atoms closer than half the sum "
            f"of their covalent radii: {name_frames([entry[3] for entry in found])}; "
            f"the closest are {symbols}, {distance:.3g} A apart ({ratio:.2f} of the "
            f"sum) in {worst.source}",
            "nothing if these are scans of repulsion or collisions; else check the "
            "length unit, or leave them out",
            frames=list_sources([entry[3] for entry in found]),
        )
    ]


def find_closest(
    frame: LabeledFrame, ratio: float = CLOSE
) -> tuple[float, float, str] | None:
    """Return distance over sum of radii, distance, and names of the nearest atoms.

    None where all are farther apart than ``ratio`` times twice the largest radius.
    """
    radii = covalent_radii[frame.numbers]
    reach = 2 * ratio * float(radii.max())
    pairs = compute_pairs(frame.positions, frame.cell, frame.pbc, reach)
    centers, neighbors, shifts = pairs
    if len(centers) == 0:
        return None
    vectors = frame.positions[neighbors] - frame.positions[centers]
    vectors = vectors + shifts @ np.where(frame.pbc[:, None], frame.cell, 0.0)
    distances = np.linalg.norm(vectors, axis=1)
    ratios = distances / (radii[centers] + radii[neighbors])
    k = int(ratios.argmin())
    i, j = (chemical_symbols[frame.numbers[atom[k]]] for atom in (centers, neighbors))
    return float(ratios[k]), float(distances[k]), f"{i} and {j}"


def group_same(frames: Sequence[LabeledFrame]) -> list[list[int]]:
    """Return the indices of the same structures, each list ascending.

    Structures are first apart by a hash of elements and periodicity. Within those,
    same ones have nearly the same projection on a fixed random direction, so that
    only neighbours in the order of projections need comparing: a hash of rounded
    positions would miss what lies on both sides of a rounding step.
    """
    buckets: dict[int, list[int]] = {}
    for i, frame in enumerate(frames):
        key = hash((frame.numbers.tobytes(), frame.pbc.tobytes()))
        buckets.setdefault(key, []).append(i)
    groups = []
    for indices in buckets.values():
        groups += _group_bucket(frames, indices)
    return sorted(groups)


def _group_bucket(
    frames: Sequence[LabeledFrame], indices: list[int]
) -> list[list[int]]:
    if len(indices) == 1:
        return [indices]
    n_values = 3 * frames[indices[0]].n_atoms + 9
    direction = np.random.default_rng(0).uniform(0.5, 1.5, n_values)
    reach = SAME * float(direction.sum())
    projections = np.array([_flatten(frames[i]) @ direction for i in indices])
    order = np.argsort(projections, kind="stable")
    groups: list[list[int]] = []
    recent: list[tuple[float, list[int]]] = []
    for k in order.tolist():
        value, index = float(projections[k]), indices[k]
        recent = [entry for entry in recent if value - entry[0] <= reach]
        for _, group in recent:
            if _is_same(frames[index], frames[group[0]]):
                group.append(index)
                break
        else:
            groups.append([index])
            recent.append((value, groups[-1]))
    return [sorted(group) for group in groups]


def _flatten(frame: LabeledFrame) -> np.ndarray:
    cell = np.where(frame.pbc[:, None], frame.cell, 0.0)
    return np.concatenate([frame.positions.ravel(), cell.ravel()])


def _is_same(one: LabeledFrame, other: LabeledFrame) -> bool:
    if not np.array_equal(one.numbers, other.numbers):
        return False
    return bool(np.abs(_flatten(one) - _flatten(other)).max() <= SAME)


def _energy_spread(frames: list[LabeledFrame]) -> float:
    energies = [f.energy / f.n_atoms for f in frames if f.energy is not None]
    return max(energies) - min(energies) if energies else 0.0


def has_lone_atom(frame: LabeledFrame, distance: float = ALONE) -> bool:
    """Return whether one of several atoms is farther than that from all others."""
    if frame.n_atoms == 1:
        return False
    centers, _, _ = compute_pairs(frame.positions, frame.cell, frame.pbc, distance)
    return len(np.unique(centers)) < frame.n_atoms

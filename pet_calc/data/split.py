"""Cut a batch in two, where it turns out to be too large."""

import torch

from pet_calc.data.systems import Labels
from pet_calc.data.loader import MicroBatch
from pet_calc.model.batch import Batch


def split_in_two(part: MicroBatch) -> tuple[MicroBatch, MicroBatch]:
    """Return the frames of a batch in two of about the same number of pairs.

    Raises:
        ValueError: for a single frame, which cannot be cut.
    """
    n_systems = len(part.indices)
    if part.n_frames < 2:
        raise ValueError("a batch of one frame cannot be split")
    n_copies = n_systems // part.n_frames
    system_of_pair = part.batch.system_of_atom[part.batch.centers]
    ends = torch.bincount(system_of_pair, minlength=n_systems).cumsum(0)
    half = int(torch.searchsorted(ends, ends[-1] / 2)) + 1
    # the two orientations of a frame stay together
    half = n_copies * min(max(half // n_copies, 1), part.n_frames - 1)
    return _take(part, 0, half), _take(part, half, n_systems)


def _take(part: MicroBatch, first: int, end: int) -> MicroBatch:
    """Return frames ``first`` to ``end`` (excluded); all lie one after the other."""
    batch = part.batch
    bounds = torch.tensor([first, end], device=batch.system_of_atom.device)
    atom_start, atom_end = torch.searchsorted(batch.system_of_atom, bounds).tolist()
    bounds = torch.tensor([atom_start, atom_end], device=batch.centers.device)
    pair_start, pair_end = torch.searchsorted(batch.centers, bounds).tolist()
    atoms, pairs = slice(atom_start, atom_end), slice(pair_start, pair_end)
    frames = slice(first, end)
    return MicroBatch(
        Batch(
            species=batch.species[atoms],
            positions=batch.positions[atoms],
            cells=batch.cells[frames],
            centers=batch.centers[pairs] - atom_start,
            neighbors=batch.neighbors[pairs] - atom_start,
            cell_shifts=batch.cell_shifts[pairs],
            reverse=batch.reverse[pairs] - pair_start,
            system_of_atom=batch.system_of_atom[atoms] - first,
            charges=batch.charges[frames],
            spin_multiplicities=batch.spin_multiplicities[frames],
        ),
        _take_labels(part.labels, frames, atoms),
        part.target,
        part.indices[first:end],
        None if part.direct is None else _take_labels(part.direct, frames, atoms),
        None if part.turns is None else part.turns[frames],
    )


def _take_labels(labels: Labels, frames: slice, atoms: slice) -> Labels:
    return Labels(
        energy=labels.energy[frames],
        has_energy=labels.has_energy[frames],
        forces=labels.forces[atoms],
        has_forces=labels.has_forces[atoms],
        stress=labels.stress[frames],
        has_stress=labels.has_stress[frames],
        weights=labels.weights[frames],
        n_atoms=labels.n_atoms[frames],
    )

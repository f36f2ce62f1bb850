"""What the model reads: many systems, laid end to end, as plain tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Systems laid end to end, with a full neighbour list sorted by centre.

    Pair ``p`` goes from atom ``centers[p]`` to atom ``neighbors[p]``, whose image lies
    ``cell_shifts[p] @ cell`` away. Every pair i->j has its partner j->i with the
    opposite shift at ``reverse[p]``. The list may hold pairs beyond the model's cutoff
    (a skin); the model drops them.
    """

    species: Tensor
    """[n_atoms] int64, atomic numbers."""
    positions: Tensor
    """[n_atoms, 3] in Å."""
    cells: Tensor
    """[n_systems, 3, 3] in Å, rows are lattice vectors, zero where not periodic."""
    centers: Tensor
    """[n_pairs] int64, ascending."""
    neighbors: Tensor
    """[n_pairs] int64."""
    cell_shifts: Tensor
    """[n_pairs, 3] int64."""
    reverse: Tensor
    """[n_pairs] int64, the index of the pair j->i."""
    system_of_atom: Tensor
    """[n_atoms] int64, ascending."""
    charges: Tensor
    """[n_systems] int64, total charge."""
    spin_multiplicities: Tensor
    """[n_systems] int64, 2S + 1."""


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Return the systems of one batch or more in one, with indices that count through.

    A batch may be named several times: its systems are copied then.
    """
    if len(batches) == 1:
        return batches[0]
    n_atoms = n_pairs = n_systems = 0
    moved = []
    for batch in batches:
        moved.append(
            batch._replace(
                centers=batch.centers + n_atoms,
                neighbors=batch.neighbors + n_atoms,
                reverse=batch.reverse + n_pairs,
                system_of_atom=batch.system_of_atom + n_systems,
            )
        )
        n_atoms += batch.species.shape[0]
        n_pairs += batch.centers.shape[0]
        n_systems += batch.cells.shape[0]
    return Batch(*(torch.cat(parts) for parts in zip(*moved, strict=True)))

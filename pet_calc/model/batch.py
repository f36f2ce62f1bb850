"""What the model reads: many systems, laid end to end, as plain tensors."""

from typing import NamedTuple

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

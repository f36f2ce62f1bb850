"""From a batch of structures to the edges that the transformer works on.

This is the index work: which pairs are kept, where each one sits in the padded
attention blocks, and where its reverse went. Nothing here has weights.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pet_calc.model import constants
from pet_calc.model.batch import Batch
from pet_calc.model.cutoff import (
    average_adaptive_radii,
    compute_bump_cutoff,
    compute_cosine_cutoff,
    solve_adaptive_radii,
)


class Edges(NamedTuple):
    """The pairs inside the cutoff, and how they fill the attention blocks.

    A block is one atom with its edges: the node token first, then up to ``n_slots - 1``
    edge tokens. Tokens are stored flat, nodes first, then edges.
    """

    vectors: Tensor
    """[n_edges, 3] from centre to neighbour, Å."""
    distances: Tensor
    """[n_edges] in Å."""
    centers: Tensor
    """[n_edges] int64."""
    neighbors: Tensor
    """[n_edges] int64."""
    reverse: Tensor
    """[n_edges] int64, index of the edge j->i."""
    cutoff_factors: Tensor
    """[n_edges], 1 inside to 0 at the cutoff."""
    token_slots: Tensor
    """[n_atoms + n_edges] int64, place of each token among n_atoms * n_slots."""
    n_slots: int
    """Length of the longest block, at least 1."""


def compute_edge_vectors(batch: Batch) -> Tensor:
    """Return r_j + S cell - r_i for every pair, [n_pairs, 3] in Å."""
    shifts = batch.cell_shifts.to(batch.cells.dtype)
    if batch.cells.shape[0] == 1:
        offsets = shifts @ batch.cells[0]
    else:
        system_of_pair = batch.system_of_atom.index_select(0, batch.centers)
        cells = batch.cells.index_select(0, system_of_pair)
        offsets = torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)
    ends = batch.positions.index_select(0, batch.neighbors)
    return ends - batch.positions.index_select(0, batch.centers) + offsets


def find_reverse_pairs(
    centers: Tensor, neighbors: Tensor, cell_shifts: Tensor
) -> Tensor:
    """Return the index of j->i for every pair i->j of a full neighbour list.

    Args:
        centers: [n_pairs] int64.
        neighbors: [n_pairs] int64.
        cell_shifts: [n_pairs, 3] integers.

    Raises:
        RuntimeError: if some pair has no partner, so the list is not a full one.
    """
    if centers.shape[0] == 0:
        return torch.zeros_like(centers)
    shifts = cell_shifts.to(torch.int64)
    largest = int(shifts.abs().max())
    base = 2 * largest + 1
    n_atoms = int(torch.maximum(centers.max(), neighbors.max())) + 1
    code = torch.zeros_like(centers)
    reverse_code = torch.zeros_like(centers)
    for axis in range(3):
        code = code * base + (shifts[:, axis] + largest)
        reverse_code = reverse_code * base + (largest - shifts[:, axis])
    n_codes = base * base * base
    key = (centers * n_atoms + neighbors) * n_codes + code
    reverse_key = (neighbors * n_atoms + centers) * n_codes + reverse_code
    key, order = torch.sort(key)
    reverse_key, reverse_order = torch.sort(reverse_key)
    if not torch.equal(key, reverse_key):
        raise RuntimeError(
            "PET needs a full neighbour list: some pair i->j came without j->i"
        )
    reverse = torch.empty_like(order)
    reverse[reverse_order] = order
    return reverse


def compute_adaptive_radii(
    distances: Tensor,
    centers: Tensor,
    n_atoms: int,
    n_wanted: float,
    max_cutoff: float,
    width: float,
    method: str,
) -> Tensor:
    """Return the adaptive radius of each atom, [n_atoms] in Å."""
    if method == "solver":
        return solve_adaptive_radii(
            distances, centers, n_atoms, n_wanted, max_cutoff, width
        )
    return average_adaptive_radii(
        distances, centers, n_atoms, n_wanted, max_cutoff, width
    )


def select_edges(
    batch: Batch,
    vectors: Tensor,
    cutoff: float,
    cutoff_width: float,
    cutoff_function: str,
    n_wanted: Optional[float],
    adaptive_width: float,
    adaptive_method: str,
) -> Edges:
    """Return the edges within reach, with cutoff factors and block places.

    Args:
        batch: the structures; pairs beyond the cutoff are allowed and dropped.
        vectors: [n_pairs, 3] from ``compute_edge_vectors``; gradients flow from here.
        cutoff: largest distance of a neighbour, Å.
        cutoff_width: of the fade-out, Å.
        cutoff_function: ``Bump`` or ``Cosine``.
        n_wanted: neighbours wanted per atom, None for the fixed cutoff.
        adaptive_width: of the fade-out in the adaptive count, Å.
        adaptive_method: ``solver`` or ``grid``.
    """
    n_atoms = batch.species.shape[0]
    distances = torch.sqrt(vectors.pow(2).sum(dim=1) + constants.SMALL_SQUARE)
    if n_wanted is not None:
        radii = compute_adaptive_radii(
            distances,
            batch.centers,
            n_atoms,
            n_wanted,
            cutoff,
            adaptive_width,
            adaptive_method,
        )
        of_center = radii.index_select(0, batch.centers)
        # the mean is the same seen from i and from j, so edges stay paired
        reach = 0.5 * (of_center + radii.index_select(0, batch.neighbors))
    else:
        reach = torch.full_like(distances, cutoff)

    centers = batch.centers
    neighbors = batch.neighbors
    reverse = batch.reverse
    is_kept = distances.detach() <= reach.detach()
    if not bool(is_kept.all()):
        kept = torch.nonzero(is_kept).squeeze(1)
        new_index = torch.cumsum(is_kept.to(torch.int64), dim=0) - 1
        reverse = new_index.index_select(0, reverse.index_select(0, kept))
        centers = centers.index_select(0, kept)
        neighbors = neighbors.index_select(0, kept)
        vectors = vectors.index_select(0, kept)
        distances = distances.index_select(0, kept)
        reach = reach.index_select(0, kept)

    if cutoff_function == "Bump":
        factors = compute_bump_cutoff(distances, reach, cutoff_width)
    else:
        factors = compute_cosine_cutoff(distances, reach, cutoff_width)

    counts = torch.bincount(centers, minlength=n_atoms)
    n_slots = 1
    if centers.shape[0] > 0:
        n_slots += int(counts.max())
    first_edge = torch.cumsum(counts, dim=0) - counts
    place = torch.arange(centers.shape[0], device=centers.device)
    place = place - first_edge.index_select(0, centers)
    node_slots = torch.arange(n_atoms, device=centers.device) * n_slots
    edge_slots = centers * n_slots + 1 + place
    return Edges(
        vectors=vectors,
        distances=distances,
        centers=centers,
        neighbors=neighbors,
        reverse=reverse,
        cutoff_factors=factors,
        token_slots=torch.cat([node_slots, edge_slots]),
        n_slots=n_slots,
    )

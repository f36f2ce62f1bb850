"""From a batch of systems to the edges that the transformer works on.

This is the index work: which pairs are kept, where each one sits in the padded
attention blocks, and where its reverse went. Nothing here has weights.
"""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from pet_calc.model import constants
from pet_calc.model.batch import Batch
from pet_calc.model.cutoff import (
    average_adaptive_radii,
    compute_bump_cutoff,
    compute_cosine_cutoff,
    find_trial_radii,
    refine_adaptive_radii,
)
from pet_calc.model.hypers import PETHypers


class EdgeIndex(NamedTuple):
    """Which pairs are edges, and how they fill the attention blocks.

    A block is one atom with its edges: the node token first, then up to ``n_slots - 1``
    edge tokens. Tokens are stored flat, nodes first, then edges. Nothing here carries
    a gradient.
    """

    kept: Tensor
    """[n_edges] int64, the pair that each edge is."""
    centers: Tensor
    """[n_edges] int64, ascending."""
    neighbors: Tensor
    """[n_edges] int64."""
    reverse: Tensor
    """[n_edges] int64, index of the edge j->i."""
    token_slots: Tensor
    """[n_atoms + n_edges] int64, place of each token among n_atoms * n_slots."""
    slot_tokens: Tensor
    """[n_atoms, n_slots] int64, the token in each place, 0 in empty ones."""
    is_filled: Tensor
    """[n_atoms, n_slots] bool, whether a token is there."""
    trial_radii: Tensor
    """[n_atoms] in Å, where the solver's last step starts; [0] without a solver."""


class Edges(NamedTuple):
    """Geometry of the edges; gradients flow through it."""

    vectors: Tensor
    """[n_edges, 3] from centre to neighbour, Å."""
    distances: Tensor
    """[n_edges] in Å."""
    cutoff_factors: Tensor
    """[n_edges], 1 inside to 0 at the cutoff."""


def compute_edge_vectors(batch: Batch) -> Tensor:
    """Return r_j + S cell - r_i for every pair, [n_pairs, 3] in Å."""
    shifts = batch.cell_shifts.to(batch.cells.dtype)
    if batch.cells.shape[0] == 1:
        images = shifts @ batch.cells[0]
    else:
        system_of_pair = batch.system_of_atom.index_select(0, batch.centers)
        cells = batch.cells.index_select(0, system_of_pair)
        images = torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)
    ends = batch.positions.index_select(0, batch.neighbors)
    return ends - batch.positions.index_select(0, batch.centers) + images


def encode_pairs(
    centers: Tensor, neighbors: Tensor, cell_shifts: Tensor
) -> Tuple[Tensor, Tensor]:
    """Return a number for each pair i->j, and the number that its partner j->i has.

    Args:
        centers: [n_pairs] int64, at least one.
        neighbors: [n_pairs] int64.
        cell_shifts: [n_pairs, 3] integers.
    """
    shifts = cell_shifts.to(torch.int64)
    largest = int(shifts.abs().max())
    n_atoms = int(torch.maximum(centers.max(), neighbors.max())) + 1
    n_pairs = centers.shape[0]
    key = centers * n_atoms + neighbors
    reverse_key = neighbors * n_atoms + centers
    base = 2 * largest + 1
    for axis in range(3):
        # atoms that are many cells away: ranks instead, or the product overflows
        if float(n_atoms) * float(n_atoms) * float(base) ** 3 > 4e18:
            both = torch._unique2(torch.cat([key, reverse_key]), True, True, False)[1]
            key, reverse_key = both[:n_pairs], both[n_pairs:]
        key = key * base + (shifts[:, axis] + largest)
        reverse_key = reverse_key * base + (largest - shifts[:, axis])
    return key, reverse_key


def thin_pairs(is_kept: Tensor, reverse: Tensor) -> Tuple[Tensor, Tensor]:
    """Return the numbers of the pairs that stay, and their partners among these.

    Args:
        is_kept: [n_pairs] bool; the same for a pair and for its partner.
        reverse: [n_pairs] int64, the partner of each pair.
    """
    kept = torch.nonzero(is_kept).squeeze(1)
    new_index = torch.cumsum(is_kept.to(torch.int64), dim=0) - 1
    return kept, new_index.index_select(0, reverse.index_select(0, kept))


def compute_distances(vectors: Tensor) -> Tensor:
    """Return the lengths of ``vectors`` [n, 3], with a finite gradient at zero."""
    return torch.sqrt(vectors.pow(2).sum(dim=1) + constants.SMALL_SQUARE)


class EdgeSelector(nn.Module):
    """The cutoff of a model, fixed or adaptive: which pairs count, and how much.

    The work is in two parts. ``index`` decides; its result has a size that depends on
    the numbers. ``measure`` computes, with the same operations whatever the numbers,
    so that it can be traced and compiled.
    """

    _n_wanted: Optional[float]

    def __init__(self, hypers: PETHypers) -> None:
        super().__init__()
        self._cutoff = float(hypers.cutoff)
        self._width = float(hypers.cutoff_width)
        self._is_bump = hypers.cutoff_function == "Bump"
        self._n_wanted = hypers.num_neighbors_adaptive
        if self._n_wanted is not None:
            self._n_wanted = float(self._n_wanted)
        self._adaptive_width = float(hypers.cutoff_width_adaptive)
        self._has_solver = hypers.adaptive_cutoff_method == "solver"

    def forward(self, batch: Batch, vectors: Tensor) -> EdgeIndex:
        """Return the pairs within reach and their places.

        Args:
            batch: the systems; pairs beyond the cutoff are allowed and dropped.
            vectors: [n_pairs, 3] from ``compute_edge_vectors``.
        """
        distances = compute_distances(vectors.detach())
        return self.index(batch, distances, self.find_trial_radii(batch, distances))

    def find_trial_radii(self, batch: Batch, distances: Tensor) -> Tensor:
        """Return what the solver finds, [n_atoms] in Å; empty where there is none."""
        n_wanted = self._n_wanted
        if n_wanted is None or not self._has_solver:
            return distances.new_zeros(0)
        return find_trial_radii(
            distances,
            batch.centers,
            batch.species.shape[0],
            n_wanted,
            self._cutoff,
            self._adaptive_width,
        )

    def index(self, batch: Batch, distances: Tensor, trial_radii: Tensor) -> EdgeIndex:
        """Return the pairs within reach and their places.

        Args:
            batch: the systems.
            distances: [n_pairs] in Å, without gradient.
            trial_radii: from ``find_trial_radii`` with these distances.
        """
        n_atoms = batch.species.shape[0]
        centers, neighbors, reverse = batch.centers, batch.neighbors, batch.reverse
        kept = torch.arange(centers.shape[0], device=centers.device)
        is_kept = distances <= self._compute_reach(batch, distances, trial_radii)
        if not bool(is_kept.all()):
            kept, reverse = thin_pairs(is_kept, reverse)
            centers = centers.index_select(0, kept)
            neighbors = neighbors.index_select(0, kept)

        counts = torch.bincount(centers, minlength=n_atoms)
        n_slots = 1
        if centers.shape[0] > 0:
            n_slots += int(counts.max())
        # of the token before the first edge of each atom
        before = n_atoms - 1 + torch.cumsum(counts, dim=0) - counts
        tokens = torch.arange(n_atoms + centers.shape[0], device=centers.device)
        nodes = tokens[:n_atoms]
        edge_slots = tokens[n_atoms:] - before.index_select(0, centers)
        slots = torch.arange(n_slots, device=centers.device).unsqueeze(0)
        is_filled = slots <= counts.unsqueeze(1)
        slot_tokens = torch.where(is_filled, before.unsqueeze(1) + slots, 0)
        slot_tokens[:, 0] = nodes
        return EdgeIndex(
            kept=kept,
            centers=centers,
            neighbors=neighbors,
            reverse=reverse,
            token_slots=torch.cat([nodes * n_slots, centers * n_slots + edge_slots]),
            slot_tokens=slot_tokens,
            is_filled=is_filled,
            trial_radii=trial_radii,
        )

    def measure(self, batch: Batch, vectors: Tensor, index: EdgeIndex) -> Edges:
        """Return the geometry of the edges.

        Args:
            batch: the systems.
            vectors: [n_pairs, 3], through which gradients flow.
            index: of these systems with these vectors.
        """
        kept = index.kept
        if self._n_wanted is None:
            vectors = vectors.index_select(0, kept)
            distances = compute_distances(vectors)
            reach = torch.full_like(distances, self._cutoff)
        else:
            distances = compute_distances(vectors)
            # all pairs take part in the count, those that are dropped as well
            reach = self._compute_reach(batch, distances, index.trial_radii)
            vectors = vectors.index_select(0, kept)
            distances = distances.index_select(0, kept)
            reach = reach.index_select(0, kept)
        if self._is_bump:
            factors = compute_bump_cutoff(distances, reach, self._width)
        else:
            factors = compute_cosine_cutoff(distances, reach, self._width)
        return Edges(vectors=vectors, distances=distances, cutoff_factors=factors)

    def _compute_reach(
        self, batch: Batch, distances: Tensor, trial_radii: Tensor
    ) -> Tensor:
        """Return the distance up to which each pair counts, [n_pairs] in Å."""
        n_wanted = self._n_wanted
        if n_wanted is None:
            return torch.full_like(distances, self._cutoff)
        if self._has_solver:
            radii = refine_adaptive_radii(
                trial_radii,
                distances,
                batch.centers,
                n_wanted,
                self._cutoff,
                self._adaptive_width,
            )
        else:
            radii = average_adaptive_radii(
                distances,
                batch.centers,
                batch.species.shape[0],
                n_wanted,
                self._cutoff,
                self._adaptive_width,
            )
        of_center = radii.index_select(0, batch.centers)
        # the mean is the same seen from i and from j, so edges stay paired
        return 0.5 * (of_center + radii.index_select(0, batch.neighbors))

"""A batch cut into parts, one per rank, as the engine's exchange wants it."""

from typing import NamedTuple

import torch
from torch import Tensor

from pet_calc.engine.build import RANKS, load_engine
from pet_calc.engine.origin import ModelOrigin
from pet_calc.model.edges import compute_edge_vectors


class Part(NamedTuple):
    """What one rank has; ``pairs`` and ``atoms`` are places in the whole."""

    atoms: Tensor
    """Own ones, then a ghost for each atom of others that is a neighbour."""
    n_centers: int
    pairs: Tensor
    centers: Tensor
    neighbors: Tensor
    reverse: Tensor
    ranks: Tensor
    rows: Tensor
    starts: Tensor


def cut(batch, owner):
    """Return the parts of a batch.

    Args:
        batch: the whole.
        owner: [n_atoms], the rank of each atom.
    """
    return [cut_out(batch, owner, rank) for rank in range(int(owner.max()) + 1)]


def cut_out(batch, owner, rank):
    pairs = torch.nonzero(owner[batch.centers] == rank).squeeze(1)
    others = owner[batch.neighbors[pairs]]
    own = torch.nonzero(owner == rank).squeeze(1)
    ghosts = torch.unique(batch.neighbors[pairs[others != rank]])
    atoms = torch.cat([own, ghosts])
    place = torch.full((len(owner),), -1)
    place[atoms] = torch.arange(len(atoms))
    new_pair = torch.full((len(batch.centers),), -1)
    new_pair[pairs] = torch.arange(len(pairs))
    reverse = new_pair[batch.reverse[pairs]]
    ranks = torch.unique(others[others != rank])
    rows, starts = [], [0]
    for other in ranks:
        crossing = torch.nonzero(others == other).squeeze(1)
        whole = pairs[crossing]
        # both ranks name a pair by the one of its directions that comes first
        order = torch.argsort(torch.minimum(whole, batch.reverse[whole]))
        rows.append(crossing[order])
        starts.append(starts[-1] + len(crossing))
    rows = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    reverse[rows] = len(pairs) + torch.arange(len(rows))
    return Part(
        atoms,
        len(own),
        pairs,
        place[batch.centers[pairs]],
        place[batch.neighbors[pairs]],
        reverse,
        ranks,
        rows,
        torch.tensor(starts),
    )


def run_parts(model, batch, parts, vectors=None, is_mixed=False):
    """Return energies [n_atoms] and gradient [n_pairs, 3] from ranks together."""
    load_engine(RANKS)
    origin = ModelOrigin(model, "energy", is_mixed=is_mixed)
    if vectors is None:
        vectors = compute_edge_vectors(batch).to(origin.dtype)
    with torch.no_grad():
        species, scale, addition = origin.compute_atom_inputs(batch)
    own = [part.atoms[: part.n_centers] for part in parts]
    additions = [] if addition is None else [addition[atoms] for atoms in own]
    energies, gradients = torch.ops.pet_calc_ranks.run(
        *origin.fold(),
        [part.n_centers for part in parts],
        [species[part.atoms] for part in parts],
        [part.centers for part in parts],
        [part.neighbors for part in parts],
        [part.reverse for part in parts],
        [vectors.detach()[part.pairs] for part in parts],
        [scale[atoms] for atoms in own],
        additions,
        [part.ranks for part in parts],
        [part.rows for part in parts],
        [part.starts for part in parts],
    )
    energy = torch.zeros(len(species), dtype=origin.dtype)
    gradient = torch.zeros_like(vectors)
    for part, atoms, e, g in zip(parts, own, energies, gradients, strict=True):
        energy[atoms] = e
        gradient[part.pairs] = g
    return energy, gradient

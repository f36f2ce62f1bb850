"""Neighbour lists of other programs, in the order and form that the model needs."""

from typing import NamedTuple

import torch
from torch import Tensor

from pet_calc.model.edges import encode_pairs, thin_pairs


class PairedList(NamedTuple):
    """A full list in which each pair knows its partner."""

    pairs: Tensor
    """[n_pairs, 5] int64: i, j and cell shift."""
    vectors: Tensor
    """[n_pairs, 3]; that of the partner is minus this to the last digit."""
    reverse: Tensor
    """[n_pairs] int64."""


def pair_up(pairs: Tensor, vectors: Tensor, reach: float) -> PairedList:
    """Return the pairs within reach, each with its partner, in the same order.

    A program may round r_ij and r_ji differently and list only one of them when the
    distance is the cutoff to the last digit. Neighbours that close to the cutoff weigh
    nothing, so they are left out by a rule that is the same for both.

    Args:
        pairs: [n_pairs, 5] int64, of all systems, atoms counted through.
        vectors: [n_pairs, 3], to which gradients flow.
        reach: same unit, a little below the cutoff of the list.

    Raises:
        RuntimeError: if some pair within reach has no partner: no full list.
    """
    n_pairs = pairs.shape[0]
    if n_pairs == 0:
        return PairedList(pairs, vectors, torch.zeros_like(pairs[:, 0]))
    key, reverse_key = encode_pairs(pairs[:, 0], pairs[:, 1], pairs[:, 2:])
    sorted_key, order = torch.sort(key)
    place = torch.searchsorted(sorted_key, reverse_key).clamp_max(n_pairs - 1)
    reverse = order.index_select(0, place)
    has_partner = sorted_key.index_select(0, place) == reverse_key

    values = vectors.detach()
    squared = values.pow(2).sum(dim=1)
    is_near = squared <= reach * reach
    if bool((is_near & ~has_partner).any()):
        raise RuntimeError(
            "PET needs a full neighbour list: some pair i->j came without j->i"
        )
    is_near = is_near & is_near.index_select(0, reverse)
    # one of the two vectors stands for both; v + (w - v) is w, with the gradient of v
    index = torch.arange(n_pairs, device=pairs.device)
    is_first = (index <= reverse).unsqueeze(1)
    common = torch.where(is_first, values, -values.index_select(0, reverse))
    vectors = vectors + (common - values)
    if not bool(is_near.all()):
        kept, reverse = thin_pairs(is_near, reverse)
        pairs = pairs.index_select(0, kept)
        vectors = vectors.index_select(0, kept)
    return PairedList(pairs, vectors, reverse)

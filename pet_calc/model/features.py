"""Features that the trunk makes of each atom, before any head."""

import torch
from torch import Tensor

from pet_calc.model.batch import Batch
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET


def compute_trunk_features(model: PET, batch: Batch) -> Tensor:
    """Return the trunk's features per atom, [n_atoms, n_features].

    The node tokens of all readout layers, then their edge tokens, weighted by the
    cutoff and summed over the edges of the atom: metatrain's output ``feature``.

    Args:
        model: on the device of ``batch``.
        batch: the systems, in the model's dtype or in float64.
    """
    with torch.no_grad():
        vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
        index = model.selector(batch, vectors)
        edges = model.selector.measure(batch, vectors, index)
        species = model.species_to_species_index.index_select(0, batch.species)
        nodes, tokens = model.featurize(batch, species, edges, index, False)
        per_edge = torch.cat(tokens, dim=1) * edges.cutoff_factors.unsqueeze(1)
        summed = per_edge.new_zeros((len(batch.species), per_edge.shape[1]))
        summed = summed.index_add(0, index.centers, per_edge)
        return torch.cat([*nodes, summed], dim=1)

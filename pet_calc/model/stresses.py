"""The stress of each atom, from the energy's gradient in the edge vectors."""

import torch
from torch import Tensor

from pet_calc.model.batch import Batch
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET


def compute_atomic_stresses(gradient: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
    """Return each atom's part of the stress, half of what its pairs give.

    Only the sum is an observable: which atom a pair's part belongs to is a convention.

    Args:
        gradient: [n_pairs, 3], dE/dr_ij in eV/Å.
        vectors: [n_pairs, 3], r_ij in Å.
        batch: the systems.

    Returns:
        [n_atoms, 3, 3] float64 in eV/Å^3, symmetric, positive in tension. Divided by
        the volume of the system, so that they sum to its stress; zero without one.
    """
    products = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).reshape(-1, 9)
    products = products.to(torch.float64)
    virials = products.new_zeros((batch.species.shape[0], 9))
    virials = virials.index_add(0, batch.centers, products)
    virials = virials.index_add(0, batch.neighbors, products)
    tensors = virials.view(-1, 3, 3)
    # a half for two atoms, another one for symmetry
    tensors = 0.25 * (tensors + tensors.transpose(1, 2))
    volumes = torch.det(batch.cells.to(torch.float64)).abs()
    inverse = torch.where(volumes > 0.0, 1.0 / volumes, torch.zeros_like(volumes))
    return tensors * inverse.index_select(0, batch.system_of_atom).view(-1, 1, 1)


def differentiate(model: PET, batch: Batch, target: str) -> tuple[Tensor, Tensor]:
    """Return the edge vectors and the energy's gradient in them, [n_pairs, 3] each.

    Args:
        model: on the device of ``batch``.
        batch: the systems, in the model's dtype or in float64.
        target: name of an energy target.
    """
    vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
    vectors = vectors.detach().requires_grad_(True)
    if len(vectors) == 0:
        return vectors, torch.zeros_like(vectors)
    with torch.enable_grad():
        energy = model(batch, vectors, [target])[target].sum()
        (gradient,) = torch.autograd.grad(energy, vectors)
    return vectors.detach(), gradient

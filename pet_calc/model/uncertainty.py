"""How far an energy may be off, from the last layer's features (arXiv:2403.02251).

Last-layer prediction rigidity: the variance of a prediction with features f is
a^2 f^T C^-1 f. C is the covariance of the training set's features, with a ridge, and a
is calibrated on frames that were not trained on. Last layers drawn with that
variance make an ensemble, of whose forces the scatter is the forces' uncertainty.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import compute_forces
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET

# members times pairs of one backward pass; more need more memory and are not faster
LARGEST_PASS = 20_000


class LastLayerUncertainty(nn.Module):
    """Uncertainty of one energy, computed in float64; scripted with the exported model.

    Features of an atom give the uncertainty of its energy, features summed over a
    system that of the total.
    """

    cholesky: Tensor
    multiplier: Tensor
    members: Tensor

    def __init__(self, cholesky: Tensor, multiplier: float, members: Tensor) -> None:
        """Take the tensors of a checkpoint.

        Args:
            cholesky: [n_features, n_features], the lower Cholesky factor of C.
            multiplier: a, in the unit of the energy.
            members: [n_members, n_features], weights of the ensemble's last layers;
                only what they differ by counts, since the ensemble's mean is the
                model's prediction.
        """
        super().__init__()
        members = members.detach().to(torch.float64)
        if len(members):
            members = members - members.mean(dim=0, keepdim=True)
        self.register_buffer("cholesky", cholesky.detach().to(torch.float64))
        self.register_buffer(
            "multiplier", torch.tensor([multiplier], dtype=torch.float64)
        )
        self.register_buffer("members", members)

    def _apply(self, fn: Any, recurse: bool = True) -> "LastLayerUncertainty":
        # as in TargetTable: the tables follow the device, not the dtype
        device = fn(torch.empty(0, device=self.cholesky.device)).device
        for name in ("cholesky", "multiplier", "members"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    @property
    def n_members(self) -> int:
        """Size of the ensemble, 0 without one."""
        return int(self.members.shape[0])

    def forward(self, features: Tensor) -> Tensor:
        """Return standard deviations [n], float64, for features [n, n_features]."""
        columns = features.detach().to(torch.float64).t()
        # should a program have cast the whole file, this still works
        factor = self.cholesky.to(torch.float64)
        solved = torch.linalg.solve_triangular(factor, columns, upper=False)
        return self.multiplier.to(torch.float64) * solved.pow(2).sum(dim=0).sqrt()

    @torch.jit.export
    def deviate(self, features: Tensor) -> Tensor:
        """Return what the ensemble's members differ from the prediction by.

        Args:
            features: [n, n_features], to which gradients flow.

        Returns:
            [n, n_members] float64; each row adds up to zero.
        """
        return features.to(torch.float64) @ self.members.to(torch.float64).t()


def sum_over_systems(per_atom: Tensor, batch: Batch) -> Tensor:
    """Return rows [n_systems, n], the sums of rows [n_atoms, n]."""
    n_systems = batch.cells.shape[0]
    sums = per_atom.new_zeros((n_systems, per_atom.shape[1]))
    return sums.index_add(0, batch.system_of_atom, per_atom)


def compute_features(model: PET, batch: Batch, target: str) -> Tensor:
    """Return the last-layer features per atom, [n_atoms, n_features].

    Args:
        model: on the device of ``batch``.
        batch: the systems, in the model's dtype or in float64.
        target: name of a target.
    """
    with torch.no_grad():
        vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
        _, features = model.evaluate_with_features(batch, vectors, [target], [target])
    return features[target]


def compute_force_uncertainty(
    model: PET,
    batch: Batch,
    target: str,
    uncertainty: LastLayerUncertainty,
    *,
    largest_pass: int = LARGEST_PASS,
) -> Tensor:
    """Return the standard deviation of each force component over the ensemble.

    Args:
        model: on the device of ``batch``.
        batch: the systems, in the model's dtype or in float64.
        target: name of an energy target.
        uncertainty: of that target, with at least two members.
        largest_pass: members times pairs that go through one backward pass.

    Returns:
        [n_atoms, 3] in the model's dtype. The members are draws, so it is estimated
        with n_members - 1.
    """
    vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
    vectors = vectors.detach().requires_grad_(True)
    if len(vectors) == 0:
        return vectors.new_zeros(batch.positions.shape)
    with torch.enable_grad():
        _, features = model.evaluate_with_features(batch, vectors, [target], [target])
        # systems do not act on each other: one sum serves all
        energies = uncertainty.deviate(features[target].sum(dim=0, keepdim=True))[0]
    n_members, n_pairs = uncertainty.n_members, len(vectors)
    size = max(1, largest_pass // n_pairs)
    one_each = torch.eye(n_members, dtype=energies.dtype, device=energies.device)
    gradients = []
    for rows in one_each.split(size):
        (gradient,) = torch.autograd.grad(
            energies, vectors, rows, is_grads_batched=True, retain_graph=True
        )
        gradients.append(gradient)
    forces = [compute_forces(g, batch) for g in torch.cat(gradients)]
    return torch.stack(forces).std(dim=0)

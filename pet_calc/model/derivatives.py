"""Energies, forces and stress from the model, by automatic differentiation.

Forces and stress come from one gradient with respect to the edge vectors: moving atom
j pulls every edge that ends in j, and a strain stretches every edge.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pet_calc.model.batch import Batch
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET


class Prediction(NamedTuple):
    """What a potential says about a batch. Units eV, Å; stress positive in tension."""

    energy: Tensor
    """[n_systems] float64, composition included unless asked otherwise."""
    atomic_energies: Tensor
    """[n_atoms] float64, likewise; they sum to ``energy``."""
    forces: Tensor | None
    """[n_atoms, 3] in the model's dtype."""
    stress: Tensor | None
    """[n_systems, 3, 3], symmetric; zero where a system has no volume."""
    features: Tensor | None = None
    """[n_atoms, n_features] in the model's dtype, of the last layer; if asked for."""


class Outputs(NamedTuple):
    """What one pass through the network gives."""

    energies: dict[str, Prediction]
    """By target."""
    direct: dict[str, Tensor]
    """Of other outputs, by name: per atom [n_atoms, n_values], without composition."""


class Derived(NamedTuple):
    """What to derive from an energy."""

    forces: bool
    stress: bool


def predict(
    model: PET,
    batch: Batch,
    target: str = "energy",
    *,
    with_forces: bool = True,
    with_stress: bool = False,
    with_composition: bool = True,
    with_features: bool = False,
    is_training: bool = False,
) -> Prediction:
    """Return energy, and conservative forces and stress as asked for.

    Args:
        model: on the device of ``batch``.
        batch: the systems, in the model's dtype or in float64.
        target: name of an energy target.
        with_forces: whether to derive forces.
        with_stress: whether to derive the stress.
        with_composition: whether energies include the composition part; training
            leaves it out, to compare small numbers.
        with_features: whether to keep the last layer's features; not in training.
        is_training: keep the graph of the results, to differentiate once more.
    """
    outputs = predict_outputs(
        model,
        batch,
        {target: Derived(with_forces, with_stress)},
        with_composition=with_composition,
        featured=[target] if with_features else [],
        is_training=is_training,
    )
    return outputs.energies[target]


def predict_outputs(
    model: PET,
    batch: Batch,
    energies: Mapping[str, Derived],
    direct: Sequence[str] = (),
    *,
    with_composition: bool = True,
    featured: Sequence[str] = (),
    is_training: bool = False,
) -> Outputs:
    """Return several outputs from one pass through the network.

    The gradient of each energy is a pass back of its own.

    Args:
        model: on the device of ``batch``.
        batch: the systems.
        energies: what to derive from each, by the name of the output.
        direct: names of other outputs.
        with_composition: whether energies include the composition part.
        featured: energies whose last-layer features are kept; not in training.
        is_training: keep the graph of the results.
    """
    if not energies and not direct:
        return Outputs({}, {})
    # positions may be float64 for a float32 model: differences lose nothing then
    vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
    with_gradient = [name for name, derived in energies.items() if any(derived)]
    if with_gradient:
        vectors = vectors.detach().requires_grad_(True)
    gradients: dict[str, Tensor] = {}
    with torch.set_grad_enabled(bool(with_gradient) or is_training):
        names = [*energies, *direct]
        features: dict[str, Tensor] = {}
        if featured:
            assert not is_training
            values, features = model.evaluate_with_features(
                batch, vectors, names, list(featured)
            )
        else:
            values = model(batch, vectors, names, is_training and bool(with_gradient))
        for name in with_gradient if vectors.shape[0] > 0 else ():
            (gradients[name],) = torch.autograd.grad(
                values[name].sum(),
                vectors,
                create_graph=is_training,
                retain_graph=is_training or name != with_gradient[-1],
            )
    if not is_training:
        values = {name: value.detach() for name, value in values.items()}
    found = {}
    for name, derived in energies.items():
        found[name] = assemble_prediction(
            compute_composition(model, batch, name) if with_composition else None,
            batch,
            values[name].squeeze(1),
            vectors.detach(),
            gradients.get(name, torch.zeros_like(vectors)),
            with_forces=derived.forces,
            with_stress=derived.stress,
        )
        if name in features:
            found[name] = found[name]._replace(features=features[name].detach())
    return Outputs(found, {name: values[name] for name in direct})


def compute_composition(model: PET, batch: Batch, target: str) -> Tensor:
    """Return the composition energies of the atoms, [n_atoms], float64, in eV."""
    return model.composition(batch, target).squeeze(1)


def assemble_prediction(
    composition: Tensor | None,
    batch: Batch,
    network_energies: Tensor,
    vectors: Tensor,
    gradient: Tensor,
    *,
    with_forces: bool = True,
    with_stress: bool = False,
) -> Prediction:
    """Return the prediction that follows from atomic energies and their gradient.

    Args:
        composition: [n_atoms] float64 in eV, to be added to the energies.
        batch: the systems.
        network_energies: [n_atoms] in eV, without composition.
        vectors: [n_pairs, 3] in Å.
        gradient: [n_pairs, 3], of the summed energies, in eV/Å.
        with_forces: whether to derive forces.
        with_stress: whether to derive the stress.
    """
    atomic_energies = network_energies.to(torch.float64)
    if composition is not None:
        atomic_energies = atomic_energies + composition
    n_systems = batch.cells.shape[0]
    energy = atomic_energies.new_zeros(n_systems).index_add(
        0, batch.system_of_atom, atomic_energies
    )
    forces = compute_forces(gradient, batch) if with_forces else None
    stress = compute_stress(gradient, vectors, batch) if with_stress else None
    return Prediction(energy, atomic_energies, forces, stress)


def compute_forces(gradient: Tensor, batch: Batch) -> Tensor:
    """Return forces from the energy's gradient in the edge vectors.

    Args:
        gradient: [n_pairs, 3], dE/dr_ij in eV/Å.
        batch: the systems.

    Returns:
        [n_atoms, 3] in eV/Å; each system's forces sum to zero.
    """
    forces = gradient.new_zeros(batch.positions.shape)
    forces = forces.index_add(0, batch.centers, gradient)
    return forces.index_add(0, batch.neighbors, -gradient)


def compute_stress(gradient: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
    """Return the stress (1/V) sum_ij r_ij (x) dE/dr_ij, symmetrised.

    Args:
        gradient: [n_pairs, 3], dE/dr_ij in eV/Å.
        vectors: [n_pairs, 3], r_ij in Å.
        batch: the systems.

    Returns:
        [n_systems, 3, 3] in eV/Å^3, positive in tension, zero without a volume.
    """
    n_systems = batch.cells.shape[0]
    products = (vectors.unsqueeze(2) * gradient.unsqueeze(1)).reshape(-1, 9)
    system_of_pair = batch.system_of_atom.index_select(0, batch.centers)
    virial = products.new_zeros((n_systems, 9)).index_add(0, system_of_pair, products)
    virial = virial.view(n_systems, 3, 3)
    volumes = torch.det(batch.cells).abs()
    has_volume = volumes > 0.0
    safe = torch.where(has_volume, volumes, torch.ones_like(volumes))
    scale = torch.where(has_volume, 1.0 / safe, torch.zeros_like(volumes))
    return 0.5 * (virial + virial.transpose(1, 2)) * scale.view(-1, 1, 1)

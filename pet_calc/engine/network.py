"""A PET as the compiled engine takes it: weights folded, one call for the gradient too.

The engine goes from pairs to atomic energies and back to the pairs' gradient. The older
grid of adaptive radii and ZBL stay with the model, whose operations PyTorch
differentiates.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pet_calc.engine.build import load_engine
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import (
    Prediction,
    assemble_prediction,
    compute_composition,
)
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.fold import describe_numbers, describe_shape, fold_model
from pet_calc.model.hypers import PETHypers
from pet_calc.model.pet import PET

# widths of an attention head that the engine has loops for
HEAD_WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128)


def find_obstacle(model: PET, target: str) -> str | None:
    """Return what of the model the engine has no code for, None if nothing."""
    hypers = model.hypers
    weight = model.edge_embedder.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device}, the engine is for the CPU"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"the model is in {weight.dtype}"
    if hypers.transformer_type != "PreLN":
        return f"the model has the older {hypers.transformer_type} transformer"
    if hypers.d_pet // hypers.num_heads not in HEAD_WIDTHS:
        return f"attention heads are {hypers.d_pet // hypers.num_heads} wide"
    if model.targets[target].n_values != 1:
        return f"{target} has several values per atom"
    return None


class FastNetwork:
    """The compiled engine with the weights of one model and one energy target."""

    def __init__(self, model: PET, target: str, *, is_mixed: bool = False) -> None:
        """Copy the weights, folded.

        Args:
            model: one for which ``find_obstacle`` finds none, LoRA merged or not;
                later changes of its weights have no effect here.
            target: name of an energy output.
            is_mixed: multiply matrices in bfloat16; norms, attention, all sums and
                the geometry stay in float32.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        self.model = model
        self.target = target
        self._is_mixed = is_mixed
        load_engine()
        hypers = model.hypers
        weight = model.edge_embedder.weight
        stored = torch.bfloat16 if is_mixed else weight.dtype
        with torch.no_grad():
            folded = fold_model(model, target, torch.float64)
        # copies: in float64 some share memory with the model's
        tensors = {
            name: value.to(
                stored if name.endswith(".weight") else weight.dtype, copy=True
            )
            for name, value in folded.items()
        }
        shape = describe_shape(hypers)
        numbers = describe_numbers(hypers, weight.dtype)
        self._selects_pairs = find_grid_obstacle(hypers) is None
        self._engine = torch.classes.pet_calc.Engine(tensors, shape, numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        # the compiled part is neither pickled nor copied, but made anew
        return (_build, (self.model, self.target, self._is_mixed))

    def predict(
        self,
        batch: Batch,
        *,
        with_stress: bool = False,
        with_composition: bool = True,
    ) -> Prediction:
        """Return what ``pet_calc.model.derivatives.predict`` does, with forces."""
        vectors = compute_edge_vectors(batch).to(self.model.edge_embedder.weight.dtype)
        energies, gradient = self.compute(batch, vectors)
        composition = None
        if with_composition:
            composition = compute_composition(self.model, batch, self.target)
        return assemble_prediction(
            composition, batch, energies, vectors, gradient, with_stress=with_stress
        )

    def compute(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled energies per atom [n_atoms] and their sum's gradient.

        Args:
            batch: the systems.
            vectors: [n_pairs, 3] in the model's dtype.

        Returns:
            Energies in eV without composition, and [n_pairs, 3] in eV/Å.
        """
        model = self.model
        with torch.no_grad():
            inputs = compute_atom_inputs(model, self.target, batch, vectors.dtype)
        species, scale, addition = inputs
        if self._selects_pairs:
            energies, gradient = self._engine.run_pairs(
                species,
                batch.centers,
                batch.neighbors,
                batch.reverse,
                vectors.detach().contiguous(),
                scale,
                addition,
            )
        else:
            energies, gradient = self._run_edges(
                batch, vectors, species, scale, addition
            )
        if model.has_zbl(self.target):
            repulsion, slope = differentiate_repulsion(
                lambda leaf: model.compute_zbl(batch, leaf, species).squeeze(1), vectors
            )
            energies, gradient = energies + repulsion, gradient + slope
        return energies, gradient

    def _run_edges(
        self,
        batch: Batch,
        vectors: Tensor,
        species: Tensor,
        scale: Tensor,
        addition: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Do what the engine does with pairs, with the model's own cutoff."""
        selector = self.model.selector
        index = selector(batch, vectors)
        vectors = vectors.detach().requires_grad_(True)
        with torch.enable_grad():
            edges = selector.measure(batch, vectors, index)
            geometry = torch.cat(
                [edges.vectors, edges.distances.unsqueeze(1)], dim=1
            ).contiguous()
        counts = torch.bincount(index.centers, minlength=len(species))
        energies, of_geometry, of_factors = self._engine.run_edges(
            species,
            species.index_select(0, index.neighbors),
            index.reverse,
            F.pad(torch.cumsum(counts, dim=0), (1, 0)),
            geometry.detach(),
            edges.cutoff_factors.detach(),
            scale,
            addition,
        )
        (gradient,) = torch.autograd.grad(
            [geometry, edges.cutoff_factors], vectors, [of_geometry, of_factors]
        )
        return energies, gradient


def find_grid_obstacle(hypers: PETHypers) -> str | None:
    """Return why the engine cannot find the edges by itself, None if it can."""
    if (
        hypers.num_neighbors_adaptive is None
        or hypers.adaptive_cutoff_method == "solver"
    ):
        return None
    return "the model has the older grid of adaptive radii"


def compute_atom_inputs(
    model: PET, target: str, batch: Batch, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what the engine asks for of each atom.

    Returns:
        The species index [n_atoms], the scale of the energy [n_atoms], and what
        conditioning adds to the node tokens [n_atoms, d_node], None without it.
    """
    species = model.species_to_species_index.index_select(0, batch.species)
    ones = torch.ones((len(species), 1), dtype=dtype)
    scale = model.baseline.scale(target, ones, species).squeeze(1)
    if model.system_conditioning is None:
        return species, scale, None
    addition = model.system_conditioning(
        batch.charges, batch.spin_multiplicities, batch.system_of_atom
    )
    return species, scale, addition


def differentiate_repulsion(
    compute: Callable[[Tensor], Tensor], vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ZBL energies [n_atoms] and their sum's gradient [n_pairs, 3].

    Args:
        compute: returns the energies from the vectors.
        vectors: [n_pairs, 3] in Å.
    """
    leaf = vectors.detach().requires_grad_(True)
    with torch.enable_grad():
        repulsion = compute(leaf)
        (slope,) = torch.autograd.grad(repulsion.sum(), leaf)
    return repulsion.detach(), slope


def _build(model: PET, target: str, is_mixed: bool) -> FastNetwork:
    return FastNetwork(model, target, is_mixed=is_mixed)

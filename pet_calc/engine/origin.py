"""Whose weights the engine runs: a model's, or those of an exported file.

Both fold their weights, and compute what is left to PyTorch: what the engine asks for
of each atom, the ZBL repulsion, the composition's energies.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import compute_composition
from pet_calc.model.fold import describe_numbers, describe_shape, fold_model
from pet_calc.model.pet import PET

Folded = tuple[dict[str, Tensor], dict[str, int], dict[str, float]]
AtomInputs = tuple[Tensor, Tensor, Tensor | None]


class Origin(Protocol):
    """What the engine needs of a model or a file, for one energy target."""

    dtype: torch.dtype
    is_conditioned: bool
    has_zbl: bool
    arguments: tuple[Any, ...]
    """Those that it was made with."""

    def fold(self) -> Folded:
        """Return the folded weights by name, the shape, and the real numbers."""

    def compute_atom_inputs(self, batch: Batch) -> AtomInputs:
        """Return species index and scale [n_atoms], and what conditioning adds."""

    def compute_repulsion(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the ZBL energies [n_atoms], differentiable in [n_pairs, 3]."""

    def compute_composition(self, batch: Batch) -> Tensor:
        """Return the composition's energies [n_atoms] in float64."""


class ModelOrigin:
    """A model; later changes of its weights have no effect on what was folded."""

    def __init__(self, model: PET, target: str, *, is_mixed: bool) -> None:
        """Take a model; the arguments are those of ``Engine.from_model``."""
        self.model = model
        self.dtype = model.edge_embedder.weight.dtype
        self.is_conditioned = model.system_conditioning is not None
        self.has_zbl = bool(model.has_zbl(target))
        self.arguments = (model, target, is_mixed)
        self._target = target
        self._stored = torch.bfloat16 if is_mixed else self.dtype

    def fold(self) -> Folded:
        """Return copies of the weights, folded; matrices in bfloat16 if mixed."""
        with torch.no_grad():
            folded = fold_model(self.model, self._target, torch.float64)
        # copies: in float64 some share memory with the model's
        tensors = {
            name: value.to(
                self._stored if name.endswith(".weight") else self.dtype, copy=True
            )
            for name, value in folded.items()
        }
        hypers = self.model.hypers
        return tensors, describe_shape(hypers), describe_numbers(hypers, self.dtype)

    def compute_atom_inputs(self, batch: Batch) -> AtomInputs:
        """Return what the module's function of this name does."""
        return compute_atom_inputs(self.model, self._target, batch, self.dtype)

    def compute_repulsion(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the ZBL energies [n_atoms], differentiable in the vectors."""
        species = self.model.species_to_species_index.index_select(0, batch.species)
        return self.model.compute_zbl(batch, vectors, species).squeeze(1)

    def compute_composition(self, batch: Batch) -> Tensor:
        """Return the composition's energies [n_atoms] in float64."""
        return compute_composition(self.model, batch, self._target)


class FileOrigin:
    """An energy output of an exported file, which takes one system at a time."""

    def __init__(self, exported: Any, output: str, dtype: torch.dtype) -> None:
        """Take a file; the arguments are those of ``Engine.from_file``."""
        self.dtype = dtype
        self.arguments = (exported, output, dtype)
        self._module = exported.module
        self._output = output
        _, self._shape, self._numbers = self._module.describe_engine(output)
        self.is_conditioned = self._shape["is_conditioned"] != 0
        self.has_zbl = self._shape["has_zbl"] != 0

    def fold(self) -> Folded:
        """Return the weights, folded by the file's own code; keep its tables."""
        weights = dict(self._module.pet.named_parameters())
        with torch.no_grad():
            folded = self._module.fold_weights(weights, self._output)
        self._species = folded.pop("species")
        self._composition = folded.pop("composition")
        self._scale = folded.pop("scale").to(self.dtype)
        tensors = {name: value.to(self.dtype) for name, value in folded.items()}
        return tensors, self._shape, self._numbers

    def compute_atom_inputs(self, batch: Batch) -> AtomInputs:
        """Return species index and scale [n_atoms], and what conditioning adds.

        Raises:
            torch.jit.Error: if the model has no entry for the charge or the spin.
        """
        species = self._species.index_select(0, batch.species)
        scale = self._scale.index_select(0, species)
        if not self.is_conditioned:
            return species, scale, None
        state = (float(batch.charges[0]), float(batch.spin_multiplicities[0]))
        with torch.no_grad():
            addition = self._module.embed_conditions(*state)
        return species, scale, addition.expand(len(species), -1).contiguous()

    def compute_repulsion(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the ZBL energies [n_atoms], differentiable in the vectors."""
        pairs = (batch.species, batch.centers, batch.neighbors)
        result: Tensor = self._module.compute_repulsion(*pairs, vectors)
        return result

    def compute_composition(self, batch: Batch) -> Tensor:
        """Return the composition's energies [n_atoms] in float64."""
        species = self._species.index_select(0, batch.species)
        return self._composition.index_select(0, species)


def compute_atom_inputs(
    model: PET, target: str, batch: Batch, dtype: torch.dtype
) -> AtomInputs:
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

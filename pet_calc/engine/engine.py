"""The compiled engine with folded weights: one call for energies and their gradient.

The engine goes from pairs to atomic energies and back to the pairs' gradient. ZBL stays
with the model, whose operations PyTorch differentiates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pet_calc.engine.build import load_engine
from pet_calc.engine.origin import (
    FileOrigin,
    ModelOrigin,
    Origin,
    differentiate_repulsion,
)
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, assemble_prediction
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET


class Engine:
    """The compiled engine with the weights of one energy target.

    ``from_model`` and ``from_file`` make one.
    """

    def __init__(self, origin: Origin, make: Callable[..., "Engine"]) -> None:
        """Fold the weights.

        Args:
            origin: of the weights.
            make: makes another one of the origin's arguments, for copies and pickles.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        load_engine()
        self._origin = origin
        self._make = make
        self._compiled = torch.classes.pet_calc.Engine(*origin.fold())

    @classmethod
    def from_model(cls, model: PET, target: str, is_mixed: bool = False) -> "Engine":
        """Return one with copies of a model's weights.

        Args:
            model: one for which ``find_obstacle`` finds none, LoRA merged or not;
                later changes of its weights have no effect here.
            target: name of an energy output.
            is_mixed: multiply matrices in bfloat16; norms, attention, all sums and
                the geometry stay in float32.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        return cls(ModelOrigin(model, target, is_mixed=is_mixed), cls.from_model)

    @classmethod
    def from_file(cls, exported: Any, output: str, dtype: torch.dtype) -> "Engine":
        """Return one with the weights of an exported file.

        Args:
            exported: a metatomic model for which ``find_exported_obstacle`` finds none.
            output: name of an energy output.
            dtype: that of the file.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        return cls(FileOrigin(exported, output, dtype), cls.from_file)

    @property
    def is_conditioned(self) -> bool:
        """Whether energies depend on charge and spin."""
        return self._origin.is_conditioned

    def __reduce__(self) -> tuple[Any, ...]:
        # the compiled part is neither pickled nor copied, but made anew
        return (self._make, self._origin.arguments)

    def predict(
        self,
        batch: Batch,
        *,
        with_stress: bool = False,
        with_composition: bool = True,
        with_features: bool = False,
    ) -> Prediction:
        """Return what ``pet_calc.model.derivatives.predict`` does, with forces.

        Args:
            batch: the systems; a single one where the weights are a file's.
            with_stress: whether to derive the stress.
            with_composition: whether to add the composition's energies.
            with_features: whether to give the last-layer features, which come with
                the same pass.

        Raises:
            torch.jit.Error: if a file has no entry for the charge or the spin.
        """
        vectors = compute_edge_vectors(batch).to(self._origin.dtype)
        energies, gradient, features = self._run(batch, vectors, with_features)
        composition = None
        if with_composition:
            composition = self._origin.compute_composition(batch)
        found = assemble_prediction(
            composition, batch, energies, vectors, gradient, with_stress=with_stress
        )
        return found if features is None else found._replace(features=features)

    def compute(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled energies per atom [n_atoms] and their sum's gradient.

        Args:
            batch: the systems.
            vectors: [n_pairs, 3] in the dtype of the weights.

        Returns:
            Energies in eV without composition, and [n_pairs, 3] in eV/Å.
        """
        energies, gradient, _ = self._run(batch, vectors, False)
        return energies, gradient

    def _run(
        self, batch: Batch, vectors: Tensor, with_features: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what ``compute`` does, and the features if asked for."""
        with torch.no_grad():
            species, scale, addition = self._origin.compute_atom_inputs(batch)
        inputs = (
            species,
            batch.centers,
            batch.neighbors,
            batch.reverse,
            vectors.detach().contiguous(),
            scale,
            addition,
        )
        features: Tensor | None = None
        if with_features:
            found = self._compiled.run_pairs_with_features(*inputs)
            energies, gradient, features = found
        else:
            energies, gradient = self._compiled.run_pairs(*inputs)
        if self._origin.has_zbl:
            repulsion, slope = differentiate_repulsion(
                lambda leaf: self._origin.compute_repulsion(batch, leaf), vectors
            )
            energies, gradient = energies + repulsion, gradient + slope
        return energies, gradient, features

"""The compiled engine with the weights of an exported file."""

from typing import Any

import torch

from pet_calc.checkpoint.to_ev import is_angstrom
from pet_calc.engine.build import load_engine
from pet_calc.engine.network import differentiate_repulsion
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, assemble_prediction
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.fold import FORMAT_VERSION
from pet_calc.units import energy_factor


def find_exported_obstacle(exported: Any, output: str) -> str | None:
    """Return why the engine cannot run an exported file's output, None if it can.

    Args:
        exported: the metatomic model, on the CPU.
        output: name of an energy output.
    """
    if not hasattr(exported.module, "describe_engine"):
        return "the file holds no weights for it; export the checkpoint with pet-calc"
    obstacle, shape, _ = exported.module.describe_engine(output)
    if obstacle:
        return str(obstacle)
    if shape["format_version"] != FORMAT_VERSION:
        return "another version of pet-calc exported the file; export it again"
    capabilities = exported.capabilities()
    unit = capabilities.outputs[output].unit
    if not is_angstrom(capabilities.length_unit) or energy_factor(unit) != 1.0:
        return f"the file is in {capabilities.length_unit} and {unit}, not in Å and eV"
    return None


class ExportedNetwork:
    """The engine for one energy output of a file, as ``FastNetwork`` is for a model."""

    def __init__(self, exported: Any, output: str, dtype: torch.dtype) -> None:
        """Fold the file's weights.

        Args:
            exported: a metatomic model for which ``find_exported_obstacle`` finds none.
            output: name of an energy output.
            dtype: that of the file.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        load_engine()
        self._module = exported.module
        self._dtype = dtype
        _, shape, numbers = self._module.describe_engine(output)
        weights = dict(self._module.pet.named_parameters())
        with torch.no_grad():
            folded = self._module.fold_weights(weights, output)
        self._species = folded.pop("species")
        self._composition = folded.pop("composition")
        self._scale = folded.pop("scale").to(dtype)
        self._has_zbl = shape["has_zbl"] != 0
        self.is_conditioned = shape["is_conditioned"] != 0
        tensors = {name: value.to(dtype) for name, value in folded.items()}
        self._engine = torch.classes.pet_calc.Engine(tensors, shape, numbers)

    def predict(self, batch: Batch, *, with_stress: bool = False) -> Prediction:
        """Return energies, forces and, if asked for, the stress of a single system.

        Raises:
            torch.jit.Error: if the model has no entry for the charge or the spin.
        """
        vectors = compute_edge_vectors(batch).to(self._dtype)
        species = self._species.index_select(0, batch.species)
        addition = None
        if self.is_conditioned:
            state = (float(batch.charges[0]), float(batch.spin_multiplicities[0]))
            with torch.no_grad():
                addition = self._module.embed_conditions(*state)
            addition = addition.expand(len(species), -1).contiguous()
        energies, gradient = self._engine.run_pairs(
            species,
            batch.centers,
            batch.neighbors,
            batch.reverse,
            vectors,
            self._scale.index_select(0, species),
            addition,
        )
        if self._has_zbl:
            pairs = (batch.species, batch.centers, batch.neighbors)
            repulsion, slope = differentiate_repulsion(
                lambda leaf: self._module.compute_repulsion(*pairs, leaf), vectors
            )
            energies, gradient = energies + repulsion, gradient + slope
        composition = self._composition.index_select(0, species)
        return assemble_prediction(
            composition, batch, energies, vectors, gradient, with_stress=with_stress
        )

"""The network of a file that pet-calc exported, run by TorchScript."""

from typing import Any

import numpy as np
import torch

from pet_calc.calculator.atoms_io import name_uncertainties, put_direct, to_numpy
from pet_calc.calculator.targets import ChosenTargets
from pet_calc.calculator.uncertainty import (
    FORCES_UNCERTAINTY,
    OF_ENERGIES,
    name_available,
)
from pet_calc.checkpoint.to_ev import is_angstrom
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, assemble_prediction, compute_forces
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.stresses import compute_atomic_stresses
from pet_calc.units import energy_factor


def find_script_obstacle(exported: Any, output: str) -> str | None:
    """Return why ``ScriptedFile`` cannot run a file's output, None if it can."""
    if not hasattr(exported.module, "evaluate_pairs"):
        return "another program, or an older pet-calc, wrote the file"
    capabilities = exported.capabilities()
    unit = capabilities.outputs[output].unit
    if not is_angstrom(capabilities.length_unit) or energy_factor(unit) != 1.0:
        return f"the file is in {capabilities.length_unit} and {unit}, not in Å and eV"
    return None


class ScriptedFile:
    """Outputs of a file from float64 geometry, as ``Engine`` gives them.

    Metatomic's interface takes positions in the model's dtype, and gives sums in it.
    Here only the vectors between atoms are rounded, and nothing that is large.
    """

    def __init__(self, exported: Any, output: str, dtype: torch.dtype) -> None:
        """Take the file's module.

        Args:
            exported: a metatomic model for which ``find_script_obstacle`` finds none.
            output: name of an energy output.
            dtype: that of the file.
        """
        self._module = exported.module
        self._output = output
        self._dtype = dtype
        self.is_conditioned = bool(
            self._module.describe_engine(output)[1]["is_conditioned"]
        )

    def predict(self, batch: Batch, *, with_stress: bool = False) -> Prediction:
        """Return energies, forces and, if asked for, the stress of a single system.

        Raises:
            torch.jit.Error: if the model has no entry for the charge or the spin.
        """
        return self.predict_chosen(
            batch, ChosenTargets(self._output), with_stress=with_stress
        )

    def predict_chosen(
        self, batch: Batch, chosen: ChosenTargets, *, with_stress: bool = False
    ) -> Prediction:
        """Return the same, with what direct outputs give in place of derivatives."""
        has_gradient = chosen.forces is None or (
            with_stress and chosen.is_stress_derived
        )
        names = [n for n in chosen.direct if with_stress or n != chosen.stress]
        with torch.set_grad_enabled(has_gradient):
            vectors = compute_edge_vectors(batch).to(self._dtype)
            vectors.requires_grad_(has_gradient)
            values, composition = self._run(batch, vectors, [self._output, *names])
            energies = values[self._output].squeeze(1)
            gradient = torch.zeros_like(vectors)
            if has_gradient and len(vectors) > 0:
                (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        prediction = assemble_prediction(
            composition[self._output].squeeze(1),
            batch,
            energies.detach(),
            vectors.detach(),
            gradient.detach(),
            with_forces=chosen.forces is None,
            with_stress=with_stress and chosen.is_stress_derived,
        )
        direct = {
            name: values[name].detach().to(torch.float64) + composition[name]
            for name in names
        }
        return put_direct(prediction, direct, batch, chosen)

    def predict_stresses(self, batch: Batch) -> torch.Tensor:
        """Return the part of each atom in a single system's stress, [n_atoms, 3, 3]."""
        vectors = compute_edge_vectors(batch).to(self._dtype).requires_grad_(True)
        gradient = torch.zeros_like(vectors)
        if len(vectors) > 0:
            with torch.enable_grad():
                values, _ = self._run(batch, vectors, [self._output])
                energy = values[self._output].sum()
                (gradient,) = torch.autograd.grad(energy, vectors)
        return compute_atomic_stresses(gradient, vectors.detach(), batch)

    def compute_features(self, batch: Batch) -> torch.Tensor | None:
        """Return last-layer features [n_atoms, n_features], None of an older file."""
        if not hasattr(self._module, "evaluate_features"):
            return None
        with torch.no_grad():
            vectors = compute_edge_vectors(batch).to(self._dtype)
            return self._run_features(batch, vectors)

    def list_uncertainties(self) -> list[str]:
        """Return the names of the uncertainties that the file has of the energy."""
        # files from before know of none
        if not hasattr(self._module, "count_members"):
            return []
        n_members = self._module.count_members(self._output)
        return [] if n_members < 0 else name_available(n_members)

    def estimate(
        self,
        batch: Batch,
        properties: list[str],
        features: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Return the uncertainties among the properties, which the file has.

        Args:
            batch: a single system.
            properties: their names, others among them.
            features: [n_atoms, n_features], the last layer's, where they are known
                already; None takes a pass through the network.
        """
        found: dict[str, Any] = {}
        module, output = self._module, self._output
        vectors = compute_edge_vectors(batch).to(self._dtype)
        if not set(OF_ENERGIES).isdisjoint(properties):
            with torch.no_grad():
                if features is None:
                    features = self._run_features(batch, vectors)
                found |= name_uncertainties(
                    lambda rows: module.estimate_uncertainty(output, rows), features
                )
        if FORCES_UNCERTAINTY in properties:
            found[FORCES_UNCERTAINTY] = self._estimate_forces(batch, vectors)
        return found

    def _estimate_forces(self, batch: Batch, vectors: torch.Tensor) -> np.ndarray:
        """Return the standard deviation of each force over the ensemble."""
        if len(vectors) == 0:
            return np.zeros((len(batch.species), 3))
        vectors = vectors.requires_grad_(True)
        features = self._run_features(batch, vectors).sum(dim=0, keepdim=True)
        energies = self._module.deviate_ensemble(self._output, features)[0]
        # one by one: TorchScript's operations cannot be batched
        gradients = (
            torch.autograd.grad(energy, vectors, retain_graph=True)[0]
            for energy in energies
        )
        forces = [compute_forces(gradient, batch) for gradient in gradients]
        return to_numpy(torch.stack(forces).std(dim=0))

    def _run_features(self, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._module.evaluate_features(
            self._output, *_list_inputs(batch, vectors)
        )
        return features

    def _run(
        self, batch: Batch, vectors: torch.Tensor, names: list[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        values: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = (
            self._module.evaluate_pairs(names, *_list_inputs(batch, vectors))
        )
        return values


def _list_inputs(batch: Batch, vectors: torch.Tensor) -> tuple[Any, ...]:
    """Return what the file's methods take of one system, after names of outputs."""
    return (
        batch.species,
        batch.cells[0],
        batch.centers,
        batch.neighbors,
        batch.reverse,
        vectors,
        int(batch.charges[0]),
        int(batch.spin_multiplicities[0]),
    )

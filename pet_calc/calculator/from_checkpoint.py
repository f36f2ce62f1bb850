"""Evaluate a PET on one ``Atoms`` after the other, as a calculator needs it."""

from collections.abc import Mapping
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from pet_calc.calculator.atoms_io import (
    assemble_direct,
    build_single_batch,
    name_results,
    name_uncertainties,
    to_numpy,
)
from pet_calc.calculator.supported import (
    check_charge_and_spin,
    check_direct_stress,
    require_direct_targets,
)
from pet_calc.calculator.uncertainty import (
    FORCES_UNCERTAINTY,
    OF_ENERGIES,
    name_available,
)
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.pair_cache import PairCache
from pet_calc.engine.switch import Compile, ModelSwitch
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import choose_energy_target
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import (
    LastLayerUncertainty,
    compute_features,
    compute_force_uncertainty,
)


class CheckpointBackend:
    """A model with its neighbour list; results in ASE's units and names."""

    def __init__(
        self,
        model: PET,
        *,
        target: str | None,
        direct: bool,
        skin: float,
        compile: Compile = "auto",
        precision: str = "exact",
        uncertainties: Mapping[str, LastLayerUncertainty] | None = None,
        source: str = "the model",
    ) -> None:
        """Set up; most arguments are those of ``PETCalculator``.

        The uncertainties are those of the model's energies, on its device; ``source``
        is what messages call the model.

        Raises:
            ModelError: if the model lacks a target.
            ConfigError: if the compiled engine was asked for and cannot run.
        """
        self.model = model
        self.target = choose_energy_target(model.targets, target)
        self._uncertainty = (uncertainties or {}).get(self.target)
        self._source = source
        weight = model.edge_embedder.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.known = set(model.atomic_types)
        self.pairs = PairCache(model.pair_cutoff, skin=skin)
        self._is_conditioned = model.system_conditioning is not None
        self._state: tuple[int, int] | None = None
        # of the last evaluation: an uncertainty asked for afterwards costs no pass
        self._features: Tensor | None = None
        self._direct: tuple[str, str | None] | None = None
        if direct:
            self._direct = require_direct_targets(model.targets, self.target)
            if compile is True or precision == "mixed":
                raise ConfigError(
                    "the compiled engine derives forces from the energy: compile=True "
                    "and precision='mixed' do not go with non_conservative=True"
                )
            compile = False
        self._switch = ModelSwitch(
            model, self.target, compile=compile, precision=precision
        )

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs differ that ASE does not look at."""
        if not self._is_conditioned:
            return []
        # not that of `before`, which may be one that cannot be read
        return [] if read_charge_and_spin(now) == self._state else ["info"]

    def compute(
        self, atoms: Atoms, properties: list[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return energy, free_energy, energies, forces and, if there is one, stress.

        Args:
            atoms: with elements that the model knows.
            properties: what was asked for; everything is computed anyway.
            has_stress: whether the system is periodic in all directions.
        """
        self._features = None
        batch = self._build_batch(atoms)
        if self._direct is None:
            result = self._switch.predict(
                batch,
                with_stress=has_stress,
                with_features=self._uncertainty is not None,
            )
        else:
            if has_stress:
                check_direct_stress(self._direct[1], properties)
            result = self._predict_direct(batch, has_stress)
        self._features = result.features
        return name_results(result) | self._estimate(batch, properties)

    def estimate(self, atoms: Atoms, properties: list[str]) -> dict[str, Any]:
        """Return the uncertainties among the properties, and nothing else.

        The atoms are those of the last ``compute``.
        """
        return self._estimate(self._build_batch(atoms), properties)

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are."""
        if self._uncertainty is None:
            return []
        return name_available(self._uncertainty.n_members)

    def explain_missing(self) -> str:
        """Return why there is no uncertainty, and which command makes one."""
        return describe_missing(self._source, self.target)

    def _estimate(self, batch: Batch, properties: list[str]) -> dict[str, Any]:
        uncertainty = self._uncertainty
        if uncertainty is None:
            return {}
        found: dict[str, Any] = {}
        if not set(OF_ENERGIES).isdisjoint(properties):
            if self._features is None:
                self._features = compute_features(self.model, batch, self.target)
            found |= name_uncertainties(uncertainty, self._features)
        if FORCES_UNCERTAINTY in properties and uncertainty.n_members > 1:
            deviations = compute_force_uncertainty(
                self.model, batch, self.target, uncertainty
            )
            found[FORCES_UNCERTAINTY] = to_numpy(deviations)
        return found

    def _build_batch(self, atoms: Atoms) -> Batch:
        charge, spin = 0, 1
        if self._is_conditioned:
            # only then: the names may mean something else to other models
            self._state = None
            charge, spin = self._state = read_charge_and_spin(atoms)
        check_charge_and_spin(self.model, charge, spin, "atoms")
        return build_single_batch(atoms, self.pairs, self.device, charge, spin)

    def _predict_direct(self, batch: Batch, has_stress: bool) -> Prediction:
        """Return energies, and forces and stress from the direct heads."""
        assert self._direct is not None
        force_target, stress_target = self._direct
        names = [self.target, force_target]
        if has_stress and stress_target is not None:
            names.append(stress_target)
        with torch.no_grad():
            vectors = compute_edge_vectors(batch).to(self.dtype)
            values = {
                name: per_atom.to(torch.float64) + self.model.composition(batch, name)
                for name, per_atom in self.model(batch, vectors, names).items()
            }
        stress = stress_target if has_stress else None
        return assemble_direct(values, self.target, force_target, stress)

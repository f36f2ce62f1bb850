"""Evaluate a PET on one ``Atoms`` after the other, as a calculator needs it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from pet_calc.calculator.at_once import count_batch_tokens
from pet_calc.calculator.atoms_io import (
    build_single_batch,
    name_results,
    name_stresses,
    name_uncertainties,
    put_direct,
    split_prediction,
    to_numpy,
)
from pet_calc.calculator.backend import FeatureKind
from pet_calc.calculator.request import Request
from pet_calc.calculator.supported import check_charge_and_spin
from pet_calc.calculator.uncertainty import (
    FORCES_UNCERTAINTY,
    OF_ENERGIES,
    name_available,
)
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.orientation import turn_batch
from pet_calc.data.pair_cache import PairCache
from pet_calc.engine.switch import ModelSwitch
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch, join_batches
from pet_calc.model.derivatives import Derived, Prediction, predict_outputs
from pet_calc.model.features import compute_trunk_features
from pet_calc.model.pet import PET
from pet_calc.model.stresses import compute_atomic_stresses, differentiate
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
        request: Request,
        *,
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
        self.chosen = request.choose_targets(model.targets, model.targets)
        self.target = self.chosen.energy
        self._uncertainty = (uncertainties or {}).get(self.target)
        self._source = source
        weight = model.edge_embedder.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.known = set(model.atomic_types)
        self.pairs = PairCache(model.pair_cutoff, skin=request.skin)
        self._is_conditioned = model.system_conditioning is not None
        self._state: tuple[int, int] | None = None
        # of the last evaluation: an uncertainty asked for afterwards costs no pass
        self._features: Tensor | None = None
        compile = request.compile
        if self.chosen.direct:
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
        self, atoms: Atoms, properties: Sequence[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return energy, free_energy, energies, forces and, if there is one, stress.

        Args:
            atoms: with elements that the model knows.
            properties: what was asked for; everything is computed anyway.
            has_stress: whether the system is periodic in all directions.
        """
        self._features = None
        batch = self._build_batch(atoms)
        result = self._predict(batch, properties, has_stress)
        self._features = result.features
        return name_results(result) | self._estimate(batch, properties)

    def compute_batches(
        self,
        batches: Sequence[Batch],
        properties: Sequence[str],
        have_stress: Sequence[bool],
    ) -> list[dict[str, Any]]:
        """Return the same of several systems, which are evaluated at once.

        Args:
            batches: of one system each, from ``prepare``.
            properties: as for ``compute``.
            have_stress: which of the systems are periodic in all directions.
        """
        result = self._predict(join_batches(batches), properties, any(have_stress))
        each = zip(batches, split_prediction(result, batches), have_stress, strict=True)
        all_results = []
        for batch, own, has_stress in each:
            found = name_results(own if has_stress else own._replace(stress=None))
            with self.apart():
                self._features = own.features
                found |= self._estimate(batch, properties)
            all_results.append(found)
        return all_results

    def predict_turned(
        self,
        atoms: Atoms,
        matrices: npt.NDArray[np.float64],
        properties: Sequence[str],
        is_bulk: bool,
    ) -> Prediction:
        """Return what is said of copies of a system, each turned by its matrix.

        Args:
            atoms: the system.
            matrices: [n_copies, 3, 3], orthogonal.
            properties: what was asked for.
            is_bulk: whether it is periodic in all directions.
        """
        self._features = None
        batch = join_batches([self._build_batch(atoms)] * len(matrices))
        turned = turn_batch(batch, torch.from_numpy(matrices).to(self.device))
        return self._predict(turned, properties, is_bulk)

    def prepare(self, atoms: Atoms) -> Batch:
        """Return a system as a batch, with a neighbour list of its own."""
        return self._build(atoms, PairCache(self.pairs.cutoff, skin=0.0))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Evaluate in the block what no step follows or is followed by."""
        before = self._state, self.pairs, self._features
        self.pairs = PairCache(self.pairs.cutoff, skin=0.0)
        try:
            yield
        finally:
            self._state, self.pairs, self._features = before

    def count_tokens(self, atoms: Atoms) -> int:
        """Return the pairs and atoms of a system."""
        return count_batch_tokens(self.prepare(atoms))

    def _predict(
        self, batch: Batch, properties: Sequence[str], has_stress: bool
    ) -> Prediction:
        self.chosen.check_stress(properties)
        with_stress = self.chosen.wants_stress(has_stress, properties)
        if self.chosen.direct:
            return self._predict_direct(batch, with_stress)
        return self._switch.predict(
            batch,
            with_stress=with_stress,
            with_features=self._uncertainty is not None,
        )

    def estimate(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
        """Return uncertainties and ``stresses`` among the properties, nothing else.

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

    def compute_features(self, atoms: Atoms, kind: FeatureKind) -> Tensor:
        """Return the features of each atom, [n_atoms, n_features]."""
        batch = self.prepare(atoms)
        if kind == "trunk":
            return compute_trunk_features(self.model, batch)
        return compute_features(self.model, batch, self.target)

    def _estimate(self, batch: Batch, properties: Sequence[str]) -> dict[str, Any]:
        """Return those of the properties that cost more than the prediction."""
        found: dict[str, Any] = {}
        if "stresses" in properties:
            self.chosen.check_stress(properties)
            vectors, gradient = differentiate(self.model, batch, self.target)
            stresses = compute_atomic_stresses(gradient, vectors, batch)
            found["stresses"] = name_stresses(stresses)
        uncertainty = self._uncertainty
        if uncertainty is None:
            return found
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
        # a state that cannot be read is none
        self._state = None
        batch = self._build(atoms, self.pairs)
        if self._is_conditioned:
            self._state = (int(batch.charges[0]), int(batch.spin_multiplicities[0]))
        return batch

    def _build(self, atoms: Atoms, pairs: PairCache) -> Batch:
        charge, spin = 0, 1
        if self._is_conditioned:
            # only then: the names may mean something else to other models
            charge, spin = read_charge_and_spin(atoms)
        check_charge_and_spin(self.model, charge, spin, "atoms")
        return build_single_batch(atoms, pairs, self.device, charge, spin)

    def _predict_direct(self, batch: Batch, with_stress: bool) -> Prediction:
        """Return energies, and what direct targets and derivatives give."""
        chosen = self.chosen
        is_derived = with_stress and chosen.is_stress_derived
        derived = Derived(forces=chosen.forces is None, stress=is_derived)
        names = [n for n in chosen.direct if with_stress or n != chosen.stress]
        outputs = predict_outputs(self.model, batch, {self.target: derived}, names)
        values = {
            name: per_atom.to(torch.float64) + self.model.composition(batch, name)
            for name, per_atom in outputs.direct.items()
        }
        return put_direct(outputs.energies[self.target], values, batch, chosen)

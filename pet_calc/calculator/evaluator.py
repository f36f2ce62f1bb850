"""Evaluate a system, averaged over orientations or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from pet_calc.calculator.at_once import run_if_it_fits
from pet_calc.calculator.atoms_io import to_numpy
from pet_calc.calculator.averaging import RotationalAverage
from pet_calc.calculator.backend import Backend, FeatureKind
from pet_calc.calculator.supported import check_known_elements
from pet_calc.calculator.uncertainty import (
    ENERGIES_UNCERTAINTY,
    UNCERTAINTIES,
    UncertaintyWatch,
)
from pet_calc.errors import ConfigError

# what costs more than a prediction, and is computed where it is asked for
ON_DEMAND = frozenset((*UNCERTAINTIES, "stresses"))


@dataclass(frozen=True)
class Evaluator:
    """A backend, and what is done with it at each evaluation."""

    backend: Backend
    average: RotationalAverage | None = None
    watch: UncertaintyWatch | None = None

    def compute(
        self, atoms: Atoms, properties: Sequence[str], is_bulk: bool
    ) -> dict[str, Any]:
        """Return the results of a system.

        Args:
            atoms: with elements that the model knows.
            properties: what was asked for.
            is_bulk: whether the system is periodic in all directions.

        Raises:
            TooLargeError: if it does not fit in memory.
        """
        names = self.extend(properties)
        self._check(names)

        def compute() -> dict[str, Any]:
            if self.average is None:
                return self.backend.compute(atoms, names, is_bulk)
            results = self.average.compute(self.backend, atoms, names, is_bulk)
            return results | self.complete(atoms, names)

        return run_if_it_fits(self.backend, atoms, compute)

    def complete(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
        """Return those of the properties that ``compute`` leaves out unasked."""
        self._check(properties)
        names = [name for name in properties if name in ON_DEMAND]
        return self.backend.estimate(atoms, names) if names else {}

    def extend(self, properties: Sequence[str]) -> list[str]:
        """Return the properties, and what ``look`` needs."""
        return [*properties, *([ENERGIES_UNCERTAINTY] if self.watch else [])]

    def look(self, atoms: Atoms, results: dict[str, Any]) -> None:
        """Act if the energies of atoms are too uncertain, where that is wanted."""
        if self.watch is not None:
            self.watch.look(atoms, results[ENERGIES_UNCERTAINTY])

    def _check(self, properties: Sequence[str]) -> None:
        if self.average is not None and "stresses" in properties:
            raise PropertyNotImplementedError(
                "stresses are not averaged over rotations; ask a calculator without "
                "rotational_average_order for them"
            )

    def compute_features(
        self, atoms: Atoms, kind: FeatureKind, *, per_atom: bool
    ) -> npt.NDArray[np.float64]:
        """Return what ``PETCalculator.get_features`` does."""
        if kind not in get_args(FeatureKind):
            raise ConfigError(
                f"kind: expected one of {', '.join(get_args(FeatureKind))}, "
                f"got {kind!r}"
            )
        check_known_elements(atoms, self.backend.known)

        def compute() -> npt.NDArray[np.float64]:
            with self.backend.apart():
                return to_numpy(self.backend.compute_features(atoms, kind))

        features = run_if_it_fits(self.backend, atoms, compute)
        found: npt.NDArray[np.float64] = features if per_atom else features.sum(axis=0)
        return found

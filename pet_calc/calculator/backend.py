"""What a calculator asks of whatever evaluates its systems."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from pet_calc.calculator.targets import ChosenTargets
from pet_calc.model.derivatives import Prediction

FeatureKind: TypeAlias = Literal["last_layer", "trunk"]


class Backend(Protocol):
    """A model with its neighbour list; results in ASE's units and names."""

    model: Any
    target: str
    chosen: ChosenTargets
    device: torch.device
    dtype: torch.dtype
    known: set[int]
    """Atomic numbers of the elements that the model knows."""

    def compute(
        self, atoms: Atoms, properties: Sequence[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return energy, free_energy, energies, forces and, if there is one, stress.

        Args:
            atoms: with elements that the model knows.
            properties: what was asked for; those of ``estimate`` are added.
            has_stress: whether the system is periodic in all directions.
        """

    def estimate(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
        """Return uncertainties and ``stresses`` among the properties, nothing else."""

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

    def compute_features(self, atoms: Atoms, kind: FeatureKind) -> Tensor:
        """Return the features of each atom, [n_atoms, n_features]."""

    def count_tokens(self, atoms: Atoms) -> int:
        """Return the pairs and atoms of a system."""

    def apart(self) -> AbstractContextManager[None]:
        """Evaluate in the block what no step follows or is followed by."""

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs differ that ASE does not look at."""

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are."""

    def explain_missing(self) -> str:
        """Return why there is no uncertainty, and which command makes one."""

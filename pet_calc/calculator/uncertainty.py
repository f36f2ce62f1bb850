"""What a calculator says of uncertainties, and what it does about large ones."""

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from ase import Atoms

from pet_calc.errors import ConfigError, UncertaintyError

logger = logging.getLogger(__name__)

ENERGY_UNCERTAINTY = "energy_uncertainty"
ENERGIES_UNCERTAINTY = "energies_uncertainty"
FORCES_UNCERTAINTY = "forces_uncertainty"
OF_ENERGIES = (ENERGY_UNCERTAINTY, ENERGIES_UNCERTAINTY)
UNCERTAINTIES = (*OF_ENERGIES, FORCES_UNCERTAINTY)


def name_available(n_members: int) -> list[str]:
    """Return the properties that a model with an ensemble of that size has."""
    return list(UNCERTAINTIES if n_members > 1 else OF_ENERGIES)


class UncertainStep(NamedTuple):
    """An evaluation with atoms that are uncertain by more than was allowed."""

    step: int
    """Evaluations of the calculator before it."""
    atoms: Atoms
    """The system, a copy."""
    indices: npt.NDArray[np.int64]
    """Of the uncertain atoms, the most uncertain one first."""
    uncertainties: npt.NDArray[np.float64]
    """[n_atoms] in eV, of all atoms' energies."""
    message: str
    """All that in one line."""


OnUncertain: TypeAlias = Literal["warn", "raise"] | Callable[[UncertainStep], Any]


class UncertaintyWatch:
    """Looks at the uncertainty of every atom's energy, evaluation after evaluation."""

    def __init__(self, limit: float, on_uncertain: OnUncertain) -> None:
        """Say what is too uncertain, and what happens then.

        Args:
            limit: in eV, of the energy of an atom.
            on_uncertain: ``warn`` logs a line, once; ``raise`` stops; a function is
                called with each such step.

        Raises:
            ConfigError: if one of them makes no sense.
        """
        if not limit > 0.0:
            raise ConfigError(f"max_uncertainty: expected more than 0 eV, got {limit}")
        if on_uncertain not in ("warn", "raise") and not callable(on_uncertain):
            raise ConfigError(
                "on_uncertain: expected 'warn', 'raise' or a function, got "
                f"{on_uncertain!r}"
            )
        self._limit = limit
        self._on_uncertain = on_uncertain
        self._n_steps = 0
        self._has_warned = False

    def look(self, atoms: Atoms, uncertainties: npt.NDArray[np.float64]) -> None:
        """Act if an atom is too uncertain.

        Args:
            atoms: that were evaluated.
            uncertainties: [n_atoms] in eV.

        Raises:
            UncertaintyError: if that was asked for.
        """
        step = self._n_steps
        self._n_steps += 1
        # `not <=`: NaN is uncertain as well
        indices = np.flatnonzero(~(uncertainties <= self._limit))
        if not len(indices):
            return
        indices = indices[np.argsort(-uncertainties[indices])]
        first = int(indices[0])
        message = (
            f"step {step}: the energies of {len(indices)} of {len(atoms)} atoms are "
            f"uncertain by more than {self._limit:g} eV, most of all of atom {first} "
            f"({atoms.symbols[first]}): {uncertainties[first]:.3g} eV"
        )
        if callable(self._on_uncertain):
            copy = atoms.copy()
            self._on_uncertain(
                UncertainStep(step, copy, indices, uncertainties.copy(), message)
            )
        elif self._on_uncertain == "raise":
            raise UncertaintyError(message)
        elif not self._has_warned:
            self._has_warned = True
            logger.warning("%s; later steps are not named", message)

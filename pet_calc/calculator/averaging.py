"""Averages over rotations and inversion, so that results hardly depend on orientation.

A PET is not exactly invariant. The mean over a quadrature of O(3), with forces and
stress turned back, is: exactly as far as the quadrature integrates what the energy
does in the orientation. It is a smooth function of positions, and its forces are its
derivatives.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.integrate import lebedev_rule
from scipy.spatial.transform import Rotation
from torch import Tensor

from pet_calc.calculator.at_once import DEFAULT_BATCH_TOKENS, AtOnce
from pet_calc.calculator.atoms_io import to_numpy
from pet_calc.calculator.backend import Backend
from pet_calc.data.orientation import turn_rows, turn_tensors
from pet_calc.errors import ConfigError
from pet_calc.model.derivatives import Prediction

Floats = npt.NDArray[np.float64]

# orders of Lebedev's grids: each is exact for spherical harmonics up to its order
ORDERS = (*range(3, 32, 2), *range(35, 132, 6))
AVERAGED = ("energy", "energies", "forces", "stress")
SPREADS = tuple(f"{name}_rot_std" for name in AVERAGED)


def build_quadrature(order: int) -> tuple[Floats, Floats]:
    """Return orthogonal matrices [n, 3, 3] and their weights [n], which sum to one.

    A Lebedev grid of two angles, times equal steps of the third, times inversion: the
    quadrature of metatomic-ase's ``SymmetrizedCalculator(l_max=order)``.

    Args:
        order: spherical harmonics up to this degree are integrated exactly; 0 is
            the identity and the inversion alone.

    Raises:
        ConfigError: if the order is negative or above 131, the largest grid there is.
    """
    is_whole = isinstance(order, (int, np.integer)) and not isinstance(order, bool)
    if not is_whole or not 0 <= order <= ORDERS[-1]:
        raise ConfigError(
            "rotational_average_order: expected a whole number from 0 to "
            f"{ORDERS[-1]}, got {order!r}"
        )
    if order == 0:
        proper, weights = np.eye(3)[None], np.ones(1)
    else:
        points, of_points = lebedev_rule(next(o for o in ORDERS if o >= order))
        x, y, z = points
        n_steps = 2 * order + 1
        angles = np.stack(
            [
                np.repeat(np.arctan2(y, x), n_steps),
                np.repeat(np.arccos(np.clip(z, -1.0, 1.0)), n_steps),
                np.tile(2 * np.pi * np.arange(n_steps) / n_steps, len(x)),
            ],
            axis=1,
        )
        proper = Rotation.from_euler("ZYZ", angles).as_matrix()
        weights = np.repeat(of_points, n_steps)
    weights = np.concatenate([weights, weights])
    return np.concatenate([proper, -proper]), weights / weights.sum()


class RotationalAverage:
    """Evaluates systems in all orientations of a quadrature."""

    def __init__(self, order: int, batch_size: int | None = None) -> None:
        """Make the quadrature.

        Args:
            order: as for ``build_quadrature``.
            batch_size: orientations that are evaluated at once; None takes as many as
                a batch may hold. Fewer follow where memory runs out.

        Raises:
            ConfigError: if one of them makes no sense.
        """
        self.matrices, self.weights = build_quadrature(order)
        if batch_size is not None and not batch_size >= 1:
            raise ConfigError(
                "rotational_average_batch_size: expected at least 1, got "
                f"{batch_size!r}"
            )
        self._batch_size = batch_size

    @classmethod
    def where_asked(
        cls, order: int | None, batch_size: int | None
    ) -> "RotationalAverage | None":
        """Return one for the arguments of ``PETCalculator``; None without an order."""
        if order is not None:
            return cls(order, batch_size)
        if batch_size is not None:
            raise ConfigError(
                "rotational_average_batch_size: needs a rotational_average_order too"
            )
        return None

    def compute(
        self, backend: Backend, atoms: Atoms, properties: list[str], is_bulk: bool
    ) -> dict[str, Any]:
        """Return means by ASE's names, and standard deviations as ``..._rot_std``.

        The deviations are weighted as the means are, by component.

        Args:
            backend: evaluates.
            atoms: the system.
            properties: what was asked for.
            is_bulk: whether it is periodic in all directions.
        """
        most = self._batch_size or max(
            DEFAULT_BATCH_TOKENS // max(backend.count_tokens(atoms), 1), 1
        )
        sums: dict[str, _Sums] = {}

        def evaluate(chosen: Any) -> tuple[Any, Prediction]:
            matrices = self.matrices[chosen]
            return chosen, backend.predict_turned(atoms, matrices, properties, is_bulk)

        at_once = AtOnce[int](most, lambda _: 1, "orientations")
        for chosen, prediction in at_once.run(range(len(self.weights)), evaluate):
            values = _turn_back(prediction, self.matrices[chosen], len(atoms))
            for name, rows in values.items():
                own = sums.setdefault(name, _Sums(rows[0]))
                own.add(rows, self.weights[chosen])
        found = {name: own.finish() for name, own in sums.items()}
        mean = _name({name: values[0] for name, values in found.items()})
        spread = _name({name: values[1] for name, values in found.items()})
        mean["free_energy"] = mean["energy"]
        return mean | {f"{name}_rot_std": value for name, value in spread.items()}


class _Sums:
    """Weighted mean and standard deviation of rows, relative to the first of them."""

    def __init__(self, first: Tensor) -> None:
        # totals reach 1e5 eV, and spreads are a few meV
        self._first = first
        self._mean = torch.zeros_like(first)
        self._square = torch.zeros_like(first)

    def add(self, rows: Tensor, weights: Floats) -> None:
        of_rows = torch.from_numpy(weights).to(rows.device)
        away = rows - self._first
        self._mean = self._mean + torch.tensordot(of_rows, away, dims=1)
        self._square = self._square + torch.tensordot(of_rows, away**2, dims=1)

    def finish(self) -> tuple[Tensor, Tensor]:
        variance = (self._square - self._mean**2).clamp(min=0.0)
        return self._first + self._mean, variance.sqrt()


def _turn_back(
    prediction: Prediction, matrices: Floats, n_atoms: int
) -> dict[str, Tensor]:
    """Return values of copies as they are for the system unturned, [n_copies, ...]."""
    n_copies = len(matrices)
    back = torch.from_numpy(matrices).to(prediction.energy.device).transpose(1, 2)
    found = {
        "energy": prediction.energy,
        "energies": prediction.atomic_energies.view(n_copies, n_atoms),
    }
    if prediction.forces is not None:
        owner = torch.arange(n_copies, device=back.device).repeat_interleave(n_atoms)
        forces = turn_rows(prediction.forces.to(torch.float64), back, owner)
        found["forces"] = forces.view(n_copies, n_atoms, 3)
    if prediction.stress is not None:
        found["stress"] = turn_tensors(prediction.stress.to(torch.float64), back)
    return found


def _name(values: dict[str, Tensor]) -> dict[str, Any]:
    """Return values of one system in ASE's types, the stress in Voigt order."""
    results: dict[str, Any] = {name: to_numpy(value) for name, value in values.items()}
    results["energy"] = float(values["energy"])
    if "stress" in results:
        results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
    return results

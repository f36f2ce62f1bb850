"""Files that only metatomic's own interface runs, with our guard in front of it."""

import logging
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import register_autograd_neighbors

from pet_calc.calculator.targets import ChosenTargets, DirectMode
from pet_calc.data.neighbor_search import check_cell, check_positions
from pet_calc.data.neighbors import compute_pairs, mask_cell
from pet_calc.data.state import give_usual_names
from pet_calc.errors import ConfigError

logger = logging.getLogger(__name__)

SAMPLES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


class MetatomicFile:
    """A file of another program, or of an older pet-calc, through metatomic-ase.

    The interface takes positions in the file's dtype, so systems are brought near
    the origin first. Pairs come from ``compute_pairs``, and vectors from float64.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device,
        chosen: ChosenTargets,
    ) -> None:
        """Set up metatomic-ase.

        Args:
            model: metatomic's.
            device: where it runs.
            chosen: names of the outputs.

        Raises:
            ConfigError: if metatomic-ase is not installed.
        """
        split = [name.partition("/") for name in (chosen.energy, *chosen.direct)]
        mode: DirectMode = bool(chosen.direct)
        if chosen.stress is None and chosen.direct:
            mode = "forces"
        elif chosen.forces is None and chosen.direct:
            mode = "stress"
        MetatomicCalculator = _import_metatomic_ase()
        self._inner = MetatomicCalculator(
            model,
            device=str(device),
            variants={base: variant or None for base, _, variant in split},
            non_conservative=mode,
            # it would divide by the volume of molecules, which is zero
            do_gradients_with_energy=False,
        )
        if not hasattr(self._inner, "_nl_calculators"):
            raise ConfigError(
                "this version of metatomic-ase keeps its neighbour lists elsewhere: "
                "pip install metatomic-ase==0.1.4, or export the checkpoint again"
            )
        self._lists = _GuardedLists(model.requested_neighbor_lists())
        self._inner._nl_calculators = self._lists

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs in ``info`` differ, of those that the model reads."""
        self._inner.atoms = give_usual_names(before)
        found = self._inner.check_state(give_usual_names(now))
        return [c for c in found if c not in all_changes]

    def compute(self, atoms: Atoms, *, with_stress: bool) -> dict[str, Any]:
        """Return energy, free_energy, energies, forces and, if asked for, stress."""
        if len(atoms) == 0:
            empty = {"energies": np.zeros(0), "forces": np.zeros((0, 3))}
            stress = {"stress": np.zeros(6)} if with_stress else {}
            return {"energy": 0.0, "free_energy": 0.0, **empty, **stress}
        near = bring_home(give_usual_names(atoms))
        self._lists.atoms = near
        names = ["energy", "energies", "forces"]
        if with_stress:
            names.append("stress")
        self._inner.calculate(near, names, all_changes)
        results = {name: self._inner.results[name] for name in names}
        results["energy"] = float(results["energy"])
        results["free_energy"] = results["energy"]
        return results


def bring_home(atoms: Atoms) -> Atoms:
    """Return the same system near the origin: wrapped, and open sides centred.

    Raises:
        DataError: if positions or cell cannot be used.
    """
    near = atoms.copy()
    pbc = np.asarray(atoms.pbc)
    check_positions(near.positions)
    near.cell = mask_cell(np.asarray(atoms.cell), pbc)
    check_cell(near.cell.array, pbc)
    box = near.cell.array
    if pbc.any():
        turns = np.floor(near.positions @ np.linalg.pinv(box)) * pbc
        near.positions -= turns @ box
    if not pbc.all():
        # along all axes: any shift of a whole system is allowed
        near.positions -= near.positions.mean(axis=0)
    return near


class _GuardedLists:
    """Gives metatomic-ase the neighbour lists of ``atoms``, whatever their shape."""

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests
        self.atoms = Atoms()

    def compute(self, systems: list[Any]) -> list[Any]:
        """Add the lists to the one system, which is that of ``atoms``."""
        (system,) = systems
        atoms = self.atoms
        for request in self._requests:
            i, j, shifts = compute_pairs(
                atoms.positions,
                np.asarray(atoms.cell),
                np.asarray(atoms.pbc),
                request.engine_cutoff("angstrom"),
            )
            if not request.full_list:
                a, b, c = shifts.T
                leading = np.where(a != 0, a, np.where(b != 0, b, c))
                is_own = (i < j) | ((i == j) & (leading > 0))
                i, j, shifts = i[is_own], j[is_own], shifts[is_own]
            vectors = atoms.positions[j] - atoms.positions[i]
            vectors = vectors + shifts @ np.asarray(atoms.cell)
            samples = torch.from_numpy(np.column_stack([i, j, shifts]).astype(np.int32))
            block = TensorBlock(
                values=torch.from_numpy(vectors).to(
                    system.positions.device, system.positions.dtype
                )[:, :, None],
                samples=Labels(
                    SAMPLES, samples.to(system.positions.device), assume_unique=True
                ),
                components=[Labels.range("xyz", 3).to(system.positions.device)],
                properties=Labels.range("distance", 1).to(system.positions.device),
            )
            register_autograd_neighbors(system, block, check_consistency=False)
            system.add_neighbor_list(request, block)
        return systems


def _import_metatomic_ase() -> Any:
    try:
        from metatomic_ase import MetatomicCalculator
    except ImportError as error:
        raise ConfigError(
            "this file runs through metatomic-ase, which is not installed: "
            "pip install metatomic-ase"
        ) from error
    return MetatomicCalculator

"""What is validated: any calculator, many structures at once where that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from pet_calc.calculator.calculator import PETCalculator
from pet_calc.checkpoint.open import is_exported
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import Array
from pet_calc.data.state import CHARGE_NAMES, SPIN_NAMES
from pet_calc.engine.switch import Compile
from pet_calc.evaluate.predict import BatchPredictor
from pet_calc.model.pet import PET


class Answer(NamedTuple):
    """What a potential says of a structure, in eV and Å."""

    energy: float
    forces: Array
    """[n_atoms, 3]."""
    stress: Array | None
    """[3, 3], positive in tension; None unless periodic in all directions."""


@dataclass
class Potential:
    """A calculator, and what a validation has to know of it."""

    calculator: Calculator
    """Gives energy, energies, forces and, of bulk, stress."""
    name: str
    elements: list[int]
    """Atomic numbers that it knows, ascending."""
    cutoff: float
    """Farthest distance of two neighbours, Å."""
    reach: float
    """Farthest distance at which one atom changes another's energy, Å."""
    is_float32: bool = False
    """Whether energies are rounded to about 1e-6 eV an atom."""
    predictor: BatchPredictor | None = None
    """Evaluates many structures at once; None asks the calculator one by one."""

    @classmethod
    def from_calculator(
        cls, calculator: PETCalculator, name: str, *, compile: Compile = "auto"
    ) -> "Potential":
        """Return the potential of a checkpoint's or an exported file's calculator."""
        model = calculator.model
        predictor = None
        if isinstance(model, PET):
            numbers = list(model.atomic_types)
            cutoff, reach = model.pair_cutoff, model.interaction_range
            predictor = BatchPredictor(model, calculator.target, compile=compile)
        else:
            capabilities = model.capabilities()
            numbers = list(capabilities.atomic_types)
            cutoff = model.requested_neighbor_lists()[0].cutoff
            reach = capabilities.interaction_range
        precision = str(calculator.dtype).removeprefix("torch.")
        return cls(
            calculator,
            f"{name} ({calculator.target}, {precision})",
            sorted(numbers),
            cutoff,
            reach,
            calculator.dtype != torch.float64,
            predictor,
        )

    def evaluate(self, structures: Sequence[Atoms]) -> list[Answer]:
        """Return what it says of structures, in their order."""
        if self.predictor is not None:
            frames = [LabeledFrame.from_atoms(_strip(atoms)) for atoms in structures]
            return [
                Answer(each.energy, each.forces, each.stress)
                for batch in self.predictor.predict(frames)
                for each in batch.predictions
            ]
        return [self._ask(atoms) for atoms in structures]

    def compute_energies(self, atoms: Atoms) -> Array:
        """Return the energies of the atoms, [n_atoms] in eV."""
        found: Array = self.calculator.get_property("energies", atoms)
        return found

    def _ask(self, atoms: Atoms) -> Answer:
        stress = None
        if atoms.pbc.all():
            voigt = self.calculator.get_property("stress", atoms)
            stress = voigt[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])]
        return Answer(
            float(self.calculator.get_property("energy", atoms)),
            np.array(self.calculator.get_property("forces", atoms), dtype=np.float64),
            stress,
        )


def load_potential(
    model: str | Path | PET,
    *,
    name: str = "",
    compile: Compile = "auto",
    **settings: Any,
) -> Potential:
    """Return the potential of a model file, in float64 where the file allows that.

    Args:
        model: as for ``PETCalculator``.
        name: what the report calls it; empty is the name of the file.
        compile: as for ``PETCalculator``.
        settings: its further arguments.

    Raises:
        PetCalcError: as ``PETCalculator``.
    """
    settings.setdefault("dtype", "float64")
    if isinstance(model, str | Path) and is_exported(model):
        # fixed by the export
        settings.pop("dtype")
    calculator = PETCalculator(model, compile=compile, **settings)
    if not name:
        name = "the model" if isinstance(model, PET) else Path(model).name
    return Potential.from_calculator(calculator, name, compile=compile)


def _strip(atoms: Atoms) -> Atoms:
    """Return the atoms with what models read, and no labels."""
    names = {*CHARGE_NAMES, *SPIN_NAMES} & atoms.info.keys()
    kept = {name: atoms.info[name] for name in names}
    return Atoms(
        atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=kept
    )

"""Make a model that was trained in other units speak eV and Å."""

import logging
from dataclasses import replace
from typing import cast

from pet_calc.errors import ModelError
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    DIRECT_STRESS,
    TargetSpec,
)
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable
from pet_calc.units import energy_factor, force_factor, length_factor, stress_factor

logger = logging.getLogger(__name__)


def is_angstrom(unit: str) -> bool:
    """Return whether a model of this length unit needs no conversion of lengths."""
    return not unit or length_factor(unit) == 1.0


def convert_energies_to_ev(model: PET) -> None:
    """Bring energies and direct forces and stress to eV and Å, in place.

    The factors go into the float64 tables of scales and composition energies; all
    other targets stay as they are. A model that is in eV already is not touched.

    Args:
        model: its lengths are in Å.

    Raises:
        ConfigError: for a unit that pet-calc does not know.
        ModelError: for a model with ZBL, which is in eV, in another unit.
    """
    for name, spec in list(model.targets.items()):
        unit, factor = _find_factor(spec)
        if not spec.unit and spec.is_energy:
            logger.warning(
                "the model does not say the unit of %s: taken as %s", name, unit
            )
        if factor == 1.0:
            continue
        if model.zbl is not None and spec.is_energy:
            raise ModelError(
                f"target {name} is in {spec.unit}: ZBL needs energies in eV"
            )
        table = cast(TargetTable, model.baseline.tables[name])
        table.scale *= factor
        table.composition *= factor
        model.targets[name] = replace(spec, unit=unit)
        logger.info("target %s: converted from %s to %s", name, spec.unit, unit)


def _find_factor(spec: TargetSpec) -> tuple[str, float]:
    """Return the unit that the target should have, and what it is multiplied by."""
    if spec.is_energy:
        return "eV", energy_factor(spec.unit or "eV")
    if spec.base_name in (DIRECT_FORCE, DIRECT_FORCES):
        return "eV/A", force_factor(spec.unit or "eV/A")
    if spec.base_name == DIRECT_STRESS:
        return "eV/A^3", stress_factor(spec.unit or "eV/A^3")
    return spec.unit, 1.0

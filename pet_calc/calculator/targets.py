"""Which of a model's targets give energy, forces and stress."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

from ase.calculators.calculator import PropertyNotImplementedError

from pet_calc.errors import ConfigError, ModelError
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    DIRECT_STRESS,
    ENERGY,
    TargetSpec,
    choose_energy_target,
    find_direct_targets,
)

DirectMode: TypeAlias = bool | Literal["forces", "stress"]
Variants: TypeAlias = Mapping[str, str | None]

_UNCERTAINTY = "energy_uncertainty"
_KEYS = (ENERGY, _UNCERTAINTY, DIRECT_FORCE, DIRECT_FORCES, DIRECT_STRESS)


class ChosenTargets(NamedTuple):
    """Names of targets; forces and stress without one are derived from the energy."""

    energy: str
    forces: str | None = None
    """Of the direct forces."""
    stress: str | None = None
    """Of the direct stress."""
    is_stress_derived: bool = True
    """Whether the stress follows from the energy. False where it is direct, and where
    it was to be and the model has none."""

    @property
    def direct(self) -> list[str]:
        """The direct targets."""
        return [name for name in (self.forces, self.stress) if name is not None]

    def check_stress(self, properties: Collection[str]) -> None:
        """Raise ``PropertyNotImplementedError`` for a stress that is missing."""
        if "stresses" in properties and not self.is_stress_derived:
            raise PropertyNotImplementedError(
                "a direct (non-conservative) stress is one of the whole system; use "
                "non_conservative=False or 'forces' for those of the atoms"
            )
        if "stress" in properties and not self.has_stress:
            raise PropertyNotImplementedError(
                "the model has no direct (non-conservative) stress; use "
                "non_conservative=False or 'forces' to derive it from the energy"
            )

    @property
    def has_stress(self) -> bool:
        """Whether systems that are periodic in all directions have a stress."""
        return self.stress is not None or self.is_stress_derived

    def wants_stress(self, is_bulk: bool, properties: Collection[str]) -> bool:
        """Return whether to compute a stress.

        Beside direct forces a derived one would be most of the cost, so it is
        computed where it is asked for only.
        """
        if not is_bulk:
            return False
        if self.forces is not None and self.is_stress_derived:
            return "stress" in properties
        return self.has_stress


def choose_targets(
    energies: dict[str, TargetSpec],
    names: Collection[str],
    *,
    target: str | None,
    variants: Variants | None,
    direct: DirectMode,
) -> ChosenTargets:
    """Return the targets to use; the last three arguments are ``PETCalculator``'s.

    Args:
        energies: the model's targets, or its energies alone.
        names: of all the model's targets.
        target: energy asked for.
        variants: which variant of each target.
        direct: what comes from direct targets.

    Raises:
        ConfigError: for arguments that make no sense, or contradict each other.
        ModelError: if the model has no such target.
    """
    if direct not in (True, False, *get_args(Literal["forces", "stress"])):
        raise ConfigError(
            "non_conservative: expected True, False, 'forces' or 'stress', got "
            f"{direct!r}"
        )
    variants = variants or {}
    _check_keys(variants)
    energy = choose_energy_target(energies, _merge_wishes(target, variants))
    _check_uncertainty(variants, energy)
    if not direct:
        return ChosenTargets(energy)
    forces, stress = find_direct_targets(names, energy)
    for key in (DIRECT_FORCE, DIRECT_FORCES):
        if key in variants:
            bases = (DIRECT_FORCE, DIRECT_FORCES)
            forces = _find_variant(names, bases, variants[key])
    if DIRECT_STRESS in variants:
        stress = _find_variant(names, (DIRECT_STRESS,), variants[DIRECT_STRESS])
    known = f"its targets are: {', '.join(names)}"
    if forces is None and direct != "stress":
        raise ModelError(
            f"the model has no direct (non-conservative) forces for {energy}; {known}"
        )
    if direct == "forces":
        return ChosenTargets(energy, forces)
    if direct == "stress":
        if stress is None:
            raise ModelError(
                "the model has no direct (non-conservative) stress for "
                f"{energy}; {known}"
            )
        return ChosenTargets(energy, None, stress, is_stress_derived=False)
    return ChosenTargets(energy, forces, stress, is_stress_derived=False)


def _merge_wishes(target: str | None, variants: Variants) -> str | None:
    """Return the energy that ``target`` and the variants ask for, None if neither."""
    variant = variants.get(ENERGY)
    if variant is None:
        return target
    wanted = f"{ENERGY}/{variant}"
    if target not in (None, variant, wanted):
        raise ConfigError(
            f"target={target!r} and variants={{'energy': {variant!r}}} are two "
            "energies; name one"
        )
    return wanted


def _check_keys(variants: Variants) -> None:
    unknown = [key for key in variants if key not in _KEYS]
    if unknown:
        raise ConfigError(
            f"variants: {unknown[0]!r} is no target of a calculator; expected some of "
            f"{', '.join(_KEYS)}"
        )
    if DIRECT_FORCE in variants and DIRECT_FORCES in variants:
        raise ConfigError(
            f"variants: {DIRECT_FORCE} and {DIRECT_FORCES} are one target; name one"
        )


def _check_uncertainty(variants: Variants, energy: str) -> None:
    own = energy.partition("/")[2] or None
    if variants.get(_UNCERTAINTY, own) != own:
        raise ConfigError(
            f"variants: an uncertainty of {variants[_UNCERTAINTY]!r} does not tell how "
            f"far {energy} is off; leave {_UNCERTAINTY} out"
        )


def _find_variant(
    names: Collection[str], bases: Collection[str], variant: str | None
) -> str:
    ending = f"/{variant}" if variant else ""
    for base in bases:
        if base + ending in names:
            return base + ending
    raise ModelError(
        f"the model has no target {next(iter(bases))}{ending}; its targets are: "
        f"{', '.join(names)}"
    )

"""The options of data: which files, what is learned from them, where labels lie.

As in ``options``, a field's name is its key in an options file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pet_calc.config.fields import check_fields, check_positive, check_unit
from pet_calc.errors import ConfigError
from pet_calc.model.hypers import (
    ENERGY,
    NON_CONSERVATIVE_FORCE,
    NON_CONSERVATIVE_FORCES,
    NON_CONSERVATIVE_STRESS,
)
from pet_calc.units import energy_factor, force_factor, length_factor, stress_factor


@dataclass(frozen=True)
class LabelOptions:
    """Where forces, stress or virial lie in the data; a block of that name."""

    mode: Literal["auto", "required", "off"] = "auto"
    """auto: use it where found; required: fail when no frame has it; off: ignore it."""
    key: str | None = None
    """Name in the file; null searches the usual names."""
    unit: str | None = None
    """Unit in the file; null derives it from the units of energy and length."""
    sign: Literal[1, -1] = 1
    """-1 if the file has the opposite sign (stress positive in compression)."""

    def __post_init__(self) -> None:
        """Check types."""
        check_fields(self)


@dataclass(frozen=True)
class TargetOptions:
    """What is learned, and where its labels lie; an entry of ``targets:``."""

    name: str = ENERGY
    """Name in the model, such as energy, energy/pbe, non_conservative_force."""
    quantity: str = ""
    """energy for a target that the name alone does not show to be one."""
    key: str | None = None
    """Name in the file; null searches the usual names."""
    unit: str | None = None
    """Unit in the file; null is eV (eV/A for forces, eV/A^3 for stress)."""
    forces: LabelOptions = field(default_factory=LabelOptions)
    """Forces, minus the energy's derivative in the positions."""
    stress: LabelOptions = field(default_factory=LabelOptions)
    """Stress, positive in tension."""
    virial: LabelOptions = field(default_factory=LabelOptions)
    """Virial, minus stress times volume; used where there is no stress."""
    description: str = ""
    """Free text, for example the level of theory."""

    def __post_init__(self) -> None:
        """Check types, that it can be learned, and not stress and virial at once."""
        check_fields(self)
        if self.kind == "energy" and ENERGY not in (self.base_name, self.quantity):
            raise ConfigError(
                f"quantity: expected {ENERGY}, got {self.quantity!r}; only energies "
                "and non-conservative forces and stress are learned"
            )
        if self.kind == "energy":
            check_unit(self.unit, "unit", energy_factor)
        else:
            factor = force_factor if self.kind == "force" else stress_factor
            check_unit(self.unit, "unit", factor)
        check_unit(self.forces.unit, "forces.unit", force_factor)
        check_unit(self.stress.unit, "stress.unit", stress_factor)
        check_unit(self.virial.unit, "virial.unit", energy_factor)
        if self.kind != "energy":
            self._check_direct()
        if self.forces.sign != 1:
            raise ConfigError("forces.sign: expected 1, got -1; flip them in the file")
        if self.stress.mode == self.virial.mode == "required":
            raise ConfigError(
                "stress: expected stress or virial to be asked for, got both; "
                "write `virial: off` or `stress: off`"
            )

    def _check_direct(self) -> None:
        """Raise for what a target of a direct head cannot have."""
        if self.kind == "stress" and self.variant:
            raise ConfigError(
                f"name: {self.name} is not supported; PET takes only the output named "
                f"{NON_CONSERVATIVE_STRESS} for a stress"
            )
        for name in ("forces", "stress", "virial"):
            if getattr(self, name).mode == "required":
                raise ConfigError(
                    f"{name}: belongs to an energy; the labels of {self.name} are "
                    "named by its own key"
                )

    @property
    def base_name(self) -> str:
        """Name without the variant: ``energy`` for ``energy/pbe``."""
        return self.name.split("/", 1)[0]

    @property
    def variant(self) -> str:
        """What follows the name: ``pbe`` for ``energy/pbe``; empty without one."""
        return self.name.partition("/")[2]

    @property
    def kind(self) -> Literal["energy", "force", "stress"]:
        """What the labels are: energies, or the labels of a non-conservative head."""
        if self.base_name in (NON_CONSERVATIVE_FORCE, NON_CONSERVATIVE_FORCES):
            return "force"
        return "stress" if self.base_name == NON_CONSERVATIVE_STRESS else "energy"


@dataclass(frozen=True)
class DatasetOptions:
    """Files with structures and their labels; an entry of ``training_set:``."""

    read_from: tuple[str, ...] = ()
    """Paths or globs of files that ASE reads."""
    length_unit: str = "angstrom"
    """Unit of positions and cells in the file."""
    index: str = ":"
    """Which frames, as ASE writes it: ":", "::10", "-100:"."""
    indices: tuple[int, ...] | str | None = None
    """Numbers of the frames to use, or a text file with one number a line."""
    targets: tuple[TargetOptions, ...] = (TargetOptions(),)
    """What is learned from these files."""
    weight: float = 1.0
    """Factor on these frames' share of the loss."""
    charge_key: str | None = None
    """Name of the total charge in the file; null searches the usual names."""
    spin_multiplicity_key: str | None = None
    """Name of the multiplicity 2S+1 in the file; null searches the usual names."""
    use_isolated_atoms: bool = False
    """Train on config_type=IsolatedAtom frames too, not only take offsets from them."""

    def __post_init__(self) -> None:
        """Check types and that there is something to read and to learn."""
        check_fields(self)
        check_positive(self, "weight")
        check_unit(self.length_unit, "length_unit", length_factor)
        if not self.read_from:
            raise ConfigError("read_from: expected at least one file, got none")
        if not self.targets:
            raise ConfigError("targets: expected at least one target, got none")
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise ConfigError(f"targets: expected different names, got {names}")

    @property
    def energy_targets(self) -> tuple[TargetOptions, ...]:
        """The targets that are energies; none where a file has other labels only."""
        return tuple(t for t in self.targets if t.kind == "energy")

    @property
    def direct_targets(self) -> tuple[TargetOptions, ...]:
        """The targets of non-conservative heads."""
        return tuple(t for t in self.targets if t.kind != "energy")

    def read_indices(self) -> tuple[int, ...] | None:
        """Return the wanted frame numbers, read from their file if need be."""
        if not isinstance(self.indices, str):
            return self.indices
        try:
            return tuple(int(n) for n in Path(self.indices).read_text().split())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"indices: expected a file with one frame number a line at "
                f"{self.indices}: {error}"
            ) from error

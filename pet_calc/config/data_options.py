"""The options of data: which files, what is learned from them, where labels lie."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

from pet_calc.config import read_data
from pet_calc.config.fields import Names, Options, Positive
from pet_calc.config.flags import DATA, KEY, LABELS, METHOD, UNIT, option
from pet_calc.config.messages import OptionError, at, expand
from pet_calc.errors import ConfigError
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    DIRECT_STRESS,
    ENERGY,
)

Unit = Literal["energy", "force", "stress", "length"]
Key = str | Literal[False] | None
EXTRA: dict[str, Any] = {"metavar": "NAME", "shown": ""}


def _check_unit(unit: str | None, kind: Unit, name: str) -> None:
    """Raise if the unit is not known; None passes."""
    if unit is None:
        return
    from pet_calc import units  # imports ase, which --help need not wait for

    compute_factor: Callable[[str], float] = getattr(units, f"{kind}_factor")
    try:
        compute_factor(unit)
    except ConfigError as error:
        raise OptionError(f"{name}: {error}") from None


class LabelOptions(Options):
    """Where forces, stress or virial lie in the data; a block of that name."""

    mode: Literal["auto", "required", "off"] = "auto"
    """auto: use it where found; required: fail when no frame has it; off: ignore it."""
    key: str | None = option(None, "--{block}-key", LABELS, **KEY)
    """Name in the file; null searches the usual names."""
    unit: str | None = option(
        None,
        "--{block}-unit",
        LABELS,
        help="Unit of the {block}",
        shown="from energy and length",
        **UNIT,
    )
    """Unit in the file; null derives it from the units of energy and length."""
    sign: Literal[1, -1] = option(1, "--stress-sign", LABELS)
    """-1 if it has the opposite sign: stress positive in compression, as in VASP."""


class TargetOptions(Options):
    """What is learned, and where its labels lie; an entry of ``targets:``."""

    name: str = option(ENERGY, "--target", METHOD, metavar="NAME", exclude=True)
    """Output to train, such as energy; a new name such as energy/pbe has own heads."""
    quantity: str = ""
    """energy for a target that the name alone does not show to be one."""
    key: Key = option(None, "--energy-key", LABELS, **KEY)
    """Name in the file; null searches the usual names, off reads none."""
    unit: str | None = option(
        None,
        "--energy-unit",
        LABELS,
        help="Unit of the energy, such as Hartree or kcal/mol",
        shown="eV",
        **UNIT,
    )
    """Unit in the file; null is eV (eV/A for forces, eV/A^3 for stress)."""
    forces: LabelOptions = Field(default_factory=LabelOptions)
    """Forces, minus the energy's derivative in the positions."""
    stress: LabelOptions = Field(default_factory=LabelOptions)
    """Stress, positive in tension."""
    virial: LabelOptions = Field(default_factory=LabelOptions)
    """Virial, minus stress times volume; used where there is no stress."""
    description: str = option("", "--level", METHOD, metavar="TEXT")
    """Level of theory, or other free text that is stored in the model."""

    @model_validator(mode="after")
    def _check(self) -> "TargetOptions":
        """Check that it can be learned, and not stress and virial at once."""
        if self.kind == "energy" and ENERGY not in (self.base_name, self.quantity):
            raise OptionError(
                f"quantity: expected {ENERGY}, got {self.quantity!r}; only energies "
                "and direct forces and stress are learned"
            )
        _check_unit(self.unit, self.kind, "unit")
        _check_unit(self.forces.unit, "force", "forces.unit")
        _check_unit(self.stress.unit, "stress", "stress.unit")
        _check_unit(self.virial.unit, "energy", "virial.unit")
        if self.kind != "energy":
            self._check_direct()
        if self.forces.sign != 1:
            raise OptionError("forces.sign: expected 1, got -1; flip them in the file")
        if self.stress.mode == self.virial.mode == "required":
            raise OptionError(
                "stress: expected stress or virial to be asked for, got both; "
                "write `virial: off` or `stress: off`"
            )
        return self

    def _check_direct(self) -> None:
        """Raise for what a target of a direct head cannot have."""
        if self.kind == "stress" and self.variant:
            raise OptionError(
                f"name: {self.name} is not supported; PET takes only the target named "
                f"{DIRECT_STRESS} for a stress"
            )
        for name in ("forces", "stress", "virial"):
            if getattr(self, name).mode == "required":
                raise OptionError(
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
        """What the labels are: energies, or the labels of a direct head."""
        if self.base_name in (DIRECT_FORCE, DIRECT_FORCES):
            return "force"
        return "stress" if self.base_name == DIRECT_STRESS else "energy"


class SystemsOptions(Options):
    """The files with frames; ``systems:``."""

    read_from: Names
    """A file with frames: paths or globs of files that ASE reads."""
    length_unit: str = option("angstrom", "--length-unit", LABELS, **UNIT)
    """Unit of positions and cells in the file."""
    index: str = ":"
    """Which frames, as ASE writes it: ":", "::10", "-100:"."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the names alone, and metatrain's ways to say nothing."""
        return read_data.normalize_systems(value)

    @model_validator(mode="after")
    def _check(self) -> "SystemsOptions":
        if not self.read_from:
            raise OptionError("read_from: expected at least one file, got none")
        # the default needs no look, which would import ase for a help
        if "length_unit" in self.model_fields_set:
            _check_unit(self.length_unit, "length", "length_unit")
        return self


class KeyOptions(Options):
    """Where a number of the whole system lies; ``charge:``."""

    key: Key = None
    """Name in the file; null searches the usual names, off reads none."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the name alone, or ``off``."""
        return {"key": value} if value is False else expand(value, "key")


class ExtraOptions(Options):
    """Inputs of models that know charge and spin; ``extra_data:``."""

    charge: KeyOptions = option(KeyOptions, "--charge-key", LABELS, **EXTRA)
    """Name of the total charge in the file; none: not used."""
    spin_multiplicity: KeyOptions = option(KeyOptions, "--spin-key", LABELS, **EXTRA)
    """Name of the multiplicity 2S+1 in the file; none: not used."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take a block without a key, whose name is the key then."""
        if isinstance(value, Mapping):
            return {
                name: {"key": name} if block is None or block == {} else block
                for name, block in value.items()
            }
        return value


class DatasetOptions(Options):
    """Files with frames and their labels; an entry of ``training_set:``."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        name: ("systems", name) for name in SystemsOptions.model_fields
    }

    systems: SystemsOptions
    """A file with frames, or a block that says more."""
    targets: Annotated[tuple[TargetOptions, ...], Strict(False)] = Field(
        default_factory=lambda: (TargetOptions(),)
    )
    """What is learned from these files."""
    extra_data: ExtraOptions = Field(default_factory=ExtraOptions)
    """Where charge and spin_multiplicity lie."""
    indices: Annotated[tuple[int, ...], Strict(False)] | str | None = None
    """Numbers of the frames to use, or a text file with one number a line."""
    weight: Positive = option(
        1.0, "--weight", DATA, metavar="FILE=W", shown="1", n_values=-1
    )
    """Factor on a file's share of the loss."""
    use_isolated_atoms: bool = False
    """Train on isolated atoms too, not only take energies per element from them."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take a file alone, and targets as a block with an entry for each."""
        value = expand(value, "systems")
        if isinstance(value, Mapping) and isinstance(value.get("indices"), list):
            # pydantic before 2.8 takes no list for one of several kinds
            value = {**value, "indices": tuple(value["indices"])}
        if not isinstance(value, Mapping) or not isinstance(
            value.get("targets"), Mapping
        ):
            return value
        paths = read_data.find_paths(value)
        targets = []
        for name, block in value["targets"].items():
            with at(f"targets.{name}"):
                found = read_data.normalize_target(block, str(name), paths)
                targets.append(TargetOptions(**found))
        return {**value, "targets": tuple(targets)}

    @model_validator(mode="after")
    def _check(self) -> "DatasetOptions":
        """Check that there is something to learn."""
        if not self.targets:
            raise OptionError("targets: expected at least one target, got none")
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise OptionError(f"targets: expected different names, got {names}")
        return self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        names = [target.name for target in self.targets]
        values["targets"] = dict(zip(names, values["targets"], strict=True))
        for name, default in (("indices", None), ("extra_data", ExtraOptions())):
            if getattr(self, name) == default:
                del values[name]
        return values

    @property
    def read_from(self) -> tuple[str, ...]:
        """Paths or globs of the files."""
        return self.systems.read_from

    @property
    def length_unit(self) -> str:
        """Unit of positions and cells in the files."""
        return self.systems.length_unit

    @property
    def index(self) -> str:
        """Which frames, as ASE writes it."""
        return self.systems.index

    @property
    def charge_key(self) -> Key:
        """Name of the total charge; None: a usual one; False: not read."""
        return self.extra_data.charge.key

    @property
    def spin_multiplicity_key(self) -> Key:
        """Name of the multiplicity, likewise."""
        return self.extra_data.spin_multiplicity.key

    @property
    def energy_targets(self) -> tuple[TargetOptions, ...]:
        """The targets that are energies; none where a file has other labels only."""
        return tuple(t for t in self.targets if t.kind == "energy")

    @property
    def direct_targets(self) -> tuple[TargetOptions, ...]:
        """The targets of direct heads."""
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

"""Where the labels of a data set lie and in which units, from its options."""

from collections.abc import Sequence

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.data.labels import Key, LabelKeys, LabelUnits

NO_ENERGY = TargetOptions(
    forces=LabelOptions(mode="off"),
    stress=LabelOptions(mode="off"),
    virial=LabelOptions(mode="off"),
)
"""What is read of a data set that has labels of direct heads only."""


def first_energy(dataset: DatasetOptions) -> TargetOptions:
    """Return the first energy of a data set, ``NO_ENERGY`` if it has none."""
    return (*dataset.energy_targets, NO_ENERGY)[0]


def build_label_keys(
    dataset: DatasetOptions,
    target: TargetOptions | None = None,
    *,
    direct: Sequence[TargetOptions] = (),
) -> LabelKeys:
    """Return where the labels of a target lie.

    Args:
        dataset: that they are of.
        target: an energy; None is the first one.
        direct: targets of direct heads to read as well.
    """
    target = target or first_energy(dataset)
    keys: dict[str, Key] = {other.kind: other.key for other in direct}
    return LabelKeys(
        energy=False if target is NO_ENERGY else target.key,
        forces=_key_of(target.forces),
        stress=_key_of(target.stress),
        virial=_key_of(target.virial),
        charge=dataset.charge_key,
        spin_multiplicity=dataset.spin_multiplicity_key,
        direct_forces=keys.get("force", False),
        direct_stress=keys.get("stress", False),
    )


def build_label_units(
    dataset: DatasetOptions,
    target: TargetOptions | None = None,
    *,
    direct: Sequence[TargetOptions] = (),
) -> LabelUnits:
    """Return the units of the labels; the arguments are those of the keys."""
    target = target or first_energy(dataset)
    units: dict[str, str | None] = {other.kind: other.unit for other in direct}
    return LabelUnits(
        energy=target.unit or "eV",
        length=dataset.length_unit,
        forces=target.forces.unit,
        stress=target.stress.unit,
        virial=target.virial.unit,
        stress_sign=target.stress.sign,
        virial_sign=target.virial.sign,
        direct_forces=units.get("force"),
        direct_stress=units.get("stress"),
    )


def _key_of(label: LabelOptions) -> Key:
    return False if label.mode == "off" else label.key

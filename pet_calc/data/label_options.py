"""Where the labels of a data set lie and in which units, from its options."""

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.data.labels import Key, LabelKeys, LabelUnits


def build_label_keys(
    dataset: DatasetOptions, target: TargetOptions | None = None
) -> LabelKeys:
    """Return where the labels of a target lie; None is the first target."""
    target = target or dataset.targets[0]
    return LabelKeys(
        energy=target.key,
        forces=_key_of(target.forces),
        stress=_key_of(target.stress),
        virial=_key_of(target.virial),
        charge=dataset.charge_key,
        spin_multiplicity=dataset.spin_multiplicity_key,
    )


def build_label_units(
    dataset: DatasetOptions, target: TargetOptions | None = None
) -> LabelUnits:
    """Return the units of the labels of a target; None is the first target."""
    target = target or dataset.targets[0]
    return LabelUnits(
        energy=target.unit or "eV",
        length=dataset.length_unit,
        forces=target.forces.unit,
        stress=target.stress.unit,
        virial=target.virial.unit,
        stress_sign=target.stress.sign,
        virial_sign=target.virial.sign,
    )


def _key_of(label: LabelOptions) -> Key:
    return False if label.mode == "off" else label.key

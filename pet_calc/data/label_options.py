"""Where the labels of a data set lie and in which units, from its options."""

from collections.abc import Sequence

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.data.labels import Key, LabelKeys, LabelSource, LabelUnits

NO_ENERGY = TargetOptions(
    key=False,
    forces=LabelOptions(mode="off"),
    stress=LabelOptions(mode="off"),
    virial=LabelOptions(mode="off"),
)
"""What is read of a data set that has labels of direct heads only."""


def build_label_sources(
    dataset: DatasetOptions, main_target: str = ""
) -> dict[str, LabelSource]:
    """Return where the labels of each energy of a data set lie, and in which units.

    Args:
        dataset: that they are of.
        main_target: energy with which the labels of direct heads go; empty is the
            first one.
    """
    targets = {target.name: target for target in dataset.energy_targets}
    main = main_target or next(iter(targets), "")
    direct = dataset.direct_targets
    if direct:
        targets.setdefault(main, NO_ENERGY)
    return {
        name: build_label_source(dataset, target, direct if name == main else ())
        for name, target in targets.items()
    }


def build_label_source(
    dataset: DatasetOptions,
    target: TargetOptions | None = None,
    direct: Sequence[TargetOptions] = (),
) -> LabelSource:
    """Return where the labels of a target lie, and in which units.

    Args:
        dataset: that they are of.
        target: an energy; None is the first one, ``NO_ENERGY`` if there is none.
        direct: targets of direct heads to read as well.
    """
    target = target or (*dataset.energy_targets, NO_ENERGY)[0]
    own_keys: dict[str, Key] = {other.kind: other.key for other in direct}
    own_units: dict[str, str | None] = {other.kind: other.unit for other in direct}
    keys = LabelKeys(
        energy=target.key,
        forces=_key_of(target.forces),
        stress=_key_of(target.stress),
        virial=_key_of(target.virial),
        charge=dataset.charge_key,
        spin_multiplicity=dataset.spin_multiplicity_key,
        direct_forces=own_keys.get("force", False),
        direct_stress=own_keys.get("stress", False),
    )
    units = LabelUnits(
        energy=target.unit or "eV",
        length=dataset.length_unit,
        forces=target.forces.unit,
        stress=target.stress.unit,
        virial=target.virial.unit,
        stress_sign=target.stress.sign,
        virial_sign=target.virial.sign,
        direct_forces=own_units.get("force"),
        direct_stress=own_units.get("stress"),
    )
    return LabelSource(keys, units)


def _key_of(label: LabelOptions) -> Key:
    return False if label.mode == "off" else label.key

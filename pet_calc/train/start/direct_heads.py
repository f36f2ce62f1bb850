"""Which direct force and stress heads train, and their start."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pet_calc.config import TargetOptions
from pet_calc.data.frames import LabeledFrame
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    TargetSpec,
    find_direct_targets,
)
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DirectHeads:
    """Names of direct targets that go with an energy target, None without."""

    forces: str | None = None
    stress: str | None = None
    own_labels: tuple[str, ...] = ()
    """Those with labels of their own; the others have the energy's."""
    new: tuple[str, ...] = ()
    """Those that start from random weights."""

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.forces, self.stress) if name is not None]


def add_wanted_heads(
    model: PET, source: str, wanted: Mapping[str, TargetOptions], *, seed: int
) -> DirectHeads:
    """Return the heads that are targets of the training; adds them in place if new.

    A new one starts from the head that goes with ``source``, or from random weights
    where there is none.

    Args:
        model: of the training.
        source: energy target that the training starts from, empty without a base.
        wanted: targets by kind, ``force`` and ``stress``.
        seed: of random weights.
    """
    names: dict[str, str] = {}
    new: list[str] = []
    known = find_direct_heads(model, source)
    for kind, target in wanted.items():
        base, slash, variant = target.name.partition("/")
        # the base may have the other spelling
        spellings = [base, DIRECT_FORCE, DIRECT_FORCES] if kind == "force" else [base]
        there = [b + slash + variant for b in spellings]
        name = next((n for n in there if n in model.targets), target.name)
        inherited = known.forces if kind == "force" else known.stress
        if name not in model.targets and inherited is not None:
            _copy_output(model, inherited, name)
            logger.info("new target %s starts from the heads of %s", name, inherited)
        elif name not in model.targets:
            is_force = kind == "force"
            build = TargetSpec.for_forces if is_force else TargetSpec.for_stress
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model.add_target(build(name))
            new.append(name)
            logger.info("new target %s starts from random weights", name)
        names[kind] = name
    return DirectHeads(
        names.get("force"), names.get("stress"), tuple(names.values()), tuple(new)
    )


def set_up_direct_heads(
    model: PET,
    source: str,
    target: str,
    *,
    wanted: DirectHeads,
    has_forces: bool,
    has_stress: bool,
    keeps_others: bool,
) -> DirectHeads:
    """Return the direct heads to train for ``target``; adds them in place if need be.

    Beside those with labels of their own they are the heads of ``source``: those of
    its variant (``non_conservative_force/pbe`` for ``energy/pbe``), else those without
    one. They are trained under their own names, unless these belong to a target that
    stays in the model: then the forces get heads of their own, which start from the
    base's. A stress of its own is not possible: metatrain symmetrises, and divides by
    the volume, what is named ``non_conservative_stress`` and no variant of it.

    Args:
        model: with ``source``, and ``target`` added already.
        source: energy target of the base that ``target`` starts from, or itself.
        target: energy target that is trained.
        wanted: heads that have labels of their own.
        has_forces: whether there are forces to train on.
        has_stress: whether there are stresses to train on.
        keeps_others: whether the base's other targets stay.
    """
    variant = target.partition("/")[2]
    found = find_direct_heads(model, source)
    forces, stress = wanted.forces, wanted.stress
    if forces is None and found.forces is not None and has_forces:
        forces = found.forces
        own = forces.partition("/")[0] + (f"/{variant}" if variant else "")
        if keeps_others and own != forces:
            _copy_output(model, forces, own)
            forces = own
    if stress is None and found.stress is not None and has_stress:
        if keeps_others and found.stress.partition("/")[2] != variant:
            logger.warning(
                "target %s stays that of %s, with the weights that it has: there is "
                "one direct stress in a model, none of its own for %s",
                found.stress,
                source,
                target,
            )
        else:
            stress = found.stress
    heads = replace(wanted, forces=forces, stress=stress)
    if heads.names:
        logger.info("direct heads that train: %s", ", ".join(heads.names))
    return heads


def find_direct_heads(model: PET, source: str) -> DirectHeads:
    """Return the direct targets that go with an energy target.

    They are those of its variant, else those without one.
    """
    return DirectHeads(*find_direct_targets(model.targets, source))


def scale_new_heads(
    model: PET, heads: DirectHeads, frames: Sequence[LabeledFrame]
) -> None:
    """Set the scale of heads with random weights to the size of their labels, in place.

    That is the root mean square of the forces, and of stress times volume per atom,
    which is what an atom adds to a stress.
    """
    for name in heads.new:
        if name == heads.forces:
            labels = [f.direct_forces for f in frames if f.direct_forces is not None]
        else:
            labels = [
                f.direct_stress * abs(np.linalg.det(f.cell)) / f.n_atoms
                for f in frames
                if f.direct_stress is not None
            ]
        values = np.concatenate([label.ravel() for label in labels])
        size = float(np.sqrt(np.mean(values**2)))
        table = model.baseline.tables[name]
        assert isinstance(table, TargetTable)
        if size > 0:
            table.scale.fill_(size)
        logger.info("scale of %s: %.4g", name, size)


def _copy_output(model: PET, source: str, name: str) -> None:
    """Add the target ``name`` as a copy of ``source``, in place, unless it is there."""
    if name in model.targets:
        return
    spec = model.targets[source]
    block_name = spec.block_name.replace(source, name, 1)
    # fresh heads draw start values, which the copies replace at once
    with torch.random.fork_rng(devices=[]):
        model.add_target(
            replace(spec, name=name, block_name=block_name),
            inherit_from=source,
        )

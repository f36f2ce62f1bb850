"""Give a model from a base the targets of a run, and take away what is not kept."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from pet_calc.config import FinetuneOptions, RunOptions, TargetOptions, replace
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.read_dataset import has_label
from pet_calc.errors import ConfigError, ModelError
from pet_calc.lora.freeze import find_heads
from pet_calc.model.hypers import TargetSpec, choose_energy_target
from pet_calc.model.pet import PET
from pet_calc.train.start.direct_heads import (
    DirectHeads,
    add_wanted_heads,
    set_up_direct_heads,
)

logger = logging.getLogger(__name__)


def add_target(
    model: PET, options: RunOptions, target: TargetOptions, known: dict[str, TargetSpec]
) -> str:
    """Give the model a target to train, in place; return what it starts from.

    ``known`` are the targets of the base.
    """
    finetune, name = options.finetune, target.name
    if name in model.targets:
        if name in finetune.inherit_heads:
            raise ConfigError(
                f"finetune.inherit_heads: {name} is a target of the base already"
            )
        spec = model.targets[name]
        description = target.description or _describe_unknown_level(spec, options)
        model.targets[name] = replace(spec, description=description)
        return name
    source = _choose_source(known, name, finetune)
    spec = TargetSpec.for_energy(name, description=target.description)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model.add_target(spec, inherit_from=source)
    logger.info("new target %s starts from the heads of %s", name, source)
    return source


def _describe_unknown_level(spec: TargetSpec, options: RunOptions) -> str:
    """Return what a target of the base is after training on data of an unsaid level."""
    logger.info(
        "level of theory of %s: not stated; name it with --level, or `description` in "
        "an options file, so that the model says what it is",
        spec.name,
    )
    files = [file for part in options.training_set for file in part.read_from]
    named = ", ".join(Path(file).name for file in files[:3])
    more = ", ..." if len(files) > 3 else ""
    base = f"from {spec.description}, " if spec.description else ""
    return f"{base}trained on {named}{more}, level not stated"


def choose_outputs(
    model: PET,
    options: RunOptions,
    source: str,
    target: str,
    frames: Sequence[LabeledFrame],
) -> DirectHeads:
    """Return the direct heads that train; drop targets that are not kept, in place.

    Heads that do not train are wrong once the trunk has changed, hence the default.
    """
    finetune, loss = options.finetune, options.train.loss_of(target)
    keeps_others = finetune.keep_head or finetune.method == "heads"
    wanted = options.direct_targets
    direct = DirectHeads()
    if finetune.direct_heads == "drop" and wanted:
        raise ConfigError(
            "finetune.direct_heads: expected train, got drop: "
            f"{', '.join(t.name for t in wanted.values())} are targets of the training"
        )
    if finetune.direct_heads == "train":
        direct = set_up_direct_heads(
            model,
            source,
            target,
            wanted=add_wanted_heads(model, source, wanted, seed=options.seed),
            has_forces=loss.forces.weight > 0 and has_label(frames, "forces"),
            has_stress=loss.stress.weight > 0 and has_label(frames, "stress"),
            keeps_others=keeps_others,
        )
    trained = (*options.energy_targets, *direct.names)
    others = [name for name in model.targets if name not in trained]
    if finetune.keep_head and not others:
        raise ConfigError(
            f"keep_head: {target} of the base is what is trained, and there is nothing "
            "beside it to keep; name the new level with --target energy/NAME"
        )
    if not keeps_others:
        for name in others:
            model.remove_target(name)
            logger.info(
                "target %s of the base is dropped: its heads do not train; "
                "--keep-head keeps it",
                name,
            )
    elif others:
        _log_kept(model, others)
    return direct


def _choose_source(
    known: dict[str, TargetSpec], target: str, finetune: FinetuneOptions
) -> str:
    """Return the base's target that a new target starts from."""
    try:
        return choose_energy_target(known, finetune.inherit_heads.get(target))
    except ModelError as error:
        energies = [name for name, spec in known.items() if spec.is_energy]
        raise ConfigError(
            f"the new target {target} can start from one of the base's "
            f"({', '.join(energies) or 'which has no energy'}): name it with "
            "--inherit-head, or in inherit_heads of an options file"
        ) from error


def _log_kept(model: PET, names: list[str]) -> None:
    """Say what targets that are kept cost: memory, and no time unless asked for."""
    n_weights = sum(
        p.numel() for part in find_heads(model, names) for p in part.parameters()
    )
    logger.info(
        "kept as in the base: %s (%s weights in their heads, %.1f MB; no time unless "
        "asked for); their heads do not train, so they change with the trunk only",
        ", ".join(names),
        f"{n_weights:,}",
        4e-6 * n_weights,
    )

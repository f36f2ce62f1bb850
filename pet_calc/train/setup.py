"""Make the model of a run: from a base or from nothing, with what is to train."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase.data import covalent_radii

from pet_calc.checkpoint import Checkpoint
from pet_calc.config import FinetuneOptions, RunOptions, TargetOptions
from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.errors import CheckpointError, ConfigError
from pet_calc.evaluate.convert_units import convert_energies_to_ev, is_angstrom
from pet_calc.evaluate.loading import choose_device, load_record
from pet_calc.evaluate.requests import check_charge_and_spin
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.lora.freeze import (
    format_trainable_table,
    freeze_for_heads,
    freeze_for_lora,
    trainable_table,
    unfreeze_all,
)
from pet_calc.lora.inject import has_lora, inject_lora, merge_lora
from pet_calc.model.hypers import PETHypers, TargetSpec, choose_energy_target
from pet_calc.model.pet import PET

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """A model ready to train, and where it came from."""

    model: PET
    base: Checkpoint | None
    base_fingerprint: str
    is_new_target: bool
    """Whether the target has heads that the base did not have."""
    new_targets: tuple[str, ...] = ()
    """All targets of which that is so."""


def load_base(options: RunOptions) -> Checkpoint | None:
    """Return the base of a run, None for training from scratch.

    Raises:
        CheckpointError: if it cannot be read, or its lengths are not in Å.
        ConfigError: if the options describe another shape than the base has.
    """
    if options.finetune.base is None:
        return None
    base = load_record(options.finetune.base)
    _check_hypers(options.hypers, base)
    if not is_angstrom(base.length_unit):
        raise CheckpointError(
            f"{base.source}: its lengths are in {base.length_unit}; only models in Å "
            "can be fine-tuned"
        )
    return base


def build_model(
    base: Checkpoint | None,
    options: RunOptions,
    target: TargetOptions,
    frames: Iterable[LabeledFrame],
) -> Prepared:
    """Return the model before LoRA is injected, in the dtype and on the device.

    Raises:
        ConfigError: if base and method contradict each other.
        DataError: if the data has elements that the model does not know.
    """
    dtype = torch.float64 if options.base_precision == 64 else torch.float32
    device = choose_device(options.device)
    if base is None:
        model = _build_fresh(options, frames)
        new = tuple(options.targets)
        prepared = Prepared(model, None, "", True, new)
    else:
        prepared = _build_from_base(base, options, target)
    check_elements(frames, prepared.model.atomic_types)
    _check_states(prepared.model, frames)
    prepared.model.to(device=device, dtype=dtype)
    logger.info(
        "model: PET, %s parameters, %s on %s%s",
        f"{sum(p.numel() for p in prepared.model.parameters()):,}",
        str(dtype).removeprefix("torch."),
        device,
        f", from {options.finetune.base}" if base is not None else ", from scratch",
    )
    return prepared


def set_trainable(prepared: Prepared, options: RunOptions) -> None:
    """Inject LoRA if asked for and choose what trains, in place; log the table."""
    model, finetune = prepared.model, options.finetune
    targets = list(options.targets)
    if finetune.method == "lora":
        head_mode = _resolve_head_mode(finetune, bool(prepared.new_targets))
        if finetune.head_mode == "auto" and prepared.new_targets:
            targets = list(prepared.new_targets)
        config = finetune.lora
        if head_mode == "lora" and "heads" not in config.targets:
            config = replace(config, targets=(*config.targets, "heads"))
        if not has_lora(model):
            weight = model.edge_embedder.weight
            injected = inject_lora(model, config, seed=options.seed)
            model.to(device=weight.device, dtype=weight.dtype)
            logger.info(
                "LoRA: rank %d, alpha %g, in %d layers; heads: %s",
                config.rank,
                config.alpha,
                len(injected),
                head_mode,
            )
        freeze_for_lora(model, head_mode=head_mode, targets=targets)  # type: ignore[arg-type]
    elif finetune.method == "heads":
        freeze_for_heads(model, targets, groups=finetune.head_modules)
    else:
        unfreeze_all(model)
    logger.info("%s", format_trainable_table(trainable_table(model)))


def count_trainable(model: PET) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    rows = trainable_table(model)
    return sum(row.n_trainable for row in rows), sum(row.n_parameters for row in rows)


def _build_fresh(options: RunOptions, frames: Iterable[LabeledFrame]) -> PET:
    numbers = options.atomic_types
    if numbers is None:
        numbers = tuple(sorted({int(z) for f in frames for z in f.numbers}))
    specs = [
        TargetSpec.for_energy(target.name, description=target.description)
        for target in options.targets.values()
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = PET(options.hypers or PETHypers(), list(numbers), specs)
    if model.zbl is not None:
        model.zbl.covalent_radii.copy_(torch.tensor(covalent_radii[list(numbers)]))
    return model


def _build_from_base(
    base: Checkpoint, options: RunOptions, target: TargetOptions
) -> Prepared:
    fingerprint = compute_fingerprint(base.state)
    model = base.build_model()
    convert_energies_to_ev(model)
    if has_lora(model):
        logger.info("the base has LoRA of its own: merged before training")
        merge_lora(model)
        fingerprint = compute_fingerprint(model.state_dict())
    wanted = list(options.targets.values())
    new = [t.name for t in wanted if _add_target(model, options, t)]
    if options.finetune.method != "heads" and not options.finetune.keep_head:
        for name in [name for name in model.targets if name not in options.targets]:
            model.remove_target(name)
            logger.info(
                "output %s of the base is dropped: its heads do not train", name
            )
    return Prepared(model, base, fingerprint, target.name in new, tuple(new))


def _add_target(model: PET, options: RunOptions, target: TargetOptions) -> bool:
    """Give the model an output to train, in place; return whether it is new."""
    finetune = options.finetune
    is_new = target.name not in model.targets
    if is_new:
        source = finetune.inherit_heads.get(target.name)
        source = choose_energy_target(model.targets, source)
        spec = TargetSpec.for_energy(target.name, description=target.description)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model.add_target(spec, inherit_from=source)
        logger.info("new output %s starts from the heads of %s", target.name, source)
    elif target.description:
        spec = model.targets[target.name]
        model.targets[target.name] = replace(spec, description=target.description)
    if not is_new and target.name in finetune.inherit_heads:
        raise ConfigError(
            f"finetune.inherit_heads: {target.name} is an output of the base already"
        )
    return is_new


def _check_states(model: PET, frames: Iterable[LabeledFrame]) -> None:
    """Raise for a charge or spin that the model has no entry for.

    A model that knows of none of them leaves them out, which is said.
    """
    n_others, first = 0, ""
    for frame in frames:
        charge, spin = frame.charge, frame.spin_multiplicity
        check_charge_and_spin(model, charge, spin, frame.source)
        if (charge, spin) != (0, 1):
            n_others, first = n_others + 1, first or frame.source
    if n_others and model.system_conditioning is None:
        logger.warning(
            "%d frames have a charge or a spin multiplicity other than 1 (first %s), "
            "which the model does not know of: it takes them for neutral singlets",
            n_others,
            first,
        )


def _resolve_head_mode(finetune: FinetuneOptions, is_new_target: bool) -> str:
    if finetune.head_mode == "auto":
        return "train" if is_new_target else "freeze"
    return finetune.head_mode


def _check_hypers(hypers: PETHypers | None, base: Checkpoint) -> None:
    """Raise if the options describe another shape than the base has."""
    if hypers is None:
        return
    wanted, found = hypers.to_dict(), base.hypers.to_dict()
    defaults = PETHypers().to_dict()
    # a default may be there because nobody wrote it
    different: dict[str, Any] = {
        name: (found[name], value)
        for name, value in wanted.items()
        if value not in (found[name], defaults[name])
    }
    if different:
        listed = "; ".join(
            f"{name} is {old} in the base, {new} in the options"
            for name, (old, new) in different.items()
        )
        raise ConfigError(
            f"architecture.model: the shape comes from the base: {listed}; remove "
            "the block"
        )

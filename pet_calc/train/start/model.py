"""Make the model of a run: from a base or from nothing, with what is to train."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from ase.data import atomic_numbers, covalent_radii

from pet_calc.calculator.supported import check_frame_state
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import choose_device, load_record
from pet_calc.checkpoint.to_ev import convert_energies_to_ev, is_angstrom
from pet_calc.config import RunOptions, TargetOptions
from pet_calc.data.frames import LabeledFrame, check_elements
from pet_calc.errors import CheckpointError, ConfigError
from pet_calc.hub import pin_version
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.lora.freeze import (
    find_heads,
    format_trainable_table,
    freeze_for_heads,
    freeze_for_lora,
    trainable_table,
    unfreeze_all,
)
from pet_calc.lora.inject import SHORTHANDS, has_lora, inject_lora, merge_lora
from pet_calc.lora.rows import train_element_rows
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable
from pet_calc.train.datasets import RunFrames
from pet_calc.train.start.direct_heads import (
    DirectHeads,
    add_wanted_heads,
)
from pet_calc.train.start.new_elements import add_new_elements
from pet_calc.train.start.targets import add_target, choose_outputs

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
    target: str = ""
    """The main energy target that trains."""
    source: str = ""
    """The base's target that the target starts from; itself if it is not new."""
    base_composition: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """[n_species] float64 in eV: energies per element of ``source`` in the base."""
    new_elements: dict[str, str] = field(default_factory=dict)
    """Symbols that the base does not know, and what they started from."""
    direct: DirectHeads = field(default_factory=DirectHeads)
    """Direct force and stress heads that train too."""

    @property
    def new_numbers(self) -> list[int]:
        """Atomic numbers of ``new_elements``."""
        return [atomic_numbers[symbol] for symbol in self.new_elements]

    @property
    def base_target(self) -> str:
        """Output that gives the base's predictions before training, and replays.

        The base's own where it is kept; else the new one, which starts as its copy.
        """
        return self.source if self.source in self.model.targets else self.target

    @property
    def keeps_source(self) -> bool:
        """Whether the base's own target stays beside a new one."""
        return self.is_new_target and self.source in self.model.targets


def pin_base(options: RunOptions) -> RunOptions:
    """Return a copy in which the name of the base says which version it is.

    Raises:
        HubError: if there is no such model, or it cannot be downloaded.
    """
    if options.finetune.base is None:
        return options
    return options.with_base(pin_version(options.finetune.base))


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
    frames: RunFrames,
) -> Prepared:
    """Return the model before LoRA is injected, in the dtype and on the device.

    Raises:
        ConfigError: if base and method contradict each other.
        DataError: if the data has elements that the model does not know.
    """
    dtype = torch.float64 if options.base_precision == 64 else torch.float32
    device = choose_device(options.device)
    if base is None:
        model = _build_fresh(options, frames.all())
        direct = add_wanted_heads(model, "", options.direct_targets, seed=options.seed)
        prepared = Prepared(
            model,
            None,
            "",
            True,
            (*options.energy_targets, *direct.new),
            target=target.name,
            direct=direct,
        )
        check_elements(frames.all(), model.atomic_types)
    else:
        prepared = _build_from_base(base, options, target, frames)
    _check_states(prepared.model, frames.all())
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
    targets, direct = list(options.energy_targets), prepared.direct.names
    if finetune.method == "lora":
        head_mode = _resolve_head_mode(options, prepared)
        if head_mode == "freeze" and prepared.direct.new:
            raise ConfigError(
                f"finetune.head_mode: frozen, {', '.join(prepared.direct.new)} would "
                "keep its random weights; write train"
            )
        if finetune.head_mode == "auto" and prepared.new_targets:
            targets = list(prepared.new_targets)
        config = replace(finetune.lora, targets=_resolve_layers(options))
        if head_mode == "lora" and "heads" not in config.targets:
            names = [*targets, *direct]
            heads = [f"{kind}.{n}" for kind in SHORTHANDS["heads"] for n in names]
            config = replace(config, targets=(*config.targets, *heads))
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
        freeze_for_lora(
            model,
            head_mode=head_mode,  # type: ignore[arg-type]
            targets=[*targets, *direct],
        )
        train_element_rows(model, prepared.new_numbers)
    elif finetune.method == "heads":
        freeze_for_heads(model, [*targets, *direct], groups=finetune.head_modules)
    else:
        unfreeze_all(model)
        kept = [n for n in model.targets if n not in (*targets, *direct)]
        for part in find_heads(model, kept):
            part.requires_grad_(False)
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
        for target in options.energy_targets.values()
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = PET(options.hypers or PETHypers(), list(numbers), specs)
    if model.zbl is not None:
        model.zbl.covalent_radii.copy_(torch.tensor(covalent_radii[list(numbers)]))
    return model


def _build_from_base(
    base: Checkpoint,
    options: RunOptions,
    target: TargetOptions,
    frames: RunFrames,
) -> Prepared:
    fingerprint = compute_fingerprint(base.state)
    model = base.build_model()
    convert_energies_to_ev(model)
    if has_lora(model):
        logger.info("the base has LoRA of its own: merged before training")
        merge_lora(model)
        fingerprint = compute_fingerprint(model.state_dict())
    new_elements = add_new_elements(model, frames.all(), options.finetune.new_elements)
    known = dict(model.targets)
    sources = {
        wanted.name: add_target(model, options, wanted, known)
        for wanted in options.energy_targets.values()
    }
    new = tuple(name for name, source in sources.items() if name != source)
    source = sources[target.name]
    direct = choose_outputs(model, options, source, target.name, frames.train)
    table = cast(TargetTable, model.baseline.tables[target.name])
    return Prepared(
        model,
        base,
        fingerprint,
        target.name in new,
        (*new, *direct.new),
        target=target.name,
        source=source,
        base_composition=table.composition[:, 0].clone(),
        new_elements=new_elements,
        direct=direct,
    )


def _check_states(model: PET, frames: Iterable[LabeledFrame]) -> None:
    """Raise for a charge or spin that the model has no entry for.

    A model that knows of none of them leaves them out, which is said.
    """
    n_others, first = 0, ""
    for frame in frames:
        charge, spin = frame.charge, frame.spin_multiplicity
        check_frame_state(model, frame)
        if (charge, spin) != (0, 1):
            n_others, first = n_others + 1, first or frame.source
    if n_others and model.system_conditioning is None:
        logger.warning(
            "%d frames have a charge or a spin multiplicity other than 1 (first %s), "
            "which the model does not know of: it takes them for neutral singlets",
            n_others,
            first,
        )


def _resolve_layers(options: RunOptions) -> tuple[str, ...]:
    """Return the layers that get LoRA."""
    layers: list[str] = []
    for name in options.finetune.config.target_modules:
        if name != "auto":
            layers.append(name)
        elif options.has_replay:
            # corrections of these gain nothing there, and forget more
            layers += [n for n in SHORTHANDS["edges"] if n != "combination_mlps"]
        else:
            layers.append("edges")
    return tuple(layers)


def _resolve_head_mode(options: RunOptions, prepared: Prepared) -> str:
    wanted, model = options.finetune.head_mode, prepared.model
    if wanted != "auto":
        return wanted
    if prepared.direct.new:
        return "train"
    if has_lora(model):
        # resumed, perhaps what an older version began, in which heads got no LoRA
        if any(map(has_lora, find_heads(model, None))):
            return "lora"
        return "train" if prepared.new_targets else "freeze"
    # a head that has to serve replayed frames as well fits neither, and forgets more
    is_shared = options.has_replay and not prepared.new_targets
    # all their weights want a lower rate
    return "freeze" if is_shared else "lora"


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

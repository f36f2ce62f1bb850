"""What fine-tuning with LoRA changed, apart from the base it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pet_calc.errors import LoRAError
from pet_calc.lora.fingerprint import (
    base_state_of,
    compute_fingerprint,
    is_lora_name,
)
from pet_calc.lora.freeze import HEAD_GROUPS
from pet_calc.lora.inject import has_lora, inject_layers, lora_config_of
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.elements import (
    add_elements,
    drop_elements,
    is_per_element,
    remove_elements,
)
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.tables import TABLES

if TYPE_CHECKING:
    from pet_calc.model.pet import PET

# of 64: enough to tell bases apart in a message
_N_SHOWN = 16


@dataclass
class Adapter:
    """Low-rank corrections, heads and tables for one base model.

    ``tensors`` has the names of the base's state dict, and ``PATH.lora_A.weight`` and
    ``PATH.lora_B.weight`` for the correction of the linear layer at ``PATH``.
    """

    config: LoRAConfig
    tensors: dict[str, Tensor]
    targets: dict[str, TargetSpec]
    """The targets that it was trained for; the base need not have them."""
    base_fingerprint: str
    """``compute_fingerprint`` of the base."""
    base_name: str = ""
    """Of the base, for messages."""
    new_elements: tuple[int, ...] = ()
    """Atomic numbers that the base does not know; ``tensors`` then has the embeddings
    of all elements, the known ones as in the base."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Level of theory, units, data, versions: what JSON can hold."""
    source: str = "adapter"
    """File or name, for messages."""

    def __post_init__(self) -> None:
        for name, value in self.tensors.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise LoRAError(f"{self.source}: {name} is not finite")
        for path in self.layer_names:
            shapes = [
                self.tensors[name].shape if name in self.tensors else torch.Size()
                for name in _part_names(path)
            ]
            rank = self.config.rank
            if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != rank:
                raise LoRAError(f"{self.source}: {path} has no A and B of rank {rank}")

    @property
    def layer_names(self) -> list[str]:
        """Paths of the linear layers that get a correction."""
        suffix = ".lora_A.weight"
        names = [name for name in self.tensors if is_lora_name(name)]
        return list(dict.fromkeys(name[: -len(suffix)] for name in names))

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        return self.config.alpha / self.config.rank

    def low_rank(self, path: str) -> tuple[Tensor, Tensor]:
        """Return A [r, in] and B [out, r] of the layer at ``path``."""
        name_a, name_b = _part_names(path)
        return self.tensors[name_a], self.tensors[name_b]

    def base_tensors(self) -> dict[str, Tensor]:
        """Return heads and tables, by their names in the base."""
        return {n: t for n, t in self.tensors.items() if not is_lora_name(n)}


def extract_adapter(
    model: "PET",
    *,
    base_fingerprint: str,
    base_name: str = "",
    targets: Sequence[str] | None = None,
    new_elements: Sequence[int] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Adapter:
    """Return what the model has and its base has not.

    Heads are taken along even if they were frozen: another base may have the same
    backbone and other heads.

    Args:
        model: with unmerged corrections.
        base_fingerprint: ``compute_fingerprint`` of the base, before training.
        base_name: what the base is called.
        targets: targets whose heads and tables belong to the adapter, None
            for all of the model's.
        new_elements: atomic numbers that the base does not know.
        metadata: level of theory, units, versions.

    Raises:
        LoRAError: if the model has no corrections, a target is unknown, or weights
            changed that an adapter does not hold.
    """
    config = lora_config_of(model)
    if config is None:
        raise LoRAError("the model has no LoRA layers to extract an adapter from")
    names = list(model.targets) if targets is None else list(targets)
    for name in names:
        if name not in model.targets:
            known = ", ".join(model.targets)
            raise LoRAError(f"the model has no target {name!r}; there are {known}")
    state = model.state_dict()
    found = compute_fingerprint(
        drop_elements(base_state_of(state), model.atomic_types, new_elements)
    )
    if found != base_fingerprint:
        raise LoRAError(
            f"expected the base {base_name} of fingerprint "
            f"{base_fingerprint[:_N_SHOWN]} under the LoRA layers, got "
            f"{found[:_N_SHOWN]}: weights changed that an adapter does not hold; "
            "save a full checkpoint instead"
        )
    kept = {
        name: value
        for name, value in state.items()
        if is_lora_name(name) and _target_of(name) in (None, *names)
    }
    for name, value in base_state_of(state).items():
        is_added = bool(new_elements) and is_per_element(name)
        if _target_of(name) in (names if not is_added else [None, *names]):
            kept[name] = value
    return Adapter(
        config=config,
        tensors={n: t.detach().cpu().clone().contiguous() for n, t in kept.items()},
        targets={name: model.targets[name] for name in names},
        base_fingerprint=base_fingerprint,
        base_name=base_name,
        new_elements=tuple(new_elements),
        metadata=dict(metadata or {}),
    )


def apply_adapter(model: "PET", adapter: Adapter, *, base_name: str = "") -> list[str]:
    """Put an adapter on its base for good, in place and unmerged.

    Training can go on from here, or ``merge_lora`` makes it part of the weights. To
    switch between adapters, use ``AdapterBank``.

    Args:
        model: the base, without corrections.
        adapter: made for this base.
        base_name: what ``model`` is called, for the message.

    Returns:
        The targets that the model did not have before.

    Raises:
        LoRAError: if the adapter belongs to another base or does not fit.
    """
    if has_lora(model):
        raise LoRAError("the model has LoRA layers already; merge or remove them first")
    check_base(adapter, compute_fingerprint(model.state_dict()), base_name)
    add_missing_elements(model, adapter)
    added = add_missing_targets(model, adapter)
    try:
        check_fit(model, adapter)
    except LoRAError:
        for name in added:
            model.remove_target(name)
        remove_elements(model, adapter.new_elements)
        raise
    copy_tensors(model, adapter.base_tensors())
    inject_layers(model, adapter.layer_names, adapter.config)
    copy_tensors(model, {n: t for n, t in adapter.tensors.items() if is_lora_name(n)})
    return added


def check_base(adapter: Adapter, fingerprint: str, base_name: str = "") -> None:
    """Raise ``LoRAError`` unless the adapter was made for the base ``fingerprint``."""
    if adapter.base_fingerprint == fingerprint:
        return
    raise LoRAError(
        f"{adapter.source}: made for the base {adapter.base_name or 'without a name'} "
        f"(fingerprint {adapter.base_fingerprint[:_N_SHOWN]}), but the model is "
        f"{base_name or 'one without a name'} (fingerprint {fingerprint[:_N_SHOWN]}); "
        "load the base that the adapter was trained on"
    )


def check_fit(model: "PET", adapter: Adapter) -> None:
    """Raise ``LoRAError`` unless every target and tensor has its place in the model."""
    for name, spec in adapter.targets.items():
        found = model.targets[name]
        if (found.quantity, found.unit) != (spec.quantity, spec.unit):
            raise LoRAError(
                f"{adapter.source}: target {name!r} is {spec.quantity!r} in "
                f"{spec.unit!r}, but {found.quantity!r} in {found.unit!r} in the model"
            )
    for path in adapter.layer_names:
        a, b = adapter.low_rank(path)
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            layer = None
        if not isinstance(layer, nn.Linear):
            raise LoRAError(f"{adapter.source}: the model has no linear layer {path}")
        if layer.weight.shape != (b.shape[0], a.shape[1]):
            raise LoRAError(
                f"{adapter.source}: {path} is {list(layer.weight.shape)} in the model, "
                f"but {[b.shape[0], a.shape[1]]} in the adapter"
            )
    state = model.state_dict()
    for name, value in adapter.base_tensors().items():
        if name not in state or state[name].shape != value.shape:
            shape = list(state[name].shape) if name in state else "missing"
            raise LoRAError(
                f"{adapter.source}: {name} is {list(value.shape)} in the adapter, "
                f"but {shape} in the model"
            )


def add_missing_elements(model: "PET", adapter: Adapter) -> None:
    """Add the elements that the base does not know, in place, with any values."""
    known = list(model.atomic_types)
    add_elements(model, dict.fromkeys(adapter.new_elements, known))


def add_missing_targets(model: "PET", adapter: Adapter) -> list[str]:
    """Add the adapter's targets that the model lacks, in place; return their names."""
    added = [name for name in adapter.targets if name not in model.targets]
    # fresh heads draw start values, which the adapter's replace at once
    with torch.random.fork_rng(devices=[]):
        for name in added:
            model.add_target(adapter.targets[name])
    return added


def copy_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into the model's parameters and buffers, in place, by name."""
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)


def _part_names(path: str) -> tuple[str, str]:
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def _target_of(name: str) -> str | None:
    """Return the target that a state-dict entry belongs to, None if to no one's."""
    parts = name.split(".")
    if parts[0] in HEAD_GROUPS:
        return parts[1]
    # TABLES.tables.TARGET.scale
    return parts[2] if parts[0] == TABLES else None

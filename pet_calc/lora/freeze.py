"""Which parameters train: by module, never by a part of a name."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from torch import nn

from pet_calc.errors import LoRAError
from pet_calc.lora.inject import lora_layers
from pet_calc.lora.layer import LoRALinear
from pet_calc.lora.rows import count_trained

HEAD_GROUPS = ("node_heads", "edge_heads", "node_last_layers", "edge_last_layers")
"""Attributes of the model that hold one entry per target."""

HeadMode = Literal["train", "freeze", "lora"]
"""What happens to the heads: all their weights train, none do, or corrections do."""


class TrainableRow(NamedTuple):
    """Parameter counts of one part of the model."""

    group: str
    n_parameters: int
    n_trainable: int


def freeze_for_lora(
    model: nn.Module,
    *,
    head_mode: HeadMode = "train",
    targets: Sequence[str] | None = None,
) -> None:
    """Let only the injected corrections train, and heads as ``head_mode`` says.

    Args:
        model: after ``inject_lora``.
        head_mode: ``train`` (all weights of the heads), ``freeze``, or ``lora`` (the
            corrections injected into them).
        targets: whose heads ``head_mode`` is about, None for all; other targets'
            heads are frozen, with their corrections if they have any.

    Raises:
        LoRAError: if nothing was injected, ``head_mode`` contradicts what was, or a
            target is not in the model.
    """
    layers = lora_layers(model)
    if not layers:
        raise LoRAError("the model has no LoRA layers; call inject_lora first")
    if head_mode not in ("train", "freeze", "lora"):
        raise LoRAError(
            f"head_mode must be 'train', 'freeze' or 'lora', got {head_mode!r}"
        )
    heads = find_heads(model, targets)
    in_heads = _find_lora(heads)
    if head_mode == "lora" and not in_heads:
        raise LoRAError(
            "head_mode='lora', but no head has a LoRA layer; "
            "add 'heads' to the LoRA targets"
        )
    if head_mode != "lora" and in_heads:
        raise LoRAError(
            f"head_mode={head_mode!r}, but {len(in_heads)} layers of the heads have "
            "LoRA; use head_mode='lora' or leave the heads out of the LoRA targets"
        )
    in_any_head = {id(layer) for layer in _find_lora(find_heads(model, None))}
    outside = [layer for layer in layers.values() if id(layer) not in in_any_head]
    _set_trainable([model], False)
    for layer in outside + in_heads:
        _set_trainable([layer.lora_A, layer.lora_B], True)
    if head_mode == "train":
        _set_trainable(heads, True)


def freeze_for_heads(
    model: nn.Module,
    targets: Sequence[str] | None = None,
    *,
    groups: Sequence[str] = HEAD_GROUPS,
) -> None:
    """Let only the heads of ``targets`` train (None: of all targets).

    Args:
        model: with heads as PET has them.
        targets: names of targets.
        groups: which of ``HEAD_GROUPS`` train.
    """
    heads = find_heads(model, targets, groups=groups)
    _set_trainable([model], False)
    _set_trainable(heads, True)


def unfreeze_all(model: nn.Module) -> None:
    """Let every parameter train."""
    _set_trainable([model], True)


def find_heads(
    model: nn.Module,
    targets: Sequence[str] | None,
    *,
    groups: Sequence[str] = HEAD_GROUPS,
) -> list[nn.Module]:
    """Return the modules that hold the heads of ``targets``, None for all.

    Raises:
        LoRAError: if a group or a target is not in the model.
    """
    found: list[nn.Module] = []
    for group in groups:
        heads = getattr(model, group, None)
        if not isinstance(heads, nn.ModuleDict):
            raise LoRAError(
                f"the model has no heads called {group!r}; "
                f"expected {', '.join(HEAD_GROUPS)}"
            )
        for target in heads if targets is None else targets:
            if target not in heads:
                raise LoRAError(
                    f"the model has no target {target!r}; there are {', '.join(heads)}"
                )
            found.append(heads[target])
    return found


def trainable_table(model: nn.Module) -> list[TrainableRow]:
    """Return parameter counts per part of the model, corrections apart.

    Heads are grouped by target; all else by its first name.
    """
    corrections = {
        id(parameter)
        for layer in lora_layers(model).values()
        for part in (layer.lora_A, layer.lora_B)
        for parameter in part.parameters()
    }
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        group = f"heads of {parts[1]}" if parts[0] in HEAD_GROUPS else parts[0]
        if id(parameter) in corrections:
            group = f"LoRA in {group}"
        count = counts.setdefault(group, [0, 0])
        count[0] += parameter.numel()
        count[1] += count_trained(parameter)
    return [TrainableRow(group, *count) for group, count in counts.items()]


def format_trainable_table(rows: Sequence[TrainableRow]) -> str:
    """Return the table as text, with a total in the last line."""
    n_parameters = sum(row.n_parameters for row in rows)
    n_trainable = sum(row.n_trainable for row in rows)
    rows = [*rows, TrainableRow("total", n_parameters, n_trainable)]
    width = max(len(row.group) for row in rows)
    lines = [f"{'part':<{width}}  {'parameters':>12}  {'trainable':>12}  {'%':>6}"]
    for row in rows:
        percent = 100.0 * row.n_trainable / max(row.n_parameters, 1)
        lines.append(
            f"{row.group:<{width}}  {row.n_parameters:>12,}  "
            f"{row.n_trainable:>12,}  {percent:>6.2f}"
        )
    return "\n".join(lines)


def _set_trainable(modules: Iterable[nn.Module], is_trainable: bool) -> None:
    for module in modules:
        module.requires_grad_(is_trainable)


def _find_lora(modules: Iterable[nn.Module]) -> list[LoRALinear]:
    return [
        part
        for module in modules
        for part in module.modules()
        if isinstance(part, LoRALinear)
    ]

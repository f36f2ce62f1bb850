"""Put low-rank corrections into a model, and take them out, merged or not."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from pet_calc.errors import LoRAError
from pet_calc.lora.layer import LoRAConfig, LoRALinear

SHORTHANDS = {
    "edges": ("input_linear", "output_linear", "mlp", "compress", "combination_mlps"),
    "all-linear": ("trans", "compress", "combination_mlps"),
    "heads": ("node_heads", "edge_heads"),
    "last_layers": ("node_last_layers", "edge_last_layers"),
    "center": ("center_*",),
}
"""Target names that stand for several others."""


def inject_lora(
    model: nn.Module,
    config: LoRAConfig,
    *,
    seed: int = 0,
    strict_rank: bool = True,
) -> list[str]:
    """Wrap the linear layers that ``config.targets`` names, in place.

    The output does not change. Which parameters train is set by ``freeze_for_lora``.
    A target is a dotted pattern (``*`` and ``?`` allowed) that must cover whole parts
    of a layer's path, at any place: ``input_linear``, ``mlp`` (not ``center_mlp``),
    ``center_*``, ``gnn_layers.0``, ``gnn_layers.*.compress``, or a full path;
    ``all-linear`` is every linear layer of the message passing, but for those that
    embed the edges' vectors, and ``edges`` these without those of the center token.

    Args:
        model: any module with linear layers.
        config: rank, alpha, targets.
        seed: of the start values of A.
        strict_rank: refuse a rank above the layer's smaller side, where a correction
            has more parameters than the weight itself.

    Returns:
        The paths of the wrapped layers, in the model's order.

    Raises:
        LoRAError: if a target matches nothing, the rank is too large, or the model
            has low-rank corrections already.
    """
    if has_lora(model):
        raise LoRAError(
            f"the model has LoRA layers already ({lora_config_of(model)}); "
            "merge or remove them before a new injection"
        )
    names = find_target_layers(model, config.targets)
    if strict_rank:
        for name in names:
            _check_rank(name, model.get_submodule(name), config.rank)
    inject_layers(model, names, config, seed=seed)
    return names


def inject_layers(
    model: nn.Module, names: Iterable[str], config: LoRAConfig, *, seed: int = 0
) -> None:
    """Wrap exactly the linear layers at the paths ``names``, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise LoRAError(
                f"{name}: expected a linear layer, got {type(linear).__name__}"
            )
        layer = LoRALinear(linear, config.rank, config.alpha, generator=generator)
        _replace_module(model, name, layer)
    # a plain attribute: TorchScript and state dicts pass over it
    model.lora_config = config  # type: ignore[assignment]


def find_target_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the paths of the linear layers that ``targets`` name.

    Raises:
        LoRAError: naming the target that matches nothing, and what there is.
    """
    paths = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    wanted = set()
    for target in targets:
        patterns = SHORTHANDS.get(target, (target,))
        matches = {p for p in paths for q in patterns if _is_match(p, q)}
        if not matches:
            parts = {part for path in paths for part in path.split(".")}
            known = ", ".join(sorted(part for part in parts if not part.isdigit()))
            raise LoRAError(
                f"LoRA target {target!r} matches no linear layer; expected one of "
                f"{known}, a shorthand ({', '.join(SHORTHANDS)}), or a full path"
            )
        wanted |= matches
    return [path for path in paths if path in wanted]


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the injected layers by path, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}


def has_lora(model: nn.Module) -> bool:
    """Return whether the model has unmerged low-rank corrections."""
    return any(isinstance(module, LoRALinear) for module in model.modules())


def lora_config_of(model: nn.Module) -> LoRAConfig | None:
    """Return the config that the layers were injected with; None without layers."""
    layers = lora_layers(model)
    if not layers:
        return None
    config = getattr(model, "lora_config", None)
    if isinstance(config, LoRAConfig):
        return config
    # wrapped by hand, or `model` is a wrapper around the one that was injected
    first = next(iter(layers.values()))
    return LoRAConfig(first.rank, first.alpha, tuple(layers))


def merge_lora(model: nn.Module) -> list[str]:
    """Replace each injected layer by one plain linear layer, in place.

    The architecture is then the base's. A merged weight requires grad if its
    correction did; all other flags stay.

    Returns:
        The paths of the merged layers, empty if there were none.

    Raises:
        LoRAError: if a merged weight is not finite; the model is unchanged then.
    """
    layers = lora_layers(model)
    weights = {name: layer.merged_weight(name) for name, layer in layers.items()}
    for name, layer in layers.items():
        is_trainable = layer.lora_B.weight.requires_grad
        layer.linear.weight = nn.Parameter(weights[name], requires_grad=is_trainable)
        _replace_module(model, name, layer.linear)
    _forget_config(model)
    return list(layers)


def remove_lora(model: nn.Module) -> list[str]:
    """Take the corrections out without merging, in place: back to the base's weights.

    Returns:
        The paths of the restored layers, empty if there were none.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        _replace_module(model, name, layer.linear)
    _forget_config(model)
    return list(layers)


def _is_match(path: str, pattern: str) -> bool:
    """Return whether the pattern's parts match a run of the path's parts."""
    parts, wanted = path.split("."), pattern.split(".")
    if pattern.isdigit():
        # `0` means linear layers called `0`, not all of `gnn_layers.0`
        return parts[-1] == pattern
    return any(
        all(map(fnmatchcase, parts[start:], wanted))
        for start in range(len(parts) - len(wanted) + 1)
    )


def _check_rank(name: str, linear: nn.Module, rank: int) -> None:
    n_in, n_out = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
    if rank > min(n_in, n_out):
        raise LoRAError(
            f"LoRA rank {rank} is above what {name} ({n_in} -> {n_out}) can hold; "
            f"use a rank of at most {min(n_in, n_out)}, or leave this layer out "
            "(--lora-targets; a head: --head-mode freeze)"
        )


def _replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    # not setattr: names of ModuleDict entries may be anything
    model.get_submodule(parent)._modules[attribute] = module


def _forget_config(model: nn.Module) -> None:
    if hasattr(model, "lora_config"):
        del model.lora_config

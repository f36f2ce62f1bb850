"""Optimizer, learning-rate schedule, and the running mean of the weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.config import TrainOptions, default_adam_beta2
from pet_calc.lora.inject import lora_layers
from pet_calc.lora.rows import is_partly_trained
from pet_calc.train.muon import Muon, OptimizerPair, find_matrices


def build_optimizer(
    model: nn.Module, options: TrainOptions
) -> torch.optim.Optimizer | OptimizerPair:
    """Return Adam (AdamW with weight decay) over the trainable parameters.

    There is a group for LoRA's B with a higher rate, ``b_rate`` times that of all else;
    ``set_learning_rate`` sets both. B starts at zero and A at random: with one rate for
    both, B lags behind (LoRA+, arXiv:2402.12354, finds 4 to 16 best). ``muon`` takes
    Muon for the matrices between layers, for a model without LoRA.

    Args:
        model: with the parameters.
        options: of the training.
    """
    if options.optimizer == "adam":
        return _build_adam(model, options, set())
    parts: dict[int, list[Tensor]] = {}
    matrices = find_matrices(model)
    for matrix, n_parts in matrices.items():
        parts.setdefault(n_parts, []).append(matrix)
    groups = [
        {"params": params, "n_parts": n_parts, "rate_factor": 1.0}
        for n_parts, params in parts.items()
    ]
    muon = Muon(groups, weight_decay=options.weight_decay)
    return OptimizerPair(muon, _build_adam(model, options, set(matrices)))


def _build_adam(
    model: nn.Module, options: TrainOptions, without: set[Tensor]
) -> torch.optim.Optimizer:
    factors = [
        layer.lora_B.weight
        for layer in lora_layers(model).values()
        if layer.lora_B.weight.requires_grad
    ]
    # decay would reach the rows that do not train, too
    partly = [p for p in model.parameters() if is_partly_trained(p)]
    known = {id(p) for p in [*factors, *partly, *without]}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": parameters, "rate_factor": factor}
        for parameters, factor in (
            (others, 1.0),
            (factors, options.finetune.config.b_rate),
        )
        if parameters
    ]
    if partly:
        groups.append({"params": partly, "rate_factor": 1.0, "weight_decay": 0.0})
    beta2 = options.adam_beta2
    if beta2 is None:
        beta2 = default_adam_beta2(options.finetune.method)
    # not `fused`: on the CPU torch 2.13 reads a gradient in the order of its memory,
    # and so steps by the wrong elements where it is that of a transposed product
    settings: dict[str, Any] = {"betas": (0.9, beta2), "foreach": True}
    if options.weight_decay > 0:
        settings["weight_decay"] = options.weight_decay
        return torch.optim.AdamW(groups, **settings)
    return torch.optim.Adam(groups, **settings)


def load_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerPair,
    state: dict[str, Any],
    options: TrainOptions,
) -> None:
    """Take up a saved state, with the settings of now.

    The decay of Adam's mean, where the options leave it open, goes on as it was.
    """
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, now in zip(optimizer.param_groups, settings, strict=True):
        if options.adam_beta2 is None:
            now.pop("betas", None)
        group.update(now)


def set_learning_rate(
    optimizer: torch.optim.Optimizer | OptimizerPair, rate: float
) -> None:
    """Set the rate of every group, in place."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def compute_learning_rate(
    step: int, n_steps: int, peak: float, warmup_fraction: float
) -> float:
    """Return the rate of ``step``: linear warm-up, then half a cosine down to zero.

    Args:
        step: 0-based index of the step about to be taken.
        n_steps: length of the whole run.
        peak: highest rate.
        warmup_fraction: part of the run spent warming up.
    """
    n_warmup = int(warmup_fraction * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def compute_progress(step: int, n_steps: int, fraction: float) -> float:
    """Return the part of the energy's warm-up that is over at ``step``, 0 to 1.

    Args:
        step: 0-based index of the step about to be taken.
        n_steps: length of the whole run.
        fraction: part of the run that it takes; 0 for none.
    """
    n_warmup = fraction * n_steps
    return min(1.0, step / n_warmup) if n_warmup > 0 else 1.0


class WeightAverage:
    """Exponential moving average of the trainable weights (EMA).

    The decay rises from 0.1 to its final value as ``(1 + t)/(10 + t)``, so that the
    first steps do not stick.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start with the weights that ``model`` has now."""
        self.decay = decay
        self.n_updates = 0
        # a step has no time to search the model for them
        self._weights = {
            name: p for name, p in model.named_parameters() if p.requires_grad
        }
        self.values = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the current weights."""
        self.n_updates += 1
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        averages = [self.values[name] for name in self._weights]
        torch._foreach_lerp_(averages, [*self._weights.values()], 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the averages; call twice to restore."""
        for name, weight in self._weights.items():
            current = weight.detach().clone()
            weight.copy_(self.values[name])
            self.values[name] = current

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """Return what ``load_state_dict`` takes back."""
        return {"n_updates": self.n_updates, "values": dict(self.values)}

    def load_state_dict(self, state: dict) -> None:
        """Take up a saved average."""
        self.n_updates = int(state["n_updates"])
        self.values = {name: value.clone() for name, value in state["values"].items()}

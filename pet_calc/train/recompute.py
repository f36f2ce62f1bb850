"""Activation checkpointing: layers computed again for the gradient, not kept for it.

Training on forces differentiates twice. After the first time, each operation of a layer
is kept twice over: for the energy, and for the energy's gradient. So a layer is two
operations here. One is the layer, which keeps its inputs; its backward is the other,
the layer's gradient, which keeps its inputs too, and computes the layer anew in its own
backward. At most one layer's inside is then in memory. ``torch.utils.checkpoint`` does
the first half only: what a gradient with ``create_graph`` has recomputed, its own graph
keeps. ``benchmarks/peak_memory.py`` measures what is saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.model.pet import PET
from pet_calc.model.precision import repeat_precision

Outputs = tuple[Tensor, ...]


def recompute_layers(model: PET) -> None:
    """Let the layers, combinations and heads of a model be recomputed, in place.

    The numbers do not change. A gradient that is differentiated again
    (``create_graph``) must be one in positions, as forces are, and not in weights.
    """
    heads = [*model.node_heads.values(), *model.edge_heads.values()]
    for group in (model.gnn_layers, model.combination_mlps, *heads):
        for module in group.children():
            module.forward = _wrap(module)


def _wrap(module: nn.Module) -> Callable[..., Any]:
    """Return a forward that keeps its inputs only."""
    compute = module.forward

    def forward(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return compute(*arguments)
        leaves = _flatten(arguments)
        is_active = [isinstance(x, Tensor) and x.requires_grad for x in leaves]
        fixed = [None if a else x for a, x in zip(is_active, leaves, strict=True)]
        inputs = [x for a, x in zip(is_active, leaves, strict=True) if a]
        precision = repeat_precision()

        def run(tensors: Sequence[Tensor]) -> Outputs:
            active = iter(tensors)
            filled = [
                next(active) if a else x for a, x in zip(is_active, fixed, strict=True)
            ]
            with precision():
                found = compute(*_unflatten(arguments, iter(filled)))
            return (found,) if isinstance(found, Tensor) else tuple(found)

        weights = [p for p in module.parameters() if p.requires_grad]
        outputs = _Layer.apply(run, len(inputs), *inputs, *weights)
        return outputs[0] if len(outputs) == 1 else outputs

    return forward


class _Layer(torch.autograd.Function):
    """A layer whose graph is not kept."""

    @staticmethod
    def forward(ctx: Any, run: Any, n_inputs: int, *tensors: Tensor) -> Any:
        """Return the outputs; ``tensors`` are inputs, then weights."""
        ctx.run, ctx.n_inputs = run, n_inputs
        ctx.save_for_backward(*tensors)
        with torch.no_grad():
            return run(tensors[:n_inputs])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Return the gradient, without weights if it is differentiated again."""
        tensors = ctx.saved_tensors
        inputs, weights = tensors[: ctx.n_inputs], tensors[ctx.n_inputs :]
        if torch.is_grad_enabled():
            found = _Gradient.apply(ctx.run, len(inputs), *inputs, *outer, *weights)
            return None, None, *found, *[None] * len(weights)
        copies = _detach(inputs)
        with torch.enable_grad():
            outputs = ctx.run(copies)
            found = _differentiate(outputs, (*copies, *weights), outer)
        return None, None, *found


class _Gradient(torch.autograd.Function):
    """The gradient of a layer in its inputs, whose graph is not kept either."""

    @staticmethod
    def forward(ctx: Any, run: Any, n_inputs: int, *tensors: Tensor) -> Any:
        """Return it; ``tensors`` are inputs, outer gradients and weights."""
        ctx.run, ctx.n_inputs = run, n_inputs
        ctx.save_for_backward(*tensors)
        copies = _detach(tensors[:n_inputs])
        with torch.enable_grad():
            outputs = run(copies)
            outer = tensors[n_inputs : n_inputs + len(outputs)]
            ctx.n_outputs = len(outputs)
            return _differentiate(outputs, copies, outer)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """Return the gradient of the gradient."""
        tensors = ctx.saved_tensors
        n_free = ctx.n_inputs + ctx.n_outputs
        copies, weights = _detach(tensors[:n_free]), tensors[n_free:]
        with torch.enable_grad():
            inputs = copies[: ctx.n_inputs]
            outputs = ctx.run(inputs)
            gradient = _differentiate(
                outputs, inputs, copies[ctx.n_inputs :], keeps_graph=True
            )
            found = _differentiate(gradient, (*copies, *weights), outer)
        return None, None, *found


def _differentiate(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    outer: Sequence[Tensor],
    *,
    keeps_graph: bool = False,
) -> Outputs:
    """Return the gradient of ``outputs`` times ``outer``, zeros where there is none."""
    pairs = [
        (output, weight)
        for output, weight in zip(outputs, outer, strict=True)
        if output.requires_grad
    ]
    found = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [weight for _, weight in pairs],
        create_graph=keeps_graph,
        materialize_grads=True,
    )
    return tuple(found)


def _detach(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(True) for tensor in tensors]


def _flatten(arguments: Any) -> list[Any]:
    """Return what lies in tuples, and in tuples in them, in order."""
    if not isinstance(arguments, tuple):
        return [arguments]
    return [leaf for argument in arguments for leaf in _flatten(argument)]


def _unflatten(arguments: Any, leaves: Any) -> Any:
    """Return tuples like ``arguments`` with other leaves."""
    if not isinstance(arguments, tuple):
        return next(leaves)
    parts = [_unflatten(argument, leaves) for argument in arguments]
    return type(arguments)(*parts) if hasattr(arguments, "_fields") else tuple(parts)

"""The weights of a PET as the compiled engine takes them: fewer, and folded.

A product of two matrices with nothing between them is one matrix. So the weights of a
norm go into the linear layer after it, and the embeddings of geometry and element into
the first layer that reads them. What is left has names of its own:

    message_table                [n_species, d_pet]
    node_table.R                 [n_species, d_node], per readout layer R
    gnn.G.basis, gnn.G.table     [4, d_pet] of geometry, [n_species, d_pet] of elements
    gnn.G.message                of the message, from the second layer on
    gnn.G.compress               the layer after these three
    gnn.G.T.mixed, out           attention of transformer layer T
    gnn.G.T.mlp_in, mlp_out      its feed-forward block
    gnn.G.T.contract, expand, center_in, center_out
                                 where nodes are wider than edges
    gnn.G.pair_in, pair_out      of an edge and its reverse, feedforward form only
    node_head.R.0, 1, last, last_bias, and edge_head.R likewise

Names of linear layers stand for ``.weight`` [out, in] and ``.bias`` [out]. For training
steps a layer that LoRA corrects has ``.lora_A`` [r, in] and ``.lora_B`` [r, out] too:
their product is part of the weight, and the gradient goes by them, not by the weight.
"""

from typing import Dict, Optional

import torch
from torch import Tensor, nn

from pet_calc.model.hypers import PETHypers
from pet_calc.model.pet import PET

# of the names above and of what `describe_shape` and `describe_numbers` hold; exported
# files carry it, and constants.h of the engine knows one
FORMAT_VERSION = 1
LAYER_NORM_EPS = 1e-5


def fold_model(model: PET, target: str, dtype: torch.dtype) -> Dict[str, Tensor]:
    """Return the engine's tensors of one target, by name, computed in ``dtype``.

    They are differentiable in the weights. Some may share memory with them.

    Args:
        model: of the PreLN form; unmerged LoRA layers count with their correction.
        target: name of a target with one value per atom.
        dtype: of the result.
    """
    shape = describe_shape(model.hypers)
    return fold_weights(gather_weights(model), shape, target, dtype)


def gather_weights(
    model: nn.Module, *, with_factors: bool = False
) -> Dict[str, Tensor]:
    """Return what each layer multiplies with and adds, with gradient.

    The names are those of the parameters. A LoRA layer has the name of the layer that
    it corrects.

    Args:
        model: a PET.
        with_factors: whether layers whose LoRA alone trains have its factors too, as
            ``lora_A`` [r, in] and ``lora_B`` [r, out], where these save time.
    """
    weights: Dict[str, Tensor] = {}
    for name, module in model.named_modules():
        # asked of the class: a module searches long for an attribute that it has not
        kind = type(module)
        if with_factors and hasattr(kind, "factors"):
            factors = module.factors
            if factors is not None and _is_worth_it(*factors):
                weights[f"{name}.lora_A"], weights[f"{name}.lora_B"] = factors
        for part in ("weight", "bias"):
            value = module._parameters.get(part)
            if value is None and hasattr(kind, part):
                value = getattr(module, part)
            if isinstance(value, Tensor):
                weights[f"{name}.{part}"] = value
    return weights


def _is_worth_it(first: Tensor, second: Tensor) -> bool:
    """Whether gradients in two factors take less than half of one in their product."""
    (rank, n_in), n_out = first.shape, second.shape[1]
    return 4 * rank * (n_in + n_out) <= n_in * n_out


def describe_shape(hypers: PETHypers) -> Dict[str, int]:
    """Return the whole numbers and switches that the engine asks for."""
    return {
        "format_version": FORMAT_VERSION,
        "d_pet": hypers.d_pet,
        "d_node": hypers.d_node,
        "num_heads": hypers.num_heads,
        "num_gnn_layers": hypers.num_gnn_layers,
        "num_attention_layers": hypers.num_attention_layers,
        "num_readout_layers": hypers.num_readout_layers,
        "is_feedforward": int(hypers.featurizer_type == "feedforward"),
        "is_gated": int(hypers.activation == "SwiGLU"),
        "subtracts_mean": int(hypers.normalization == "LayerNorm"),
        "is_bump": int(hypers.cutoff_function == "Bump"),
        "is_adaptive": int(hypers.num_neighbors_adaptive is not None),
    }


def describe_numbers(hypers: PETHypers, dtype: torch.dtype) -> Dict[str, float]:
    """Return the real numbers that the engine asks for; lengths in Å.

    Args:
        hypers: shape of the model.
        dtype: of the model, which decides what its norms add to the variance.
    """
    d_head = hypers.d_pet // hypers.num_heads
    is_layer_norm = hypers.normalization == "LayerNorm"
    return {
        "eps": LAYER_NORM_EPS if is_layer_norm else torch.finfo(dtype).eps,
        "pair_eps": LAYER_NORM_EPS,
        "attention_scale": d_head**-0.5 / hypers.attention_temperature,
        "cutoff": float(hypers.cutoff),
        "cutoff_width": float(hypers.cutoff_width),
        "n_wanted": float(hypers.num_neighbors_adaptive or 0.0),
        "adaptive_width": float(hypers.cutoff_width_adaptive),
    }


def fold_weights(
    weights: Dict[str, Tensor],
    shape: Dict[str, int],
    target: str,
    dtype: torch.dtype,
    known: Optional[Dict[str, Tensor]] = None,
) -> Dict[str, Tensor]:
    """Do what ``fold_model`` does from the weights alone, as TorchScript can.

    Args:
        weights: from ``gather_weights``, or the parameters of a model without LoRA.
        shape: from ``describe_shape``.
        target: name of a target with one value per atom.
        dtype: of the result.
        known: tensors of the result that are there from before; layers of which all
            are there are not computed again.
    """
    source: Dict[str, Tensor] = {}
    for name, value in weights.items():
        source[name] = value.to(dtype)
    folded: Dict[str, Tensor] = {}
    if known is not None:
        folded = known.copy()
    folded["message_table"] = source["edge_embedder.weight"]
    for g in range(shape["num_gnn_layers"]):
        _fold_embeddings(source, f"gnn_layers.{g}.", folded, f"gnn.{g}.")
        for t in range(shape["num_attention_layers"]):
            layer = f"gnn_layers.{g}.trans.layers.{t}."
            _fold_transformer(source, layer, folded, f"gnn.{g}.{t}.")
        if shape["is_feedforward"] != 0:
            mlp = f"combination_mlps.{g}."
            norm = f"combination_norms.{g}"
            _fold_normed(source, mlp + "0", norm, folded, f"gnn.{g}.pair_in")
            _copy_linear(source, mlp + "2", folded, f"gnn.{g}.pair_out")
    for r in range(shape["num_readout_layers"]):
        folded[f"node_table.{r}"] = source[f"node_embedders.{r}.weight"]
        for kind in ["node", "edge"]:
            head, name = f"{kind}_heads.{target}.{r}.", f"{kind}_head.{r}."
            _copy_linear(source, head + "0", folded, name + "0")
            _copy_linear(source, head + "2", folded, name + "1")
            _flatten_last(source, f"{kind}_last_layers.{target}.{r}.", folded, name)
    for name, value in folded.items():
        folded[name] = value.contiguous()
    return folded


def _copy_linear(
    source: Dict[str, Tensor], layer: str, folded: Dict[str, Tensor], name: str
) -> None:
    if name + ".weight" in folded and name + ".bias" in folded:
        return
    folded[name + ".weight"] = source[layer + ".weight"]
    folded[name + ".bias"] = source[layer + ".bias"]
    if layer + ".lora_A" in source:
        folded[name + ".weight"] = source[layer + ".weight"].detach()
        folded[name + ".lora_A"] = source[layer + ".lora_A"]
        folded[name + ".lora_B"] = source[layer + ".lora_B"]


def _fold_normed(
    source: Dict[str, Tensor],
    layer: str,
    norm: str,
    folded: Dict[str, Tensor],
    name: str,
) -> None:
    """Put the weights of a norm into the linear layer after it."""
    if name + ".weight" in folded and name + ".bias" in folded:
        return
    weight, bias = source[layer + ".weight"], source[layer + ".bias"]
    if norm + ".bias" in source:
        bias = bias + weight @ source[norm + ".bias"]
    scale = source[norm + ".weight"]
    folded[name + ".bias"] = bias
    if layer + ".lora_A" not in source or scale.requires_grad:
        folded[name + ".weight"] = weight * scale
    else:
        folded[name + ".weight"] = weight.detach() * scale
        folded[name + ".lora_A"] = source[layer + ".lora_A"] * scale
        folded[name + ".lora_B"] = source[layer + ".lora_B"]


def _fold_embeddings(
    source: Dict[str, Tensor], layer: str, folded: Dict[str, Tensor], name: str
) -> None:
    """Put the embeddings into the first layer of `compress`, whose input they are."""
    # the first layer's message is the table of elements itself
    embedder = layer + "neighbor_embedder.weight"
    is_first = embedder not in source
    _copy_linear(source, layer + "compress.2", folded, name + "compress")
    has_message = is_first or name + "message.weight" in folded
    if name + "table" in folded and name + "basis" in folded and has_message:
        return
    table = source["edge_embedder.weight" if is_first else embedder]
    parts = source[layer + "compress.0.weight"].split(table.shape[1], dim=1)
    bias = parts[0] @ source[layer + "edge_embedder.bias"]
    bias = bias + source[layer + "compress.0.bias"]
    folded[name + "table"] = table @ parts[1].t() + bias
    folded[name + "basis"] = (parts[0] @ source[layer + "edge_embedder.weight"]).t()
    if not is_first:
        folded[name + "message.weight"] = parts[2]


def _fold_transformer(
    source: Dict[str, Tensor], layer: str, folded: Dict[str, Tensor], name: str
) -> None:
    attention, mlp = layer + "attention.", layer + "mlp."
    norm = layer + "norm_attention"
    _fold_normed(source, attention + "input_linear", norm, folded, name + "mixed")
    _copy_linear(source, attention + "output_linear", folded, name + "out")
    _fold_normed(source, mlp + "w_in", layer + "norm_mlp", folded, name + "mlp_in")
    _copy_linear(source, mlp + "w_out", folded, name + "mlp_out")
    if layer + "center_contraction.weight" in source:
        center, norm = layer + "center_", layer + "norm_center_features"
        _copy_linear(source, center + "contraction", folded, name + "contract")
        _copy_linear(source, center + "expansion", folded, name + "expand")
        _fold_normed(source, center + "mlp.w_in", norm, folded, name + "center_in")
        _copy_linear(source, center + "mlp.w_out", folded, name + "center_out")


def _flatten_last(
    source: Dict[str, Tensor], layers: str, folded: Dict[str, Tensor], name: str
) -> None:
    """Add the one layer of a target's last layers, as a vector and a number."""
    for path, value in source.items():
        # its own name is the target's block name
        if path.startswith(layers) and path.endswith(".weight"):
            folded[name + "last"] = value.reshape(-1)
        elif path.startswith(layers) and path.endswith(".bias"):
            folded[name + "last_bias"] = value.reshape(())

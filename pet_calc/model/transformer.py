"""The transformer that lets an atom and its edges attend to each other.

Tokens are stored flat, [n_atoms + n_edges, d]: nodes first, then edges. Every linear
layer works on real tokens only; padding exists just inside the attention product.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pet_calc.model import constants
from pet_calc.model.edges import EdgeIndex, Edges
from pet_calc.model.moves import empty_blocks, fill_blocks


def build_norm(name: str, width: int) -> nn.Module:
    """Return an ``RMSNorm`` or ``LayerNorm`` over the last axis."""
    if name == "RMSNorm":
        return nn.RMSNorm(width)
    if name == "LayerNorm":
        return nn.LayerNorm(width)
    raise ValueError(f"unknown normalization {name!r}: expected RMSNorm or LayerNorm")


class FeedForward(nn.Module):
    """Two linear layers around SiLU, or around SwiGLU (value * sigmoid(gate))."""

    def __init__(self, width: int, hidden_width: int, activation: str) -> None:
        super().__init__()
        if activation not in ("SiLU", "SwiGLU"):
            raise ValueError(f"unknown activation {activation!r}: SiLU or SwiGLU")
        self.is_gated = activation == "SwiGLU"
        self.w_in = nn.Linear(width, hidden_width * (2 if self.is_gated else 1))
        self.w_out = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, width] to [n, width]."""
        x = self.w_in(x)
        if self.is_gated:
            return self.w_out(F.glu(x, dim=-1))
        return self.w_out(F.silu(x))


class Attention(nn.Module):
    """Multi-head attention inside each block of one atom and its edges."""

    def __init__(self, width: int, n_heads: int, temperature: float) -> None:
        super().__init__()
        if width % n_heads != 0:
            raise ValueError(f"d_pet={width} is not divisible by num_heads={n_heads}")
        self.input_linear = nn.Linear(width, 3 * width)
        self.output_linear = nn.Linear(width, width)
        self.width = width
        self.n_heads = n_heads
        self.d_head = width // n_heads
        self.scale = 1.0 / (math.sqrt(self.d_head) * temperature)

    def forward(
        self,
        tokens: Tensor,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> Tensor:
        """Return the attended tokens.

        Args:
            tokens: [n_tokens, width].
            index: places of the tokens in the blocks.
            mask: [n_atoms, 1, 1, n_slots], added to the logits of each key; -inf for
                empty places.
            is_twice_differentiable: use plain products; PyTorch's fused attention has
                no second derivative, which training on forces needs.
        """
        n_blocks, n_slots = mask.shape[0], mask.shape[3]
        blocks = fill_blocks(self.input_linear(tokens), index)
        blocks = blocks.view(n_blocks, n_slots, 3, self.n_heads, self.d_head)
        query, key, value = blocks.permute(2, 0, 3, 1, 4).unbind(0)
        if is_twice_differentiable:
            logits = torch.matmul(query, key.transpose(2, 3)) * self.scale + mask
            out = torch.matmul(torch.softmax(logits, dim=-1), value)
        else:
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=self.scale
            )
        out = out.transpose(1, 2).reshape(n_blocks, n_slots, self.width)
        return self.output_linear(empty_blocks(out, index))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, normalised before (PreLN) or after (PostLN).

    Where node tokens are wider than edge tokens, the node is contracted for the
    attention, its update expanded again, and it has a feed-forward block of its own.
    """

    def __init__(
        self,
        d_pet: int,
        d_node: int,
        d_feedforward: int,
        num_heads: int,
        normalization: str,
        activation: str,
        transformer_type: str,
        temperature: float,
    ) -> None:
        super().__init__()
        if transformer_type not in ("PreLN", "PostLN"):
            raise ValueError(
                f"unknown transformer_type {transformer_type!r}: PreLN or PostLN"
            )
        self.is_pre_norm = transformer_type == "PreLN"
        self.has_wide_node = d_node != d_pet
        self.attention = Attention(d_pet, num_heads, temperature)
        self.norm_attention = build_norm(normalization, d_pet)
        self.norm_mlp = build_norm(normalization, d_pet)
        self.mlp = FeedForward(d_pet, d_feedforward, activation)
        if self.has_wide_node:
            self.center_contraction = nn.Linear(d_node, d_pet)
            self.center_expansion = nn.Linear(d_pet, d_node)
            self.norm_center_features = build_norm(normalization, d_node)
            self.center_mlp = FeedForward(d_node, 2 * d_node, activation)
        else:
            # TorchScript compiles both branches, so the names must exist
            self.center_contraction = nn.Identity()  # type: ignore[assignment]
            self.center_expansion = nn.Identity()  # type: ignore[assignment]
            self.norm_center_features = nn.Identity()
            self.center_mlp = nn.Identity()  # type: ignore[assignment]

    def forward(
        self,
        node: Tensor,
        edge: Tensor,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return new node tokens [n_atoms, d_node] and edge tokens [n_edges, d_pet]."""
        n_atoms = node.shape[0]
        tokens = torch.cat([self.center_contraction(node), edge])
        if self.is_pre_norm:
            update = self.attention(
                self.norm_attention(tokens), index, mask, is_twice_differentiable
            )
            new_node, new_edge = update[:n_atoms], edge + update[n_atoms:]
            new_edge = new_edge + self.mlp(self.norm_mlp(new_edge))
        else:
            update = self.attention(tokens, index, mask, is_twice_differentiable)
            tokens = self.norm_attention(tokens + update)
            tokens = self.norm_mlp(tokens + self.mlp(tokens))
            new_node, new_edge = tokens[:n_atoms], tokens[n_atoms:]
        if self.has_wide_node:
            new_node = node + self.center_expansion(new_node)
            new_node = new_node + self.center_mlp(self.norm_center_features(new_node))
        return new_node, new_edge


class TransformerStack(nn.Module):
    """The transformer layers of one message-passing layer."""

    def __init__(self, layers: list[TransformerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        node: Tensor,
        edge: Tensor,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Apply the layers in turn; shapes as in ``TransformerLayer``."""
        for layer in self.layers:
            node, edge = layer(node, edge, index, mask, is_twice_differentiable)
        return node, edge


class CartesianLayer(nn.Module):
    """One message-passing layer: edge tokens from geometry, then the transformer."""

    # Final: TorchScript compiles only the branch that is taken
    is_first: Final[bool]

    def __init__(
        self, d_pet: int, n_species: int, is_first: bool, stack: TransformerStack
    ) -> None:
        super().__init__()
        self.is_first = is_first
        self.trans = stack
        self.edge_embedder = nn.Linear(4, d_pet)
        n_parts = 2 if is_first else 3
        self.compress = nn.Sequential(
            nn.Linear(n_parts * d_pet, d_pet), nn.SiLU(), nn.Linear(d_pet, d_pet)
        )
        if not is_first:
            self.neighbor_embedder = nn.Embedding(n_species, d_pet)

    def forward(
        self,
        node: Tensor,
        message: Tensor,
        neighbor_species: Tensor,
        edges: Edges,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return new node and edge tokens.

        Args:
            node: [n_atoms, d_node].
            message: [n_edges, d_pet], what the previous layer sent along each edge;
                for the first layer [n_species, d_pet], by the neighbour's element.
            neighbor_species: [n_edges] int64, index of the neighbour's element.
            edges: geometry.
            index: places of the tokens in the blocks.
            mask: [n_atoms, 1, 1, n_slots] for the attention.
            is_twice_differentiable: see ``Attention``.
        """
        geometry = torch.cat([edges.vectors, edges.distances.unsqueeze(1)], dim=1)
        hidden = self._compress_inputs(geometry, message, neighbor_species)
        edge = self.compress[2](self.compress[1](hidden))
        return self.trans(node, edge, index, mask, is_twice_differentiable)

    def _compress_inputs(
        self, geometry: Tensor, message: Tensor, neighbor_species: Tensor
    ) -> Tensor:
        """Return the first linear layer's output, [n_edges, d_pet].

        Its input is the concatenation of embedded geometry, element and message, all
        but the last linear in few numbers: their share of the layer is folded into a
        [4, d_pet] matrix and a table by element, which are much cheaper to apply.
        """
        weights = self.compress[0].weight.chunk(2 if self.is_first else 3, dim=1)
        bias = F.linear(self.edge_embedder.bias, weights[0], self.compress[0].bias)
        if self.is_first:
            table = F.linear(message, weights[1], bias)
        else:
            table = F.linear(self.neighbor_embedder.weight, weights[1], bias)
        hidden = F.embedding(neighbor_species, table)
        hidden = torch.addmm(
            hidden, geometry, (weights[0] @ self.edge_embedder.weight).t()
        )
        if not self.is_first:
            hidden = torch.addmm(hidden, message, weights[2].t())
        return hidden


def compute_attention_mask(edges: Edges, index: EdgeIndex) -> Tensor:
    """Return log of the cutoff factor per key, [n_atoms, 1, 1, n_slots].

    A node counts as a neighbour with factor 1; empty places get -inf.
    """
    is_filled = index.is_filled
    factors = edges.cutoff_factors.clamp_min(constants.MIN_CUTOFF_FACTOR)
    nodes = torch.zeros(is_filled.shape[0], dtype=factors.dtype, device=factors.device)
    values = torch.cat([nodes, torch.log(factors)]).unsqueeze(1)
    blocks = fill_blocks(values, index).squeeze(2)
    mask = torch.where(is_filled, blocks, torch.full_like(blocks, -math.inf))
    return mask.unsqueeze(1).unsqueeze(1)

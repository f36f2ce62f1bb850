"""Moves of token rows whose derivative is a move too.

Each one is a gather both ways. PyTorch's own derivative of a gather adds row by row,
which is many times slower and which compilers do not fuse.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pet_calc.model.edges import EdgeIndex


def swap_edges(rows: Tensor, index: EdgeIndex) -> Tensor:
    """Return the row of each edge's reverse, [n_edges, d]."""
    if torch.jit.is_scripting():
        return rows.index_select(0, index.reverse)
    return _Swap.apply(rows, index.reverse)


def fill_blocks(tokens: Tensor, index: EdgeIndex) -> Tensor:
    """Put token rows into blocks, [n_atoms, n_slots, d].

    Empty places hold rows of some token: finite, and to be masked.
    """
    if torch.jit.is_scripting():
        rows = tokens.index_select(0, index.slot_tokens.view(-1))
        n_blocks, n_slots = index.is_filled.shape[0], index.is_filled.shape[1]
        return rows.view(n_blocks, n_slots, tokens.shape[1])
    return _Fill.apply(tokens, index)


def empty_blocks(blocks: Tensor, index: EdgeIndex) -> Tensor:
    """Take the token rows out of blocks [n_atoms, n_slots, d]: [n_tokens, d]."""
    if torch.jit.is_scripting():
        return blocks.flatten(0, 1).index_select(0, index.token_slots)
    return _Empty.apply(blocks, index)


class _Swap(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, reverse: Tensor) -> Tensor:
        ctx.save_for_backward(reverse)
        return rows.index_select(0, reverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (reverse,) = ctx.saved_tensors
        return _Swap.apply(gradient, reverse), None


class _Fill(Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: EdgeIndex) -> Tensor:
        ctx.index = index
        rows = tokens.index_select(0, index.slot_tokens.view(-1))
        return rows.view(*index.is_filled.shape, tokens.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # nothing depends on what lies in empty places
        return _Empty.apply(gradient, ctx.index), None


class _Empty(Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor, index: EdgeIndex) -> Tensor:
        ctx.index = index
        # not flatten, which torch cannot do for several gradients at once
        rows = blocks.reshape(-1, blocks.shape[2])
        return rows.index_select(0, index.token_slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        blocks = _Fill.apply(gradient, ctx.index)
        is_filled = ctx.index.is_filled.unsqueeze(2)
        return torch.where(is_filled, blocks, blocks.new_zeros(())), None

"""The trunk of PET: embeddings and message-passing layers, without heads.

Tokens live on directed edges and on atoms. Each message-passing layer lets an atom and
its edges attend to each other, then sends every edge token to its reverse edge.
"""

from typing import List

import torch
from torch import Tensor, nn

from pet_calc.model.batch import Batch
from pet_calc.model.conditioning import SystemConditioning
from pet_calc.model.edges import EdgeIndex, Edges, EdgeSelector
from pet_calc.model.hypers import PETHypers
from pet_calc.model.moves import swap_edges
from pet_calc.model.transformer import (
    CartesianLayer,
    TransformerLayer,
    TransformerStack,
    compute_attention_mask,
)


class Trunk(nn.Module):
    """Everything before the heads.

    ``PET`` inherits from it and does not hold it, because the names of published
    weights have no level for it.
    """

    def __init__(self, hypers: PETHypers, n_species: int) -> None:
        super().__init__()
        self.selector = EdgeSelector(hypers)
        # forward may read plain attributes only (TorchScript)
        self._is_feedforward = hypers.featurizer_type == "feedforward"
        self.gnn_layers = nn.ModuleList(
            [
                _build_layer(hypers, n_species, g == 0)
                for g in range(hypers.num_gnn_layers)
            ]
        )
        self.combination_norms = nn.ModuleList()
        self.combination_mlps = nn.ModuleList()
        if self._is_feedforward:
            for _ in range(hypers.num_gnn_layers):
                self.combination_norms.append(nn.LayerNorm(2 * hypers.d_pet))
                self.combination_mlps.append(
                    nn.Sequential(
                        nn.Linear(2 * hypers.d_pet, 2 * hypers.d_pet),
                        nn.SiLU(),
                        nn.Linear(2 * hypers.d_pet, hypers.d_pet),
                    )
                )
        self.node_embedders = nn.ModuleList(
            [
                nn.Embedding(n_species, hypers.d_node)
                for _ in range(hypers.num_readout_layers)
            ]
        )
        self.edge_embedder = nn.Embedding(n_species, hypers.d_pet)
        self.system_conditioning = (
            SystemConditioning(
                hypers.d_node, hypers.max_charge, hypers.max_spin_multiplicity
            )
            if hypers.system_conditioning
            else None
        )

    def featurize(
        self,
        batch: Batch,
        species: Tensor,
        edges: Edges,
        index: EdgeIndex,
        is_twice_differentiable: bool,
    ) -> tuple[List[Tensor], List[Tensor]]:
        """Return node tokens [n_atoms, d_node] and edge tokens [n_edges, d_pet].

        Each is a list with one entry per readout layer.

        Args:
            batch: the systems.
            species: [n_atoms] int64, species index.
            edges: lengths, directions and cutoff factors of ``index``.
            index: the edges, from ``selector``.
            is_twice_differentiable: as in ``PET.forward``.
        """
        mask = compute_attention_mask(edges, index)
        neighbor_species = species.index_select(0, index.neighbors)
        if self._is_feedforward:
            return self._featurize_feedforward(
                batch,
                species,
                neighbor_species,
                edges,
                index,
                mask,
                is_twice_differentiable,
            )
        return self._featurize_residual(
            batch,
            species,
            neighbor_species,
            edges,
            index,
            mask,
            is_twice_differentiable,
        )

    def _featurize_feedforward(
        self,
        batch: Batch,
        species: Tensor,
        neighbor_species: Tensor,
        edges: Edges,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> tuple[List[Tensor], List[Tensor]]:
        """Return the last layer's node tokens and messages, each in a list of one."""
        message = self.edge_embedder(neighbor_species)
        incoming = self.edge_embedder.weight
        node = message
        for embedder in self.node_embedders:
            node = embedder(species)
        for layer, norm, mlp in zip(
            self.gnn_layers, self.combination_norms, self.combination_mlps, strict=True
        ):
            node, edge = layer(
                node,
                incoming,
                neighbor_species,
                edges,
                index,
                mask,
                is_twice_differentiable,
            )
            node = self._add_conditioning(node, batch)
            both = torch.cat([edge, swap_edges(edge, index)], dim=1)
            message = message + edge + mlp(norm(both))
            incoming = message
        return [node], [message]

    def _featurize_residual(
        self,
        batch: Batch,
        species: Tensor,
        neighbor_species: Tensor,
        edges: Edges,
        index: EdgeIndex,
        mask: Tensor,
        is_twice_differentiable: bool,
    ) -> tuple[List[Tensor], List[Tensor]]:
        """Return the node and edge tokens of every layer."""
        message = self.edge_embedder(neighbor_species)
        incoming = self.edge_embedder.weight
        node_features: List[Tensor] = []
        edge_features: List[Tensor] = []
        for layer, embedder in zip(self.gnn_layers, self.node_embedders, strict=True):
            node, edge = layer(
                embedder(species),
                incoming,
                neighbor_species,
                edges,
                index,
                mask,
                is_twice_differentiable,
            )
            node_features.append(self._add_conditioning(node, batch))
            edge_features.append(edge)
            message = 0.5 * (message + swap_edges(edge, index))
            incoming = message
        return node_features, edge_features

    def _add_conditioning(self, node: Tensor, batch: Batch) -> Tensor:
        if self.system_conditioning is None:
            return node
        return node + self.system_conditioning(
            batch.charges, batch.spin_multiplicities, batch.system_of_atom
        )


def _build_layer(hypers: PETHypers, n_species: int, is_first: bool) -> CartesianLayer:
    layers = [
        TransformerLayer(
            hypers.d_pet,
            hypers.d_node,
            hypers.d_feedforward,
            hypers.num_heads,
            hypers.normalization,
            hypers.activation,
            hypers.transformer_type,
            hypers.attention_temperature,
        )
        for _ in range(hypers.num_attention_layers)
    ]
    return CartesianLayer(hypers.d_pet, n_species, is_first, TransformerStack(layers))

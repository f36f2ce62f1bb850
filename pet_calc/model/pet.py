"""PET, the Point Edge Transformer (arXiv:2305.19302, today's form arXiv:2601.16195).

The trunk (``trunk.py``) makes tokens on directed edges and on atoms. Heads read them
and give values per atom, for each target. State-dict names are those of published PET
checkpoints, so weights carry over by name.
"""

from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from pet_calc.model.batch import Batch
from pet_calc.model.edges import EdgeIndex, Edges, compute_distances
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.tables import TargetTables
from pet_calc.model.trunk import Trunk
from pet_calc.model.zbl import ZBL


def _build_head(d_in: int, d_head: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(d_in, d_head), nn.SiLU(), nn.Linear(d_head, d_head), nn.SiLU()
    )


class PET(Trunk):
    """The network with its heads, scales, composition energies and ZBL.

    Attributes:
        hypers: the shape.
        atomic_types: ascending atomic numbers; their order is the species index.
        targets: spec of each target, by name.
    """

    __jit_unused_properties__ = ("pair_cutoff", "interaction_range")

    species_to_species_index: Tensor
    _target_names: List[str]
    _zbl_targets: List[str]

    def __init__(
        self, hypers: PETHypers, atomic_types: List[int], targets: List[TargetSpec]
    ) -> None:
        super().__init__(hypers, len(atomic_types))
        self.hypers = hypers
        self.atomic_types = [int(z) for z in atomic_types]
        # no annotation: TorchScript warns of those on empty containers
        self.targets = dict[str, TargetSpec]()

        # forward may read plain attributes only (TorchScript)
        self._cutoff = float(hypers.cutoff)
        self._target_names = []
        self._zbl_targets = []

        n_species = len(self.atomic_types)
        index = torch.full((max(self.atomic_types) + 1,), -1, dtype=torch.int64)
        index[torch.tensor(self.atomic_types)] = torch.arange(n_species)
        self.register_buffer("species_to_species_index", index)

        self.node_heads = nn.ModuleDict()
        self.edge_heads = nn.ModuleDict()
        self.node_last_layers = nn.ModuleDict()
        self.edge_last_layers = nn.ModuleDict()
        # the name of the tables in files, see TABLES
        self.baseline = TargetTables()
        self.zbl: Optional[ZBL] = ZBL(n_species) if hypers.zbl else None
        for spec in targets:
            self.add_target(spec)

    def add_target(self, spec: TargetSpec, inherit_from: str | None = None) -> None:
        """Add a target in place, with fresh heads or with copies of another's.

        Args:
            spec: the new target; its name must be new.
            inherit_from: target whose heads, scale and composition are copied.

        Raises:
            ValueError: if the name exists already, or the two shapes differ.
        """
        if spec.name in self.targets:
            raise ValueError(f"the model has a target {spec.name!r} already")
        n_layers = self.hypers.num_readout_layers
        d_head = self.hypers.d_head
        block = spec.block_name or spec.name

        def build_last() -> nn.ModuleDict:
            return nn.ModuleDict({block: nn.Linear(d_head, spec.n_values)})

        for heads, d_in in (
            (self.node_heads, self.hypers.d_node),
            (self.edge_heads, self.hypers.d_pet),
        ):
            heads[spec.name] = nn.ModuleList(
                [_build_head(d_in, d_head) for _ in range(n_layers)]
            )
        for lasts in (self.node_last_layers, self.edge_last_layers):
            lasts[spec.name] = nn.ModuleList([build_last() for _ in range(n_layers)])
        self.baseline.add_target(
            spec.name, len(self.atomic_types), spec.n_properties, spec.n_values
        )
        self.targets[spec.name] = spec
        self._target_names.append(spec.name)
        # as metatrain decides: by the declared quantity, not by the name
        is_repelled = spec.is_energy and spec.quantity == "energy"
        if self.zbl is not None and is_repelled and spec.unit == "eV":
            self._zbl_targets.append(spec.name)
        example = self.edge_embedder.weight
        for part in self._target_modules(spec.name):
            part.to(device=example.device, dtype=example.dtype)
        if inherit_from is not None:
            self._copy_heads(inherit_from, spec.name)

    def remove_target(self, name: str) -> None:
        """Drop the target ``name`` with its heads, in place."""
        for group in (
            self.node_heads,
            self.edge_heads,
            self.node_last_layers,
            self.edge_last_layers,
        ):
            del group[name]
        self.baseline.remove_target(name)
        del self.targets[name]
        self._target_names.remove(name)
        if name in self._zbl_targets:
            self._zbl_targets.remove(name)

    @property
    def pair_cutoff(self) -> float:
        """Distance, Å, up to which the neighbour list must be complete."""
        if self.zbl is None:
            return self._cutoff
        return max(self._cutoff, 2.0 * float(self.zbl.covalent_radii.max()))

    @property
    def interaction_range(self) -> float:
        """Farthest distance, Å, at which atoms influence each other."""
        return max(self.hypers.interaction_range, self.pair_cutoff)

    def forward(
        self,
        batch: Batch,
        vectors: Tensor,
        targets: List[str],
        is_twice_differentiable: bool = False,
    ) -> Dict[str, Tensor]:
        """Return the requested targets per atom, scaled, without composition.

        Args:
            batch: the systems.
            vectors: [n_pairs, 3], from ``edges.compute_edge_vectors`` or a leaf
                of the same values, through which derivatives are taken.
            targets: names of targets.
            is_twice_differentiable: whether the result's gradient will be
                differentiated again, as in training on forces.

        Returns:
            For each name [n_atoms, n_values] in the target's unit. Energies include
            ZBL; the composition part is ``composition``, in float64.
        """
        index = self.selector(batch, vectors)
        return self.evaluate(batch, vectors, index, targets, is_twice_differentiable)

    def evaluate(
        self,
        batch: Batch,
        vectors: Tensor,
        index: EdgeIndex,
        targets: List[str],
        is_twice_differentiable: bool = False,
    ) -> Dict[str, Tensor]:
        """Do what ``forward`` does after ``index`` was found.

        The operations do not depend on the numbers, so that this part can be traced.
        """
        values, _ = self._evaluate(
            batch, vectors, index, targets, targets[:0], is_twice_differentiable
        )
        return values

    @torch.jit.export
    def evaluate_with_features(
        self, batch: Batch, vectors: Tensor, targets: List[str], featured: List[str]
    ) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        """Return what ``forward`` does, and what the last layers are applied to.

        Args:
            batch: the systems.
            vectors: as for ``forward``.
            targets: names of targets.
            featured: those of them whose last-layer features are asked for.

        Returns:
            The values, and for each of ``featured`` [n_atoms, n_features]: for one
            readout layer after the other the hidden features of the node head, then
            those of the edge head, weighted by the cutoff and summed over the edges.
        """
        index = self.selector(batch, vectors)
        return self._evaluate(batch, vectors, index, targets, featured, False)

    def _evaluate(
        self,
        batch: Batch,
        vectors: Tensor,
        index: EdgeIndex,
        targets: List[str],
        featured: List[str],
        is_twice_differentiable: bool,
    ) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        """Return the values of ``targets``, and the features of ``featured``."""
        species = self.species_to_species_index.index_select(0, batch.species)
        edges = self.selector.measure(batch, vectors, index)
        node_features, edge_features = self.featurize(
            batch, species, edges, index, is_twice_differentiable
        )
        results: Dict[str, Tensor] = {}
        node_hidden, edge_hidden = self._apply_heads(
            node_features, edge_features, targets
        )
        features: Dict[str, Tensor] = {}
        for name in featured:
            features[name] = _gather_features(
                node_hidden[name], edge_hidden[name], edges, index
            )
        raw = self._read_out(node_hidden, edge_hidden, edges, index, targets)
        for name, values in raw.items():
            if name == "non_conservative_stress":
                values = _symmetrise_per_volume(values, batch)
            values = self.baseline.scale(name, values, species)
            if name in self._zbl_targets:
                values = values + self.compute_zbl(batch, vectors, species)
            results[name] = values
        return results, features

    def compute_zbl(self, batch: Batch, vectors: Tensor, species: Tensor) -> Tensor:
        """Return the ZBL repulsion per atom, [n_atoms, 1] in eV; zero without ZBL."""
        zbl = self.zbl
        if zbl is None:
            return vectors.new_zeros((species.shape[0], 1))
        return zbl(
            compute_distances(vectors),
            batch.species,
            species,
            batch.centers,
            batch.neighbors,
        )

    @torch.jit.unused
    def has_zbl(self, target: str) -> bool:
        """Whether the ZBL repulsion is part of ``target``."""
        return target in self._zbl_targets

    def composition(self, batch: Batch, target: str) -> Tensor:
        """Return the composition part per atom, [n_atoms, n_values] float64."""
        species = self.species_to_species_index.index_select(0, batch.species)
        return self.baseline.composition(target, species)

    def _apply_heads(
        self,
        node_features: List[Tensor],
        edge_features: List[Tensor],
        targets: List[str],
    ) -> Tuple[Dict[str, List[Tensor]], Dict[str, List[Tensor]]]:
        """Return the hidden features of nodes and edges, by target and layer."""
        node_hidden: Dict[str, List[Tensor]] = {}
        edge_hidden: Dict[str, List[Tensor]] = {}
        for name, heads in self.node_heads.items():
            if name in targets:
                hidden: List[Tensor] = []
                for i, head in enumerate(heads):
                    hidden.append(head(node_features[i]))
                node_hidden[name] = hidden
        for name, heads in self.edge_heads.items():
            if name in targets:
                hidden: List[Tensor] = []
                for i, head in enumerate(heads):
                    hidden.append(head(edge_features[i]))
                edge_hidden[name] = hidden
        return node_hidden, edge_hidden

    def _read_out(
        self,
        node_hidden: Dict[str, List[Tensor]],
        edge_hidden: Dict[str, List[Tensor]],
        edges: Edges,
        index: EdgeIndex,
        targets: List[str],
    ) -> Dict[str, Tensor]:
        """Return the unscaled values per atom of each requested target."""
        weights = edges.cutoff_factors.unsqueeze(1)
        results: Dict[str, Tensor] = {}
        for name, layers in self.node_last_layers.items():
            if name in targets:
                values: List[Tensor] = []
                for i, layer in enumerate(layers):
                    for linear in layer.values():
                        values.append(linear(node_hidden[name][i]))
                results[name] = torch.stack(values).sum(dim=0)
        for name, layers in self.edge_last_layers.items():
            if name in targets:
                for i, layer in enumerate(layers):
                    for linear in layer.values():
                        per_edge = linear(edge_hidden[name][i]) * weights
                        results[name] = results[name].index_add(
                            0, index.centers, per_edge
                        )
        return results

    def _target_modules(self, name: str) -> List[nn.Module]:
        groups = (
            self.node_heads,
            self.edge_heads,
            self.node_last_layers,
            self.edge_last_layers,
            self.baseline.tables,
        )
        return [group[name] for group in groups]

    def _copy_heads(self, source: str, destination: str) -> None:
        if source not in self.targets:
            known = ", ".join(self.targets)
            raise ValueError(f"no target {source!r} to inherit from; there are {known}")
        pairs = zip(
            self._target_modules(source), self._target_modules(destination), strict=True
        )
        for old, new in pairs:
            # block names contain the target's name, so copy by order
            old_values = list(old.state_dict().values())
            new_values = list(new.state_dict().values())
            for old_value, new_value in zip(old_values, new_values, strict=True):
                if old_value.shape != new_value.shape:
                    raise ValueError(
                        f"target {destination!r} cannot inherit from {source!r}: "
                        f"shapes {list(new_value.shape)} and {list(old_value.shape)}"
                    )
                new_value.copy_(old_value)


def _gather_features(
    node_hidden: List[Tensor], edge_hidden: List[Tensor], edges: Edges, index: EdgeIndex
) -> Tensor:
    """Return the last-layer features, [n_atoms, n_features]; see ``PET``."""
    weights = edges.cutoff_factors.unsqueeze(1)
    parts: List[Tensor] = []
    for node, edge in zip(node_hidden, edge_hidden, strict=True):
        parts.append(node)
        summed = torch.zeros_like(node)
        parts.append(summed.index_add(0, index.centers, edge * weights))
    return torch.cat(parts, dim=1)


def _symmetrise_per_volume(values: Tensor, batch: Batch) -> Tensor:
    """Return symmetric 3 x 3 values divided by the volume, zero without a volume."""
    n_properties = values.shape[1] // 9
    tensors = values.view(-1, 3, 3, n_properties)
    tensors = 0.5 * (tensors + tensors.transpose(1, 2))
    volumes = torch.det(batch.cells).abs().index_select(0, batch.system_of_atom)
    has_volume = volumes > 0.0
    inverse = torch.where(
        has_volume,
        1.0 / torch.where(has_volume, volumes, torch.ones_like(volumes)),
        torch.zeros_like(volumes),
    )
    return tensors.reshape(-1, 9 * n_properties) * inverse.to(values.dtype).unsqueeze(1)

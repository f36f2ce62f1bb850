"""What an exported file tells the compiled engine, besides being a metatomic model.

Programs with the engine inside, such as the LAMMPS plugin, call these methods of the
file; programs that know metatomic only never do. Nothing is stored twice: the weights
are folded when they are asked for.
"""

from typing import Dict, List, Tuple, cast

import torch
from torch import Tensor, nn

from pet_calc.engine.supported import find_obstacle
from pet_calc.export.composition import CompositionTable
from pet_calc.model.batch import Batch
from pet_calc.model.edges import compute_distances
from pet_calc.model.fold import describe_numbers, describe_shape, fold_weights
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable


class WeightsForEngine(nn.Module):
    """Methods for the compiled engine, which TorchScript keeps in the file.

    Outputs go by metatomic's names. Lengths and energies are in the model's units.
    """

    _target_of: Dict[str, str]
    _obstacles: Dict[str, str]

    def __init__(self, model: PET) -> None:
        super().__init__()
        self.pet = model
        self.compositions = nn.ModuleDict()
        self._target_of = {}
        self._obstacles = {}
        self._shape = describe_shape(model.hypers)
        dtype = model.edge_embedder.weight.dtype
        self._numbers = describe_numbers(model.hypers, dtype)

    def _add_output(self, name: str, target: str) -> None:
        """Note an output, and why the engine cannot run it: an empty text if it can."""
        self._target_of[name] = target
        table = cast(TargetTable, self.pet.baseline.tables[target])
        self.compositions[target] = CompositionTable(table)
        obstacle = find_obstacle(self.pet, target)
        if obstacle is None and not self.pet.targets[target].is_energy:
            obstacle = f"{target} is not an energy"
        self._obstacles[name] = obstacle or ""

    @torch.jit.export
    def describe_engine(
        self, output: str
    ) -> Tuple[str, Dict[str, int], Dict[str, float]]:
        """Return why the engine cannot run an output (empty if it can), and the shape.

        The whole numbers and switches are those of ``describe_shape`` with
        ``has_zbl`` and ``is_conditioned``, the real numbers ``describe_numbers``.
        """
        target = self._target_of[output]
        shape = self._shape.copy()
        shape["has_zbl"] = int(target in self.pet._zbl_targets)
        shape["is_conditioned"] = int(self.pet.system_conditioning is not None)
        return self._obstacles[output], shape, self._numbers

    @torch.jit.export
    def fold_weights(
        self, weights: Dict[str, Tensor], output: str
    ) -> Dict[str, Tensor]:
        """Return the engine's tensors of an output, computed in float64.

        Args:
            weights: the parameters of ``pet`` by name, which TorchScript cannot list.
            output: its name.

        Returns:
            The tensors of ``pet_calc.model.fold``, with ``species`` (index by atomic
            number, -1 where unknown), ``scale`` and ``composition`` [n_species].
        """
        target = self._target_of[output]
        folded = fold_weights(weights, self._shape, target, torch.float64)
        index = self.pet.species_to_species_index
        species = torch.arange(int(index.max()) + 1, device=index.device)
        ones = torch.ones(
            (species.shape[0], 1), dtype=torch.float64, device=index.device
        )
        folded["species"] = index
        folded["scale"] = self.pet.baseline.scale(target, ones, species).squeeze(1)
        folded["composition"] = self._composition(target, species).squeeze(1)
        return folded

    @torch.jit.export
    def embed_conditions(self, charge: float, spin_multiplicity: float) -> Tensor:
        """Return what is added to the node tokens of a system, [1, d_node]."""
        conditioning = self.pet.system_conditioning
        if conditioning is None:
            raise RuntimeError("the model does not read charge and spin")
        weight = self.pet.edge_embedder.weight
        values = torch.tensor([charge, spin_multiplicity], device=weight.device)
        rounded = values.round()
        if not torch.equal(rounded, values):
            raise ValueError("charge and spin of a system must be whole numbers")
        whole = rounded.to(torch.int64)
        first = torch.zeros(1, dtype=torch.int64, device=weight.device)
        return conditioning(whole[:1], whole[1:], first)

    @torch.jit.export
    def compute_repulsion(
        self, numbers: Tensor, centers: Tensor, neighbors: Tensor, vectors: Tensor
    ) -> Tensor:
        """Return the ZBL repulsion per atom, [n_atoms].

        Args:
            numbers: [n_atoms] int64, atomic numbers.
            centers: [n_pairs] int64.
            neighbors: [n_pairs] int64.
            vectors: [n_pairs, 3], to which gradients flow.
        """
        zbl = self.pet.zbl
        if zbl is None:
            return torch.zeros_like(numbers, dtype=vectors.dtype)
        species = self.pet.species_to_species_index.index_select(0, numbers)
        distances = compute_distances(vectors)
        return zbl(distances, numbers, species, centers, neighbors).squeeze(1)

    @torch.jit.export
    def evaluate_pairs(
        self,
        outputs: List[str],
        numbers: Tensor,
        cell: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        reverse: Tensor,
        vectors: Tensor,
        charge: int,
        spin_multiplicity: int,
    ) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        """Return outputs of one system, from vectors that the caller has measured.

        A program that measures them in float64 loses nothing far from the origin,
        where the float32 positions of metatomic's interface do.

        Args:
            outputs: their names.
            numbers: [n_atoms] int64, atomic numbers.
            cell: [3, 3], zero rows where not periodic; for direct stresses only.
            centers: [n_pairs] int64, ascending.
            neighbors: [n_pairs] int64.
            reverse: [n_pairs] int64, the index of the pair j->i.
            vectors: [n_pairs, 3] in the model's dtype, to which gradients flow.
            charge: of the system, in e.
            spin_multiplicity: 2S + 1 of the system.

        Returns:
            For each output [n_atoms, n_values] in the model's dtype, and what the
            composition adds to it, [n_atoms, n_values] in float64: sums of such
            numbers may need more digits than float32 has.
        """
        batch = self._build_pair_batch(
            numbers,
            cell,
            centers,
            neighbors,
            reverse,
            vectors,
            charge,
            spin_multiplicity,
        )
        targets: List[str] = []
        for name in outputs:
            targets.append(self._target_of[name])
        values = self.pet(batch, vectors, targets)
        species = self.pet.species_to_species_index.index_select(0, numbers)
        results: Dict[str, Tensor] = {}
        compositions: Dict[str, Tensor] = {}
        for name in outputs:
            target = self._target_of[name]
            results[name] = values[target]
            compositions[name] = self._composition(target, species)
        return results, compositions

    @torch.jit.export
    def evaluate_features(
        self,
        output: str,
        numbers: Tensor,
        cell: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        reverse: Tensor,
        vectors: Tensor,
        charge: int,
        spin_multiplicity: int,
    ) -> Tensor:
        """Return the last-layer features of an output, [n_atoms, n_features].

        The arguments are those of ``evaluate_pairs``; gradients flow to the vectors.
        """
        batch = self._build_pair_batch(
            numbers,
            cell,
            centers,
            neighbors,
            reverse,
            vectors,
            charge,
            spin_multiplicity,
        )
        target = self._target_of[output]
        _, features = self.pet.evaluate_with_features(
            batch, vectors, [target], [target]
        )
        return features[target]

    def _build_pair_batch(
        self,
        numbers: Tensor,
        cell: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        reverse: Tensor,
        vectors: Tensor,
        charge: int,
        spin_multiplicity: int,
    ) -> Batch:
        """Return one system of which the vectors are known, not the positions."""
        device = vectors.device
        return Batch(
            species=numbers,
            positions=torch.zeros(
                (numbers.shape[0], 3), dtype=vectors.dtype, device=device
            ),
            cells=cell.unsqueeze(0),
            centers=centers,
            neighbors=neighbors,
            cell_shifts=torch.zeros(
                (centers.shape[0], 3), dtype=torch.int64, device=device
            ),
            reverse=reverse,
            system_of_atom=torch.zeros_like(numbers),
            charges=torch.full((1,), charge, dtype=torch.int64, device=device),
            spin_multiplicities=torch.full(
                (1,), spin_multiplicity, dtype=torch.int64, device=device
            ),
        )

    def _composition(self, target: str, species: Tensor) -> Tensor:
        for name, table in self.compositions.items():
            if name == target:
                return table(species)
        raise RuntimeError("the model has no target " + target)

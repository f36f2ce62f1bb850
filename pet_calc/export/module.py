"""PET behind metatomic's interface, as TorchScript compiles it."""

from collections.abc import Mapping
from typing import Dict, List, Optional, Tuple

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, NeighborListOptions, System
from torch import Tensor, nn

from pet_calc.checkpoint.layout import build_components, build_properties
from pet_calc.export.engine import WeightsForEngine
from pet_calc.export.pairs import pair_up
from pet_calc.export.uncertainty import (
    ENSEMBLE,
    FEATURE,
    UNCERTAINTY,
    UncertaintyTables,
    name_extra_output,
)
from pet_calc.model.batch import Batch
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_FORCES,
    DIRECT_STRESS,
    TargetSpec,
)
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty

# how far below the cutoff a pair is left out, Å: above the rounding of any distance
MARGINS = {torch.float32: 1e-4, torch.float64: 1e-9}


class ExportedPET(WeightsForEngine):
    """A PET behind metatomic's interface: systems in, tensor maps out."""

    _target_of: Dict[str, str]
    _obstacles: Dict[str, str]
    _kinds: Dict[str, str]
    _shapes: Dict[str, List[int]]
    _component_names: Dict[str, List[str]]
    _property_names: Dict[str, List[str]]
    _property_values: Dict[str, List[List[int]]]

    def __init__(
        self,
        model: PET,
        uncertainties: Mapping[str, LastLayerUncertainty] | None = None,
    ) -> None:
        super().__init__(model)
        # of outputs that are no target: features, uncertainties and ensembles, by name
        self._kinds = {}
        # TorchScript reads no constants of the module
        self._uncertainty, self._ensemble = UNCERTAINTY, ENSEMBLE
        self._shapes = {}
        self._component_names = {}
        self._property_names = {}
        self._property_values = {}
        for name, spec in model.targets.items():
            output = name_output(spec)
            self._add_output(output, name)
            self._shapes[output] = [*spec.components, spec.n_properties]
            components = build_components(spec)
            self._component_names[output] = [axis.names[0] for axis in components]
            properties = _build_standard_properties(spec)
            self._property_names[output] = list(properties.names)
            self._property_values[output] = properties.values.tolist()
            if spec.is_energy:
                n_features = model.hypers.num_last_layer_features
                self._add_extra_output(name, FEATURE, n_features)
        self.uncertainties = nn.ModuleDict()
        for name, own in (uncertainties or {}).items():
            self.uncertainties[name] = UncertaintyTables(own)
            self._add_extra_output(name, UNCERTAINTY, 1)
            if own.n_members:
                self._add_extra_output(name, ENSEMBLE, own.n_members)
        self._is_conditioned = model.system_conditioning is not None
        margin = MARGINS[model.edge_embedder.weight.dtype]
        self._reach = model.pair_cutoff - margin
        # not strict: the model drops the pairs beyond its cutoff
        self._neighbor_options = NeighborListOptions(
            cutoff=model.pair_cutoff, full_list=True, strict=False
        )

    def _add_extra_output(self, target: str, kind: str, n_values: int) -> None:
        """Note an output of numbers per sample that the last-layer features give."""
        output = name_extra_output(target, kind)
        self._target_of[output] = target
        self._obstacles[output] = f"it computes no {kind}"
        self._kinds[output] = kind
        self._shapes[output] = [n_values]
        self._component_names[output] = []
        self._property_names[output] = [FEATURE if kind == FEATURE else "energy"]
        self._property_values[output] = [[i] for i in range(n_values)]

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Return the one full list that PET needs."""
        return [self._neighbor_options]

    def requested_inputs(self) -> Dict[str, ModelOutput]:
        """Return charge and spin multiplicity per system, if the model reads them."""
        if not self._is_conditioned:
            return {}
        return {
            "charge": ModelOutput(unit="", sample_kind="system"),
            "spin_multiplicity": ModelOutput(unit="", sample_kind="system"),
        }

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Return each requested output, per atom or summed over each system.

        Args:
            systems: with the requested neighbour list; gradients flow to
                their positions and cells.
            outputs: what is asked for, per atom if ``sample_kind`` is ``atom``.
            selected_atoms: labels (system, atom) of the atoms to report or to sum;
                all others only act as neighbours.
        """
        batch, vectors = self._build_batch(systems)
        values, features = self._evaluate(batch, vectors, list(outputs.keys()))
        species = self.pet.species_to_species_index.index_select(0, batch.species)

        system_of_atom = batch.system_of_atom
        counts = torch.bincount(system_of_atom, minlength=len(systems))
        first_atoms = torch.cumsum(counts, dim=0) - counts
        if selected_atoms is None:
            chosen = torch.arange(species.shape[0], device=species.device)
            system_index = torch.arange(len(systems), device=species.device)
        else:
            labels = selected_atoms.values.to(species.device, torch.int64)
            chosen = first_atoms.index_select(0, labels[:, 0]) + labels[:, 1]
            system_index = torch.unique(labels[:, 0])
            species = species.index_select(0, chosen)
            system_of_atom = system_of_atom.index_select(0, chosen)
        atom_index = chosen - first_atoms.index_select(0, system_of_atom)
        atom_labels = torch.stack([system_of_atom, atom_index], dim=1)

        results: Dict[str, TensorMap] = {}
        for name, output in outputs.items():
            target = self._target_of[name]
            kind = self._kinds.get(name, "")
            per_atom = values[target].index_select(0, chosen)
            dtype = per_atom.dtype
            # float64: composition energies reach 1e5 eV
            per_atom = per_atom.to(torch.float64) + self._composition(target, species)
            if kind != "":
                own = features[target].index_select(0, chosen).to(torch.float64)
                if kind == self._ensemble:
                    per_atom = per_atom + self._deviate(target, own)
                else:
                    per_atom = own
            if output.sample_kind == "atom":
                samples = build_labels(["system", "atom"], atom_labels)
                summed = per_atom
            else:
                samples = build_labels(["system"], system_index.unsqueeze(1))
                summed = torch.zeros(
                    (len(systems), per_atom.shape[1]),
                    dtype=torch.float64,
                    device=per_atom.device,
                ).index_add(0, system_of_atom, per_atom)
                summed = summed.index_select(0, system_index)
            if kind == self._uncertainty:
                # of the sum, not the sum of those of the atoms
                summed = self._estimate(target, summed)
            results[name] = self._build_map(name, summed.to(dtype), samples)
        return results

    def _evaluate(
        self, batch: Batch, vectors: Tensor, outputs: List[str]
    ) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        """Return the values of the targets that outputs need, and their features."""
        targets: List[str] = []
        featured: List[str] = []
        for name in outputs:
            target = self._target_of[name]
            if target not in targets:
                targets.append(target)
            if name in self._kinds and target not in featured:
                featured.append(target)
        if len(featured) == 0:
            no_features: Dict[str, Tensor] = {}
            return self.pet(batch, vectors, targets), no_features
        return self.pet.evaluate_with_features(batch, vectors, targets, featured)

    def _estimate(self, target: str, features: Tensor) -> Tensor:
        """Return the uncertainty of rows of features, [n, 1]."""
        for name, tables in self.uncertainties.items():
            if name == target:
                return tables(features)
        raise RuntimeError("the file has no uncertainty of " + target)

    def _deviate(self, target: str, features: Tensor) -> Tensor:
        """Return what the ensemble differs from the prediction by, [n, n_members]."""
        for name, tables in self.uncertainties.items():
            if name == target:
                return tables.deviate(features)  # type: ignore[operator]
        raise RuntimeError("the file has no ensemble of " + target)

    @torch.jit.export
    def count_members(self, output: str) -> int:
        """Return the size of an energy's ensemble, -1 without an uncertainty."""
        target = self._target_of[output]
        for name, tables in self.uncertainties.items():
            if name == target:
                return tables.count_members()  # type: ignore[operator]
        return -1

    @torch.jit.export
    def estimate_uncertainty(self, output: str, features: Tensor) -> Tensor:
        """Return the uncertainty of an energy for rows of its features, [n].

        Args:
            output: name of the energy, of which the file has an uncertainty.
            features: [n, n_features], such as ``evaluate_features`` gives per atom;
                summed over the atoms, those of the total.
        """
        return self._estimate(self._target_of[output], features).squeeze(1)

    @torch.jit.export
    def deviate_ensemble(self, output: str, features: Tensor) -> Tensor:
        """Return what the members of an energy's ensemble differ from it by.

        Args:
            output: name of the energy, of which the file has an ensemble.
            features: [n, n_features], to which gradients flow.

        Returns:
            [n, n_members] float64.
        """
        return self._deviate(self._target_of[output], features)

    def _build_map(self, output: str, values: Tensor, samples: Labels) -> TensorMap:
        """Return ``values`` with the axes that the output has."""
        shape = [values.shape[0]]
        shape.extend(self._shapes[output])
        components: List[Labels] = []
        for i, name in enumerate(self._component_names[output]):
            index = torch.arange(shape[i + 1], device=values.device)
            components.append(build_labels([name], index.unsqueeze(1)))
        property_values = torch.tensor(
            self._property_values[output], dtype=torch.int32, device=values.device
        )
        block = TensorBlock(
            values=values.reshape(shape),
            samples=samples,
            components=components,
            properties=build_labels(self._property_names[output], property_values),
        )
        key = torch.zeros((1, 1), dtype=torch.int64, device=values.device)
        return TensorMap(build_labels(["_"], key), [block])

    def _build_batch(self, systems: List[System]) -> Tuple[Batch, Tensor]:
        """Return the systems end to end, and the vectors of their pairs by centre.

        The vectors are those of the neighbour lists. The program may have measured
        them in float64, while the positions here are in the model's dtype.
        """
        example = self.pet.edge_embedder.weight
        # one empty piece each, so that no systems at all is a batch too
        integers = torch.zeros(0, dtype=torch.int64, device=example.device)
        positions = [torch.zeros((0, 3), dtype=example.dtype, device=example.device)]
        cells = [torch.zeros((0, 3, 3), dtype=example.dtype, device=example.device)]
        species = [integers]
        system_of_atom = [integers]
        pairs = [torch.zeros((0, 5), dtype=torch.int64, device=example.device)]
        vectors = [positions[0]]
        n_atoms = 0
        for i, system in enumerate(systems):
            n_own = system.positions.shape[0]
            positions.append(system.positions)
            cells.append(system.cell.unsqueeze(0))
            species.append(system.types.to(torch.int64))
            system_of_atom.append(
                torch.full((n_own,), i, dtype=torch.int64, device=example.device)
            )
            neighbors = system.get_neighbor_list(self._neighbor_options)
            own_pairs = neighbors.samples.values.to(torch.int64).clone()
            own_pairs[:, :2] += n_atoms
            pairs.append(own_pairs)
            vectors.append(neighbors.values.reshape(-1, 3))
            n_atoms += n_own
        all_pairs = torch.cat(pairs)
        order = torch.argsort(all_pairs[:, 0], stable=True)
        listed = pair_up(
            all_pairs.index_select(0, order),
            torch.cat(vectors).index_select(0, order),
            self._reach,
        )
        batch = Batch(
            species=torch.cat(species),
            positions=torch.cat(positions),
            cells=torch.cat(cells),
            centers=listed.pairs[:, 0].contiguous(),
            neighbors=listed.pairs[:, 1].contiguous(),
            cell_shifts=listed.pairs[:, 2:],
            reverse=listed.reverse,
            system_of_atom=torch.cat(system_of_atom),
            charges=self._read_input(systems, "charge", 0),
            spin_multiplicities=self._read_input(systems, "spin_multiplicity", 1),
        )
        return batch, listed.vectors

    def _read_input(self, systems: List[System], name: str, default: int) -> Tensor:
        """Return an integer per system, ``default`` where the system has no data."""
        device = self.pet.edge_embedder.weight.device
        if not self._is_conditioned:
            return torch.full(
                (len(systems),), default, dtype=torch.int64, device=device
            )
        values = torch.full(
            (len(systems),), default, dtype=torch.float64, device=device
        )
        for i, system in enumerate(systems):
            if name in system.known_data():
                data = system.get_data(name).block().values
                values[i] = data.to(torch.float64).sum()
        rounded = torch.round(values)
        if not torch.equal(rounded, values):
            raise ValueError(name + " of a system must be a whole number")
        return rounded.to(torch.int64)


def build_labels(names: List[str], values: Tensor) -> Labels:
    """Return labels whose ``values`` [n, n_names] are known to be unique."""
    return Labels(names, values.to(torch.int32), assume_unique=True)


def name_output(spec: TargetSpec) -> str:
    """Return metatomic's name of a target: today's standard one where there is one."""
    if spec.base_name == DIRECT_FORCES:
        return spec.name.replace(DIRECT_FORCES, DIRECT_FORCE, 1)
    return spec.name


def _build_standard_properties(spec: TargetSpec) -> Labels:
    """Return the property axis, with metatomic's name where it prescribes one."""
    if spec.is_energy:
        return Labels.range("energy", 1)
    base = name_output(spec).split("/", 1)[0]
    if base in (DIRECT_FORCE, DIRECT_STRESS):
        return Labels.range(base, 1)
    return build_properties(spec)

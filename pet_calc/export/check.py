"""Is a saved file still the model it was made from?"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelEvaluationOptions,
    ModelOutput,
    System,
    load_atomistic_model,
    register_autograd_neighbors,
)
from torch import Tensor

from pet_calc.data.systems import build_batch
from pet_calc.errors import ExportError
from pet_calc.export.module import build_labels, name_output
from pet_calc.export.uncertainty import (
    ENSEMBLE,
    FEATURE,
    UNCERTAINTY,
    name_extra_output,
)
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty, compute_features

# allowed difference between file and model, relative to the largest value: the same
# operations, compiled, hence a few hundred roundings at most
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
# where the factor of an uncertainty magnifies roundings, 1e4 times at most
UNCERTAINTY_TOLERANCES = {torch.float32: 1e-2, torch.float64: 1e-7}
# spacing and jitter of the eight atoms of the check, Å
SPACING = 2.2
JITTER = 0.3


def check_file(
    draft: Path,
    model: PET,
    path: Path,
    uncertainties: Mapping[str, LastLayerUncertainty] | None = None,
) -> None:
    """Raise ``ExportError`` unless a saved file says what the model says.

    Compares every output, and the forces of every energy, on eight atoms.

    Args:
        draft: the file.
        model: what it was made from, on the CPU.
        path: what to call the file in the message.
        uncertainties: of energies that have one.
    """
    try:
        loaded = load_atomistic_model(draft)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"{path}: the file cannot be loaded ({error})") from error
    batch = _build_check_batch(model)
    for name, spec in model.targets.items():
        found, found_forces = _run_file(loaded, batch, name_output(spec))
        if spec.is_energy:
            prediction = predict(model, batch, name)
            assert prediction.forces is not None
            output = name_extra_output(name, FEATURE)
            features, _ = _run_file(loaded, batch, output)
            own = compute_features(model, batch, name).double().sum(dim=0)
            _compare(features, own, f"values of output {output}", path)
            own = prediction.energy
            _compare(found_forces, prediction.forces, f"forces of output {name}", path)
        else:
            with torch.no_grad():
                values = model(batch, compute_edge_vectors(batch), [name])[name]
            own = (values.double() + model.composition(batch, name)).sum(dim=0)
        _compare(found, own, f"values of output {name}", path)
    for name, uncertainty in (uncertainties or {}).items():
        output = name_extra_output(name, UNCERTAINTY)
        features = compute_features(model, batch, name).double().sum(dim=0)[None]
        own = uncertainty(features)
        found, _ = _run_file(loaded, batch, output)
        tolerances = UNCERTAINTY_TOLERANCES
        _compare(found, own, f"values of output {output}", path, tolerances)
        if uncertainty.n_members:
            output = name_extra_output(name, ENSEMBLE)
            energy = predict(model, batch, name).energy
            own = energy + uncertainty.deviate(features)[0]
            found, _ = _run_file(loaded, batch, output)
            _compare(found, own, f"values of output {output}", path)


def _compare(
    found: Tensor,
    own: Tensor,
    what: str,
    path: Path,
    tolerances: Mapping[torch.dtype, float] = TOLERANCES,
) -> None:
    difference = float((found - own).abs().max())
    allowed = tolerances[found.dtype] * max(float(own.abs().max()), 1.0)
    # `not <=` catches NaN as well
    if not difference <= allowed:
        raise ExportError(
            f"{path}: {what} differ from the model's by {difference:.2e} where "
            f"{allowed:.2e} is allowed; nothing was written. This is a bug in "
            "pet-calc: please report it"
        )


def _run_file(
    loaded: AtomisticModel, batch: Batch, output: str
) -> tuple[Tensor, Tensor]:
    """Return what a file says of the one system: values [n], forces of their sum."""
    positions = batch.positions.clone().requires_grad_(True)
    system = System(
        types=batch.species.to(torch.int32),
        positions=positions,
        cell=batch.cells[0],
        pbc=torch.ones(3, dtype=torch.bool),
    )
    columns = [batch.centers, batch.neighbors, *batch.cell_shifts.unbind(1)]
    names = ["first_atom", "second_atom"] + [f"cell_shift_{x}" for x in "abc"]
    neighbors = TensorBlock(
        values=compute_edge_vectors(batch).unsqueeze(2),
        samples=build_labels(names, torch.stack(columns, dim=1)),
        components=[Labels.range("xyz", 3)],
        properties=Labels.range("distance", 1),
    )
    register_autograd_neighbors(system, neighbors, check_consistency=True)
    system.add_neighbor_list(loaded.requested_neighbor_lists()[0], neighbors)
    _add_check_inputs(system, loaded)
    options = ModelEvaluationOptions(
        length_unit=loaded.capabilities().length_unit,
        outputs={output: ModelOutput(sample_kind="system")},
    )
    block = loaded([system], options, check_consistency=True)[output].block()
    (gradient,) = torch.autograd.grad(block.values.sum(), positions)
    return block.values.detach().reshape(-1), -gradient


def _add_check_inputs(system: System, loaded: AtomisticModel) -> None:
    defaults = {"charge": 0.0, "spin_multiplicity": 1.0}
    for name in loaded.requested_inputs(use_new_names=True):
        block = TensorBlock(
            values=torch.full((1, 1), defaults[name], dtype=system.positions.dtype),
            samples=Labels.range("system", 1),
            components=[],
            properties=Labels.range(name, 1),
        )
        system.add_data(name, TensorMap(Labels.range("_", 1), [block]))


def build_check_atoms(model: PET) -> Atoms:
    """Return eight atoms of the model's elements, jittered in a periodic cube."""
    rng = np.random.default_rng(0)
    grid = np.array(list(itertools.product((0.0, 1.0), repeat=3))) * SPACING
    positions = grid + JITTER * rng.random((8, 3))
    numbers = rng.choice(model.atomic_types, 8)
    return Atoms(numbers, positions, cell=2 * SPACING * np.eye(3), pbc=True)


def _build_check_batch(model: PET) -> Batch:
    dtype = model.edge_embedder.weight.dtype
    return build_batch(build_check_atoms(model), model.pair_cutoff, dtype=dtype)

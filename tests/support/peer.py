"""metatrain's PET as the peer that numbers are compared with."""

import gzip

import ase.build
import metatensor.torch as mts
import numpy as np
import torch
from ase import Atoms
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, System
from metatrain.pet import PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import (
    get_energy_target_info,
    get_generic_target_info,
)
from metatrain.utils.io import model_from_checkpoint
from metatrain.utils.neighbor_lists import (
    get_requested_neighbor_lists,
    get_system_with_neighbor_lists,
)

ATOMIC_TYPES = [1, 6, 7, 8]
TINY = {
    "cutoff": 3.5,
    "d_pet": 8,
    "d_head": 8,
    "d_node": 16,
    "d_feedforward": 16,
    "num_heads": 2,
    "num_attention_layers": 2,
    "num_gnn_layers": 2,
    "num_neighbors_adaptive": None,
}


def build_structures():
    """Molecule, bulk, slab, a cell smaller than the cutoff, an isolated atom."""
    molecule = ase.build.molecule("CH3CONH2")
    bulk = ase.build.bulk("CN", "zincblende", a=3.6, cubic=True)
    bulk.rattle(0.1, seed=1)
    slab = ase.build.graphene(size=(2, 1, 1), vacuum=None)
    slab.symbols[0] = "O"
    slab.pbc = [True, True, False]
    slab.rattle(0.1, seed=2)
    small = Atoms("C", cell=[[2.5, 0, 0], [0.4, 2.6, 0], [0.1, 0.2, 2.4]], pbc=True)
    return {
        "molecule": molecule,
        "bulk": bulk,
        "slab": slab,
        "small cell": small,
        "atom": Atoms("O", [[0.1, 0.2, 0.3]]),
    }


def build_dataset_info(targets, atomic_types=ATOMIC_TYPES):
    """Dataset info with the targets of these names; the name says the kind."""
    return DatasetInfo(
        length_unit="angstrom",
        atomic_types=atomic_types,
        targets={name: _build_target(name) for name in targets},
    )


def _build_target(name):
    if name.startswith("energy"):
        return get_energy_target_info(name, {"unit": "eV"}, True, True)
    options = {"quantity": "", "unit": "", "num_subtargets": 1, "sample_kind": "atom"}
    if name.startswith("mtt::"):
        options.update(type="scalar", num_subtargets=3)
    elif name.startswith("non_conservative_force"):
        options.update(quantity="force", unit="eV/A", type={"cartesian": {"rank": 1}})
    else:
        kind = {"cartesian": {"rank": 2}}
        options.update(
            quantity="pressure", unit="eV/A^3", type=kind, sample_kind="system"
        )
    return get_generic_target_info(name, options)


def build_peer(targets=("energy",), *, seed=0, dtype=torch.float64, **hypers):
    """A metatrain PET with random weights, scales and composition energies."""
    values = {**get_default_hypers("pet")["model"], **TINY, **hypers}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PET(values, build_dataset_info(targets)).to(dtype).eval()
        for parameter in model.parameters():
            with torch.no_grad():
                parameter += 0.2 * torch.randn_like(parameter)
        _randomize(model.additive_models[0], "_composition_buffer", 3.0)
        _randomize(model.scaler, "_scaler_buffer", 0.3)
    return model


def _randomize(module, suffix, size):
    for name, buffer in list(module.named_buffers()):
        if not name.endswith(suffix) or "_per_" in name:
            continue
        tensor_map = mts.load_buffer(buffer)
        values = tensor_map.block(0).values
        values += size * torch.rand_like(values)
        setattr(module, name, mts.save_buffer(tensor_map))
    module.sync_tensor_maps()


def load_peer(path, dtype, context="export"):
    """metatrain's own reading of a checkpoint."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        content = torch.load(file, weights_only=False, map_location="cpu")
    model = model_from_checkpoint(content, context)
    model = getattr(model, "model", model)  # inside the uncertainty wrapper
    model.additive_models[0].weights_to(torch.device("cpu"), torch.float64)
    return model.to(dtype).eval()


def evaluate_peer(model, structures, targets):
    """Values by target and, for energies, forces and stress; in one batch."""
    dtype = next(model.parameters()).dtype
    systems, strains, positions = [], [], []
    for atoms in structures:
        strain = torch.eye(3, dtype=dtype, requires_grad=True)
        start = torch.tensor(atoms.positions, dtype=dtype, requires_grad=True)
        cell = torch.tensor(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
        system = System(
            types=torch.tensor(atoms.numbers, dtype=torch.int32),
            positions=start @ strain,
            cell=cell.to(dtype) @ strain,
            pbc=torch.tensor(atoms.pbc),
        )
        system = get_system_with_neighbor_lists(
            system, get_requested_neighbor_lists(model)
        )
        if model.system_conditioning is not None:
            _add_data(system, "charge", atoms.info.get("charge", 0), dtype)
            _add_data(system, "spin_multiplicity", atoms.info.get("spin", 1), dtype)
        systems.append(system)
        strains.append(strain)
        positions.append(start)
    outputs = {
        name: ModelOutput(
            sample_kind="atom" if "force" in name or "mtt" in name else "system"
        )
        for name in targets
    }
    maps = model(systems, outputs)
    results = {name: maps[name].block(0).values for name in targets}
    for name in targets:
        if not name.startswith("energy"):
            continue
        gradients = torch.autograd.grad(
            results[name].sum(),
            positions + strains,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        n = len(structures)
        results[f"{name} forces"] = -torch.cat(gradients[:n])
        # the model is not exactly rotation invariant, so its virial has a small
        # antisymmetric part, which is no stress
        volumes = [atoms.cell.volume if atoms.pbc.all() else 0 for atoms in structures]
        results[f"{name} stress"] = torch.stack(
            [
                (0.5 * (g + g.T) / v if v > 0 else torch.zeros_like(g))
                for g, v in zip(gradients[n:], volumes, strict=True)
            ]
        )
    return {name: value.detach().to(torch.float64) for name, value in results.items()}


def _add_data(system, name, value, dtype):
    block = TensorBlock(
        values=torch.tensor([[value]], dtype=dtype),
        samples=Labels(["system"], torch.tensor([[0]])),
        components=[],
        properties=Labels([name], torch.tensor([[0]])),
    )
    system.add_data(name, TensorMap(Labels.single(), [block]))


def save_peer(model, path, **changes):
    """Write a peer as metatrain does, with some entries changed; return the file."""
    torch.save({**model.get_checkpoint(), **changes}, path)
    return path

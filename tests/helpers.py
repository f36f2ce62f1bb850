"""Tiny models and structures that many tests share."""

import ase.build
import numpy as np
import torch
from ase import Atoms

from pet_calc.data.neighbors import compute_pairs, mask_cell
from pet_calc.model.batch import Batch
from pet_calc.model.edges import find_reverse_pairs
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET

ATOMIC_TYPES = [1, 6, 8, 13, 14]
TINY = {
    "cutoff": 4.0,
    "d_pet": 8,
    "d_head": 8,
    "d_node": 16,
    "d_feedforward": 8,
    "num_heads": 2,
    "num_attention_layers": 1,
}


def build_model(targets=None, *, seed=0, dtype=torch.float64, **hypers):
    """A tiny PET with random weights and composition; nothing is zero or one in it."""
    specs = targets or [TargetSpec.for_energy()]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PET(PETHypers(**{**TINY, **hypers}), ATOMIC_TYPES, specs)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter += 0.2 * noise
        for name, table in model.baseline.tables.items():
            table.scale += 2.0
            if model.targets[name].is_energy:
                noise = torch.randn(table.composition.shape, generator=generator)
                table.composition += 10.0 * noise.to(torch.float64)
        if model.zbl is not None:
            model.zbl.covalent_radii += 0.6
    return model


def build_structures():
    """Molecule, bulk, slab, a cell smaller than the cutoff, an isolated atom."""
    molecule = ase.build.molecule("CH3OH")
    bulk = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    bulk.rattle(0.1, seed=1)
    slab = ase.build.fcc111("Al", (1, 2, 2), a=4.05, vacuum=6.0)
    slab.rattle(0.1, seed=2)
    tiny_cell = ase.build.bulk("Al", "fcc", 4.05)
    return [molecule, bulk, slab, tiny_cell, Atoms("O", [[0.0, 0.0, 0.0]])]


def build_batch(structures, model, *, skin=0.0):
    """The graph of some ``Atoms``, in the model's dtype."""
    columns = {name: [] for name in ("species", "positions", "system", "cells")}
    pairs = []
    n_atoms = 0
    for k, atoms in enumerate(structures):
        own = compute_pairs(
            atoms.positions, atoms.cell.array, atoms.pbc, model.pair_cutoff + skin
        )
        pairs.append(np.column_stack([own[0] + n_atoms, own[1] + n_atoms, own[2]]))
        columns["species"].append(atoms.numbers)
        columns["positions"].append(atoms.positions)
        columns["system"].append(np.full(len(atoms), k))
        columns["cells"].append(mask_cell(atoms.cell.array, atoms.pbc)[None])
        n_atoms += len(atoms)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    dtype = model.edge_embedder.weight.dtype
    all_pairs = torch.from_numpy(np.concatenate(pairs).astype(np.int64))
    centers, neighbors = all_pairs[:, 0].contiguous(), all_pairs[:, 1].contiguous()
    infos = [atoms.info for atoms in structures]
    return Batch(
        species=torch.from_numpy(joined["species"].astype(np.int64)),
        positions=torch.from_numpy(joined["positions"]).to(dtype),
        cells=torch.from_numpy(joined["cells"]).to(dtype),
        centers=centers,
        neighbors=neighbors,
        cell_shifts=all_pairs[:, 2:],
        reverse=find_reverse_pairs(centers, neighbors, all_pairs[:, 2:]),
        system_of_atom=torch.from_numpy(joined["system"].astype(np.int64)),
        charges=torch.tensor([i.get("charge", 0) for i in infos]),
        spin_multiplicities=torch.tensor([i.get("spin", 1) for i in infos]),
    )

"""Structures that many tests share, and what models and calculators say of them."""

import ase.build
import numpy as np
from ase import Atoms, units

from pet_calc.data.systems import build_batch as build_system_batch


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
    """Some ``Atoms`` as one batch, in the model's dtype."""
    dtype = model.edge_embedder.weight.dtype
    return build_system_batch(structures, model.pair_cutoff + skin, dtype=dtype)


PROPERTIES = ("energy", "energies", "forces", "stress")


def build_bulk():
    """Eight silicon atoms in a sheared cell: forces and all of the stress."""
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.05, 0], [0, 1, 0.1], [0, 0, 1]]))
    atoms.set_scaled_positions(atoms.get_scaled_positions())
    atoms.rattle(0.1, seed=1)
    return atoms


def build_molecule():
    return ase.build.molecule("CH3OH")


def heat(atoms, temperature=300):
    """Give the atoms random momenta of a temperature in K."""
    spread = np.sqrt(atoms.get_masses()[:, None] * units.kB * temperature)
    momenta = spread * np.random.default_rng(0).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))


def get_results(calculator, atoms):
    """All that there is, as if asked for one by one."""
    atoms = atoms.copy()
    names = [n for n in PROPERTIES if n != "stress" or atoms.pbc.all()]
    return {name: calculator.get_property(name, atoms) for name in names}


def assert_same(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    for name, values in one.items():
        scale = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(
            values, other[name], rtol=0, atol=tolerance * scale, err_msg=name
        )


def build_water(repeat=(3, 2, 2)):
    """Molecules in cells of 3.1 Å, some across the boundary; narrow: 6.2 Å."""
    atoms = ase.build.molecule("H2O")
    atoms.set_cell([3.1, 3.1, 3.1])
    atoms.pbc = True
    atoms = atoms.repeat(repeat)
    atoms.rattle(0.15, seed=3)
    return atoms


def build_triclinic():
    """A strongly sheared crystal of two elements."""
    cell = [[4.2, 0.3, -0.2], [1.5, 4.6, 0.4], [-1.1, 1.3, 5.1]]
    scaled = [[0.02, 0.1, 0.2], [0.5, 0.4, 0.6], [0.9, 0.8, 0.1], [0.3, 0.75, 0.85]]
    return Atoms("SiO2Si", cell=cell, scaled_positions=scaled, pbc=True)

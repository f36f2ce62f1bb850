import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.systems import build_batch, build_system, collate, collate_labels
from pet_calc.errors import DataError

CUTOFF = 4.7


def build_systems(*structures):
    frames = [LabeledFrame.from_atoms(atoms, source="x") for atoms in structures]
    return [build_system(frame, CUTOFF) for frame in frames]


def test_a_batch_is_the_concatenation_of_single_ones(structures):
    many = list(structures.values())
    batch = build_batch(many, CUTOFF, dtype=torch.float64)
    singles = [build_batch(atoms, CUTOFF, dtype=torch.float64) for atoms in many]
    atom_start = pair_start = 0
    for k, (atoms, single) in enumerate(zip(many, singles, strict=True)):
        a = slice(atom_start, atom_start + len(atoms))
        p = slice(pair_start, pair_start + len(single.centers))
        torch.testing.assert_close(batch.positions[a], single.positions)
        torch.testing.assert_close(batch.cells[k], single.cells[0])
        assert torch.equal(batch.species[a], single.species)
        assert torch.equal(batch.centers[p] - atom_start, single.centers)
        assert torch.equal(batch.neighbors[p] - atom_start, single.neighbors)
        assert torch.equal(batch.cell_shifts[p], single.cell_shifts)
        assert torch.equal(batch.reverse[p] - pair_start, single.reverse)
        assert (batch.system_of_atom[a] == k).all()
        atom_start, pair_start = a.stop, p.stop
    assert atom_start == len(batch.species)
    assert pair_start == len(batch.centers)


def test_the_contract_of_a_batch_holds(structures):
    batch = build_batch(list(structures.values()), CUTOFF)
    for name in ("species", "centers", "neighbors", "cell_shifts", "reverse"):
        assert getattr(batch, name).dtype == torch.int64
    for name in ("system_of_atom", "charges", "spin_multiplicities"):
        assert getattr(batch, name).dtype == torch.int64
    assert batch.positions.dtype == batch.cells.dtype == torch.float32
    assert (batch.centers.diff() >= 0).all()
    assert (batch.system_of_atom.diff() >= 0).all()
    n_pairs = len(batch.centers)
    assert torch.equal(batch.reverse[batch.reverse], torch.arange(n_pairs))
    assert torch.equal(batch.centers[batch.reverse], batch.neighbors)
    assert torch.equal(batch.cell_shifts[batch.reverse], -batch.cell_shifts)


def test_cells_are_zero_where_not_periodic(structures):
    slab = structures["slab"]
    batch = build_batch(slab, CUTOFF, dtype=torch.float64)
    assert slab.cell[2].any()
    assert not batch.cells[0, 2].any()
    np.testing.assert_array_equal(batch.cells[0, :2].numpy(), slab.cell[:2])


def test_charge_and_spin_come_from_info():
    ion = molecule("OH")
    ion.info.update(charge=-1, spin=1)
    radical = molecule("OH")
    radical.info.update(spin_multiplicity=2, spin=5)
    batch = build_batch([ion, radical, molecule("H2O")], CUTOFF)
    assert batch.charges.tolist() == [-1, 0, 0]
    assert batch.spin_multiplicities.tolist() == [1, 2, 1]
    ion.info["charge"] = 0.3
    with pytest.raises(DataError, match=r"structure 0: .*whole number"):
        build_batch(ion, CUTOFF)


def test_building_a_batch_leaves_the_atoms_alone():
    atoms = bulk("Al")
    before = atoms.copy()
    batch = build_batch(atoms, CUTOFF, dtype=torch.float64)
    batch.positions.add_(1.0)
    batch.species.add_(1)
    assert atoms == before


def test_large_shifts_do_not_overflow():
    (system,) = build_systems(Atoms("H", cell=[0.03, 20, 20], pbc=True))
    assert np.abs(system.cell_shifts).max() == 156
    batch = collate([system])
    assert torch.equal(batch.cell_shifts[batch.reverse], -batch.cell_shifts)


def test_nothing_to_batch_is_an_error():
    with pytest.raises(DataError, match="no structures"):
        collate([])
    empty = build_batch(Atoms(), CUTOFF)
    assert len(empty.species) == len(empty.centers) == 0
    with pytest.raises(DataError, match=r"structure 0: .*cell"):
        build_batch(Atoms("H", pbc=True), CUTOFF)


def test_labels_are_masked_where_missing():
    full = bulk("Al", cubic=True)
    stress = np.arange(6.0)
    full.calc = SinglePointCalculator(
        full, energy=-1e5 - 1e-6, forces=np.ones((4, 3)), stress=stress
    )
    bare = molecule("H2")
    labels = collate_labels(build_systems(full, bare))
    assert labels.energy.dtype == torch.float64
    assert labels.energy.tolist() == [-1e5 - 1e-6, 0.0]
    assert labels.has_energy.tolist() == [True, False]
    assert labels.has_forces.tolist() == [True] * 4 + [False] * 2
    assert labels.has_stress.tolist() == [True, False]
    assert labels.forces.dtype == labels.stress.dtype == torch.float32
    assert labels.forces.sum() == 12
    assert labels.stress[0].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    assert not labels.stress[1].any()
    assert labels.weights.tolist() == [1, 1]
    assert labels.n_atoms.tolist() == [4, 2]

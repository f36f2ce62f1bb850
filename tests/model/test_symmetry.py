"""Which symmetries PET has exactly, and the one it has not."""

import numpy as np
import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.derivatives import predict

MODELS = {
    "fixed": {},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "residual": {"featurizer_type": "residual", "cutoff_function": "Cosine"},
}
# sums in another order: roundings of values up to a few hundred
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def evaluate(model, *structures):
    return predict(model, build_batch(list(structures), model), with_stress=True)


@pytest.mark.parametrize("name", MODELS)
def test_translation_and_wrapping_change_nothing(name):
    model = build_model(**MODELS[name])
    for atoms in build_structures():
        moved = atoms.copy()
        moved.positions += [0.7, -12.3, 4.1]
        wrapped = moved.copy()
        wrapped.wrap()
        expected, found = evaluate(model, atoms), evaluate(model, moved)
        through_cell = evaluate(model, wrapped)
        for field in ("energy", "atomic_energies", "forces", "stress"):
            value = getattr(expected, field)
            torch.testing.assert_close(getattr(found, field), value, **CLOSE)
            torch.testing.assert_close(getattr(through_cell, field), value, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_permuted_atoms_have_permuted_results(name):
    model = build_model(**MODELS[name])
    rng = np.random.default_rng(0)
    for atoms in build_structures()[:3]:
        order = rng.permutation(len(atoms))
        expected, found = evaluate(model, atoms), evaluate(model, atoms[order])
        torch.testing.assert_close(found.energy, expected.energy, **CLOSE)
        torch.testing.assert_close(found.stress, expected.stress, **CLOSE)
        for field in ("atomic_energies", "forces"):
            value = getattr(expected, field)[torch.from_numpy(order)]
            torch.testing.assert_close(getattr(found, field), value, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_a_supercell_has_n_times_the_energy(name):
    model = build_model(**MODELS[name])
    for atoms in build_structures()[1:4]:
        repeats = [2 if periodic else 1 for periodic in atoms.pbc]
        repeats[2] = 1
        n_cells = int(np.prod(repeats))
        unit, super_ = evaluate(model, atoms), evaluate(model, atoms.repeat(repeats))
        torch.testing.assert_close(super_.energy, n_cells * unit.energy, **CLOSE)
        torch.testing.assert_close(
            super_.forces, unit.forces.repeat(n_cells, 1), **CLOSE
        )
        if atoms.pbc.all():
            torch.testing.assert_close(super_.stress, unit.stress, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_two_systems_far_apart_add_up(name):
    model = build_model(**MODELS[name])
    first = build_structures()[0]
    second = first.copy()
    second.rattle(0.1, seed=4)
    second.positions += 50.0
    both = evaluate(model, first + second)
    alone = evaluate(model, first, second)
    torch.testing.assert_close(both.energy[0], alone.energy.sum(), **CLOSE)
    torch.testing.assert_close(both.forces, alone.forces, **CLOSE)


def test_rotation_changes_the_energy_a_little():
    # PET learns rotations from data and is not invariant by construction. This random
    # model spreads over 0.3 eV per atom; none at all, or far more, would be a mistake
    model = build_model()
    atoms = build_structures()[0]
    rotated = []
    for angle in range(10, 360, 50):
        other = atoms.copy()
        other.rotate(angle, (1.0, 2.0, 3.0))
        rotated.append(other)
    energies = evaluate(model, *rotated).energy
    spread = float(energies.max() - energies.min()) / len(atoms)
    assert np.isfinite(spread)
    assert 0.03 < spread < 3.0

"""Jumps along straight paths: found wherever they are, and not seen where none is."""

import ase.build
import numpy as np
import pytest
from support.models import build_model
from support.potentials import CUTOFF, build_potential

from pet_calc.validate import load_potential
from pet_calc.validate.smoothness import Sampling, check_smoothness, choose_paths


def test_a_jump_has_its_size_and_its_place():
    atoms = ase.build.molecule("H2O")
    energy, force = check_smoothness(build_potential("cut"), atoms, Sampling(1))
    assert energy.verdict == "fail"
    assert force.verdict == "warn"
    # an atom of hydrogen leaves oxygen, or the other hydrogen, behind at 2 Å
    ratios = [(bond / 2.0) ** 6 for bond in (0.97, 0.62)]
    sizes = [1000 * 0.2 * (2 * ratio - ratio**2) for ratio in ratios]
    assert min(abs(energy.value - size) for size in sizes) < 0.01


@pytest.mark.parametrize("method", ["solver", "grid", None])
def test_a_network_has_none_with_and_without_an_adaptive_radius(method):
    hypers = {} if method is None else {
        "num_neighbors_adaptive": 8.0, "adaptive_cutoff_method": method,
    }  # fmt: skip
    potential = load_potential(build_model(**hypers), compile=False)
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    atoms.rattle(0.05, seed=1)
    for row in check_smoothness(potential, atoms, Sampling(1, spacing=0.2)):
        assert row.verdict == "ok", row.to_text()


def test_paths_leave_a_molecule_and_stay_in_bulk():
    water = ase.build.molecule("H2O")
    for path in choose_paths(water, CUTOFF, 2):
        end = path.place(path.length)
        others = [i for i in range(3) if i != path.atom]
        assert end.get_distances(path.atom, others).min() > CUTOFF
        assert np.linalg.norm(path.direction) == pytest.approx(1.0)
    bulk = ase.build.bulk("Al", "fcc", 4.05, cubic=True)
    for path in choose_paths(bulk, CUTOFF, 3):
        assert path.length <= 1.0
    slab = ase.build.fcc111("Al", (1, 1, 3), vacuum=6.0)
    for path in choose_paths(slab, CUTOFF, 2):
        assert abs(path.direction[2]) == pytest.approx(1.0)

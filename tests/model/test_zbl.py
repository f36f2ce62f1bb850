"""Scale, composition and ZBL."""

import pytest
import torch
from ase import Atoms
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model import constants
from pet_calc.model.baseline import ZBL
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors


def test_tables_stay_float64_when_the_model_is_cast():
    model = build_model(zbl=True)
    before = model.baseline.tables["energy"].composition.clone()
    model.to(torch.float32).double().half().float()
    table = model.baseline.tables["energy"]
    assert table.composition.dtype == table.scale.dtype == torch.float64
    assert torch.equal(table.composition, before)
    assert model.zbl.covalent_radii.dtype == torch.float64
    assert model.edge_embedder.weight.dtype == torch.float32


def test_large_composition_energies_keep_the_milli_electronvolt_in_float32():
    model = build_model(dtype=torch.float32)
    atoms = build_structures()[0]
    batch = build_batch([atoms], model)
    small = predict(model, batch, with_composition=False).energy
    model.baseline.tables["energy"].composition.fill_(-1e5 - 1 / 3)
    large = predict(model, batch).energy
    expected = small + len(atoms) * (-1e5 - 1 / 3)
    torch.testing.assert_close(large, expected, rtol=1e-14, atol=0.0)


def test_scale_multiplies_each_species():
    model = build_model()
    batch = build_batch(build_structures(), model)
    vectors = compute_edge_vectors(batch)
    before = model(batch, vectors, ["energy"])["energy"]
    oxygen = model.atomic_types.index(8)
    model.baseline.tables["energy"].scale[oxygen] *= 3.0
    after = model(batch, vectors, ["energy"])["energy"]
    factors = torch.where(batch.species == 8, 3.0, 1.0).unsqueeze(1)
    torch.testing.assert_close(after, before * factors)


@pytest.fixture
def zbl():
    module = ZBL(2)
    module.covalent_radii += torch.tensor([0.8, 1.1])
    return module


def evaluate_pair(zbl, distance):
    numbers, species = torch.tensor([8, 14]), torch.tensor([0, 1])
    r = torch.tensor([distance, distance], dtype=torch.float64)
    ends = torch.tensor([0, 1])
    return float(zbl(r, numbers, species, ends, ends.flip(0)).sum())


def test_zbl_vanishes_at_touching_radii_with_two_derivatives(zbl):
    assert evaluate_pair(zbl, 1.9 + 1e-6) == 0.0
    assert evaluate_pair(zbl, 2.5) == 0.0
    # three zeros in a row: below contact the energy starts with the third power
    small, smaller = evaluate_pair(zbl, 1.9 - 0.02), evaluate_pair(zbl, 1.9 - 0.01)
    assert small / smaller == pytest.approx(8.0, rel=0.1)


def test_zbl_is_screened_coulomb_repulsion_at_short_distance(zbl):
    # the switching polynomial is some eV, the bare repulsion thousands
    r = 0.1
    length = constants.SCREENING_LENGTH / (8**0.23 + 14**0.23)
    weights = torch.tensor([0.18175, 0.50986, 0.28022, 0.02817])
    decays = torch.tensor([3.19980, 0.94229, 0.40290, 0.20162])
    phi = float((weights * torch.exp(-decays * r / length)).sum())
    bare = 14.3996 * 8 * 14 / r * phi
    assert evaluate_pair(zbl, r) == pytest.approx(bare, rel=0.02)
    assert evaluate_pair(zbl, r) > 1000.0


def test_zbl_reaches_past_the_cutoff_when_the_radii_do():
    model = build_model(zbl=True, cutoff=1.0, cutoff_width=0.2)
    plain = build_model(cutoff=1.0, cutoff_width=0.2)
    assert model.pair_cutoff == pytest.approx(1.2)
    atoms = Atoms("HO", [[0, 0, 0], [1.1, 0, 0]])
    forces = predict(model, build_batch([atoms], model)).forces
    assert forces[1, 0] > 0.0
    assert forces[0, 0] == -forces[1, 0]
    assert predict(plain, build_batch([atoms], plain)).forces.abs().max() == 0.0

"""chemiscope draws a map of a data set from the features of an exported file."""

import gzip
import json

import numpy as np
import pytest
import torch
from support.models import ENERGIES, build_model
from support.programs import require
from support.structures import build_batch, build_bulk, build_molecule, build_water

from pet_calc.export import export_model
from pet_calc.model.uncertainty import compute_features

# chemiscope 1.1.0 uses what metatomic and vesin call old today
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`compute_requested_neighbors` is deprecated"),
    pytest.mark.filterwarnings("ignore:the 'features.*' output name is deprecated"),
]
# it rounds positions to float32, whatever the model computes in
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def chemiscope():
    return require("chemiscope", "chemiscope")


@pytest.fixture(scope="module")
def frames():
    frames = []
    for seed in range(4):
        for atoms in (build_bulk(), build_molecule(), build_water((2, 1, 1))):
            atoms.rattle(0.1, seed=seed)
            frames.append(atoms)
    return frames


def compute_sums(model, frames, target):
    rows = [
        compute_features(model, build_batch([atoms], model), target).sum(dim=0)
        for atoms in frames
    ]
    return torch.stack(rows).numpy()


def test_its_featurizer_reads_the_features_of_each_frame(chemiscope, frames, tmp_path):
    model = build_model()
    path = export_model(model, tmp_path / "m.pt", check=False)
    found = np.asarray(chemiscope.metatomic_featurizer(path)(frames, None))
    assert found.shape == (12, model.hypers.num_last_layer_features)
    expected = compute_sums(model, frames, "energy")
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_a_variant_has_features_of_its_own(chemiscope, frames, tmp_path):
    model = build_model(ENERGIES)
    path = export_model(model, tmp_path / "m.pt", check=False)
    found = [
        np.asarray(chemiscope.metatomic_featurizer(path, variant=name)(frames, None))
        for name in ("pbe", "scan")
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-3
    expected = compute_sums(model, frames, "energy/scan")
    np.testing.assert_allclose(found[1], expected, **CLOSE)


def test_atoms_have_features_too(chemiscope, frames, tmp_path):
    model = build_model()
    path = export_model(model, tmp_path / "m.pt", check=False)
    environments = [(1, atom, 4.0) for atom in range(len(frames[1]))]
    found = chemiscope.metatomic_featurizer(path)(frames, environments)
    expected = compute_features(model, build_batch([frames[1]], model), "energy")
    np.testing.assert_allclose(np.asarray(found), expected, **CLOSE)


def test_a_map_of_a_data_set_is_written(chemiscope, frames, tmp_path):
    """The lines of the documentation: mean features, their two largest components."""
    path = export_model(build_model(), tmp_path / "m.pt", check=False)
    features = np.asarray(chemiscope.metatomic_featurizer(path)(frames, None))
    features /= np.array([[len(atoms)] for atoms in frames])
    centred = features - features.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    chemiscope.write_input(
        str(tmp_path / "map.json.gz"),
        structures=frames,
        properties={"map": {"target": "structure", "values": centred @ axes.T}},
    )
    with gzip.open(tmp_path / "map.json.gz") as file:
        written = json.load(file)
    assert len(written["structures"]) == 12
    assert len(written["properties"]["map[1]"]["values"]) == 12
    # the three kinds of frames lie apart
    kinds = (centred @ axes.T).reshape(4, 3, 2)
    means = kinds.mean(axis=0)
    gaps = [np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 2 * np.linalg.norm(kinds - means, axis=2).mean()

"""Errors against numpy, with and without labels."""

import math

import numpy as np
import pytest
import torch

from pet_calc.data.systems import Labels
from pet_calc.evaluate.metrics import Metrics, format_errors
from pet_calc.model.derivatives import Prediction

SIZES = [3, 1, 4]


def build_batch(seed, *, has_forces=True, has_stress=True, mask=None):
    """Random predictions and labels of three structures."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n_atoms = sum(SIZES)
    prediction = Prediction(
        draw(3),
        draw(n_atoms),
        draw(n_atoms, 3) if has_forces else None,
        draw(3, 3, 3) if has_stress else None,
    )
    mask = torch.tensor(mask or [True] * 3)
    labels = Labels(
        energy=draw(3),
        has_energy=mask,
        forces=draw(n_atoms, 3),
        has_forces=mask.repeat_interleave(torch.tensor(SIZES)),
        stress=draw(3, 3, 3),
        has_stress=mask,
        weights=torch.ones(3),
        n_atoms=torch.tensor(SIZES),
    )
    return prediction, labels


def compute_expected(batches):
    """MAE and RMSE by numpy, over all that is labelled."""
    errors = {"energy": [], "forces": [], "stress": []}
    for prediction, labels in batches:
        energy = (prediction.energy - labels.energy) / labels.n_atoms
        errors["energy"].append(energy[labels.has_energy].flatten())
        for name in ("forces", "stress"):
            difference = getattr(prediction, name) - getattr(labels, name)
            errors[name].append(difference[getattr(labels, f"has_{name}")].flatten())
    expected = {}
    for name, parts in errors.items():
        values = np.concatenate(parts)
        expected[f"{name}_mae"] = np.abs(values).mean()
        expected[f"{name}_rmse"] = np.sqrt((values**2).mean())
    return expected


def test_errors_are_those_of_numpy():
    batches = [build_batch(0), build_batch(1)]
    metrics = Metrics()
    for batch in batches:
        metrics.add(*batch)
    assert metrics.to_dict() == pytest.approx(compute_expected(batches), rel=1e-12)
    assert metrics.n_structures == 6
    forces = [p.forces - labels.forces for p, labels in batches]
    assert metrics.sums["forces"].largest == float(torch.cat(forces).abs().max())


def test_structures_without_a_label_do_not_count():
    batches = [build_batch(0, mask=[True, False, True]), build_batch(1)]
    # a label that is not there must not leak in, whatever stands in its place
    batches[0][1].energy[1] = math.nan
    batches[0][1].forces[3] = math.nan
    metrics = Metrics()
    for batch in batches:
        metrics.add(*batch)
    assert metrics.to_dict() == pytest.approx(compute_expected(batches), rel=1e-12)
    assert metrics.sums["energy"].count == 5
    assert metrics.sums["forces"].count == 3 * (7 + 8)


def test_what_was_not_predicted_or_labelled_is_left_out():
    metrics = Metrics()
    assert metrics.to_dict() == {}
    assert metrics.to_text() == "no labels to compare with"
    metrics.add(*build_batch(0, has_forces=False, mask=[False] * 3))
    assert metrics.to_dict() == {}
    metrics.add(*build_batch(0, has_forces=False, has_stress=False))
    assert set(metrics.to_dict()) == {"energy_mae", "energy_rmse"}
    assert math.isnan(metrics.sums["forces"].rmse)


def test_large_energies_keep_their_small_errors():
    prediction, labels = build_batch(0)
    prediction = prediction._replace(energy=labels.energy + 1e5 + 1e-6)
    labels = labels._replace(energy=labels.energy + 1e5)
    metrics = Metrics()
    metrics.add(prediction, labels)
    expected = np.mean([1e-6 / n for n in SIZES])
    # 1e5 eV in float64 are known to 1.5e-11 eV
    assert metrics.to_dict()["energy_mae"] == pytest.approx(expected, rel=1e-4)


def test_text_has_units():
    text = format_errors(
        {
            "energy_mae": 0.0012,
            "energy_rmse": 0.002,
            "forces_mae": 0.1,
            "forces_rmse": 1,
        }
    )
    assert text == (
        "energy MAE 1.20 RMSE 2.00 meV/atom; forces MAE 100.00 RMSE 1000.00 meV/Å"
    )

"""The loss against numbers worked out by hand."""

import pytest
import torch

from pet_calc.config import LossOptions, LossTerm
from pet_calc.data.dataset import LabelTotals
from pet_calc.data.systems import Labels
from pet_calc.model.derivatives import Prediction
from pet_calc.train.loss import compute_deviation, compute_loss

N_ATOMS = [2, 1]


def build_case():
    prediction = Prediction(
        energy=torch.tensor([3.0, 5.0], dtype=torch.float64),
        atomic_energies=torch.zeros(3, dtype=torch.float64),
        forces=torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 3.0]]),
        stress=torch.stack([torch.eye(3), torch.zeros(3, 3)]),
    )
    labels = Labels(
        energy=torch.tensor([1.0, 1.0], dtype=torch.float64),
        has_energy=torch.tensor([True, True]),
        forces=torch.zeros(3, 3),
        has_forces=torch.tensor([True, True, False]),
        stress=torch.zeros(2, 3, 3),
        has_stress=torch.tensor([True, False]),
        weights=torch.tensor([1.0, 1.0]),
        n_atoms=torch.tensor(N_ATOMS),
    )
    return prediction, labels, torch.tensor([4.0, 0.0])


def test_each_term_is_a_mean_over_what_is_labelled():
    parts = compute_loss(*build_case(), LossOptions())
    # ((3-1)/2)^2 = 1 and (5-1)^2 = 16
    assert float(parts.energy) == pytest.approx(8.5)
    # one component of six is 1; the third atom has no label
    assert float(parts.forces) == pytest.approx(1 / 6)
    # stress x volume / atoms = 1 x 4 / 2 on three of nine components
    assert float(parts.stress) == pytest.approx(4 * 3 / 9)
    assert float(parts.total) == pytest.approx(8.5 + 1 / 6 + 4 / 3)


def test_weights_of_terms_and_frames_scale():
    prediction, labels, volumes = build_case()
    labels = labels._replace(weights=torch.tensor([3.0, 1.0]))
    options = LossOptions(weight=10.0, forces=LossTerm(weight=0.0))
    parts = compute_loss(prediction, labels, volumes, options)
    assert float(parts.energy) == pytest.approx((3 * 1 + 16) / 4)
    assert float(parts.forces) == 0.0
    assert float(parts.total) == pytest.approx(10 * 19 / 4 + 4 / 3)


@pytest.mark.parametrize(
    ("kind", "expected"), [("mae", (1 + 4) / 2), ("huber", (0.5 + 3.5) / 2)]
)
def test_absolute_and_huber_penalties(kind, expected):
    options = LossOptions(type=kind, delta=1.0)
    assert float(compute_loss(*build_case(), options).energy) == pytest.approx(expected)


def test_absolute_errors_add_up_with_the_roots_of_the_weights():
    options = LossOptions(
        weight=9.0, forces=LossTerm(type="huber"), stress=LossTerm(weight=4.0)
    )
    totals = LabelTotals(energy=2.0, forces=2.0, stress=1.0)
    # per atom 1 and 4; one component of six is 1; three virials of nine are 2
    expected = 3 * 2.5 + 1 / 6 + 2 * (2 * 3 / 9)
    deviation = compute_deviation(*build_case(), totals, options)
    assert deviation == pytest.approx(expected)


def test_nothing_labelled_gives_zero_and_no_nan():
    prediction, labels, volumes = build_case()
    labels = labels._replace(
        has_energy=torch.tensor([False, False]),
        has_forces=torch.zeros(3, dtype=torch.bool),
        has_stress=torch.tensor([False, False]),
    )
    assert float(compute_loss(prediction, labels, volumes, LossOptions()).total) == 0.0

"""The fit finds what errors were drawn from."""

import math

import pytest
import torch

from pet_calc.errors import DataError
from pet_calc.evaluate.fit_uncertainty import (
    CovarianceSum,
    FrameFeatures,
    fit_uncertainty,
)

N_FEATURES = 12


def build_world(n_train=200, n_held_out=4000, *, noise=0.5, seed=0):
    """Features of two lengths, and errors of a ridge regression's true variance."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    widths = torch.logspace(0, -3, N_FEATURES, dtype=torch.float64)
    train, held_out = draw(n_train, N_FEATURES), draw(n_held_out, N_FEATURES)
    covariance = CovarianceSum(N_FEATURES)
    for part in (train * widths).split(50):
        covariance.add(part)
    features = held_out * widths
    inverse = torch.linalg.inv(covariance.matrix)
    sigma = noise * (features @ inverse * features).sum(dim=1).sqrt()
    return covariance, FrameFeatures(features, sigma * draw(n_held_out)), sigma


def test_the_scale_and_coverage_of_normal_errors_are_found():
    covariance, held_out, _ = build_world()
    fitted, calibration = fit_uncertainty(covariance, held_out)
    assert calibration.scale == pytest.approx(0.5, rel=0.05)
    # no more than what the smallest of the features leaves open
    assert calibration.ridge < 1e-4
    assert calibration.n_train == 200
    values = calibration.reliability
    assert values["within_one_sigma"] == pytest.approx(0.683, abs=0.02)
    assert values["within_two_sigma"] == pytest.approx(0.954, abs=0.01)
    assert fitted.multiplier == calibration.scale


def test_the_factor_is_that_of_the_covariance_with_its_ridge():
    covariance, held_out, _ = build_world()
    fitted, calibration = fit_uncertainty(covariance, held_out)
    ridge = calibration.ridge * covariance.matrix.diagonal().mean()
    expected = covariance.matrix + ridge * torch.eye(N_FEATURES)
    torch.testing.assert_close(fitted.cholesky @ fitted.cholesky.T, expected)
    torch.testing.assert_close(fitted.covariance, covariance.matrix)


def test_errors_that_know_nothing_of_small_features_want_a_ridge():
    covariance, held_out, _ = build_world()
    plain = 0.01 * torch.randn(
        4000, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    plain = plain * held_out.features.norm(dim=1)
    _, calibration = fit_uncertainty(covariance, held_out._replace(errors=plain))
    assert calibration.ridge >= 0.1


def test_the_ensemble_scatters_as_the_uncertainty_says():
    covariance, held_out, _ = build_world()
    fitted, calibration = fit_uncertainty(covariance, held_out, n_members=2000)
    features = held_out.features[:20]
    solved = torch.linalg.solve_triangular(fitted.cholesky, features.T, upper=False)
    expected = calibration.scale * solved.pow(2).sum(dim=0).sqrt()
    scatter = (features @ fitted.displacements.T).std(dim=1)
    # 2000 draws know a standard deviation to 1.6 %
    torch.testing.assert_close(scatter, expected, rtol=0.06, atol=0)


def test_the_seed_decides_the_ensemble_and_nothing_else():
    covariance, held_out, _ = build_world()
    one, again, other = (
        fit_uncertainty(covariance, held_out, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one.displacements, again.displacements)
    assert not torch.equal(one.displacements, other.displacements)
    assert torch.equal(one.cholesky, other.cholesky)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.random.get_rng_state()
        fit_uncertainty(covariance, held_out)
        assert torch.equal(torch.random.get_rng_state(), before)


def test_few_frames_are_warned_of(caplog):
    covariance, held_out, _ = build_world(n_held_out=8)
    fit_uncertainty(covariance, held_out, what="energy/pbe")
    assert "energy/pbe: calibrated on 8 frames only" in caplog.text
    assert "25 %" in caplog.text


def test_without_frames_there_is_nothing_to_fit():
    covariance, held_out, _ = build_world(n_held_out=0)
    with pytest.raises(DataError, match="got 200 and 0"):
        fit_uncertainty(covariance, held_out)
    _, held_out, _ = build_world()
    with pytest.raises(DataError, match="got 0 and 4000"):
        fit_uncertainty(CovarianceSum(N_FEATURES), held_out)


def test_errors_of_zero_give_an_uncertainty_of_zero():
    covariance, held_out, _ = build_world()
    exact = held_out._replace(errors=torch.zeros(4000, dtype=torch.float64))
    _, calibration = fit_uncertainty(covariance, exact)
    assert calibration.scale == 0.0
    assert math.isfinite(calibration.ridge)

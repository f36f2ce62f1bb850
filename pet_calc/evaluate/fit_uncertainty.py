"""Make a model's uncertainty: one pass over its training set, one over held-out frames.

The covariance of the features comes from the training set. Its ridge is chosen on the
held-out frames from a grid, by the Gaussian likelihood of their errors with the scale
that fits them best; see ``pet_calc.model.uncertainty``.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pet_calc.checkpoint.uncertainty import FittedUncertainty
from pet_calc.data.systems import Labels
from pet_calc.errors import DataError
from pet_calc.evaluate.reliability import Reliability, format_reliability
from pet_calc.model.batch import Batch
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import sum_over_systems

logger = logging.getLogger(__name__)

N_MEMBERS = 16
# relative to the mean eigenvalue of the covariance. Features of float32 are noise below
RIDGES = tuple(10.0 ** (0.5 * k) for k in range(-16, 3))
# a scale from fewer frames is known to worse than a sixth
FEWEST_FRAMES = 20


class FrameFeatures(NamedTuple):
    """Frames as the fit sees them; on the CPU, in float64."""

    features: Tensor
    """[n_frames, n_features], means over the atoms."""
    errors: Tensor
    """[n_frames] in eV/atom, prediction minus label."""


@dataclass(frozen=True)
class Calibration:
    """How an uncertainty was fitted, and how well it fits."""

    n_train: int
    """Frames of the covariance."""
    scale: float
    """eV."""
    ridge: float
    """Relative to the mean eigenvalue of the covariance."""
    n_members: int
    """Of the ensemble."""
    reliability: dict[str, Any]
    """Of the held-out frames that it was calibrated on, as ``Reliability.to_dict``."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(vars(self))

    def to_text(self) -> str:
        """Return two lines."""
        return format_reliability(self.reliability)


class CovarianceSum:
    """Sums up the features of a training set, frame by frame."""

    def __init__(self, n_features: int) -> None:
        self.matrix = torch.zeros((n_features, n_features), dtype=torch.float64)
        self.count = 0.0

    def add(self, features: Tensor, weight: float = 1.0) -> None:
        """Add frames.

        Args:
            features: [n_frames, n_features], means over the atoms.
            weight: of each, as a number of frames.
        """
        self.matrix += weight * (features.T @ features)
        self.count += weight * len(features)


def measure_features(
    model: PET, batch: Batch, labels: Labels, target: str, *, is_labelled: bool
) -> FrameFeatures:
    """Return the features and errors of the frames of a batch that count.

    Args:
        model: LoRA merged, on the device of the batch.
        batch: the systems.
        labels: theirs; frames of weight 0 do not count.
        target: name of an energy target.
        is_labelled: leave out frames without an energy, which have no error.
    """
    with torch.no_grad():
        vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
        values, features = model.evaluate_with_features(
            batch, vectors, [target], [target]
        )
        energies = values[target].to(torch.float64) + model.composition(batch, target)
        both = torch.cat([features[target].to(torch.float64), energies], dim=1)
        means = sum_over_systems(both, batch) / labels.n_atoms.unsqueeze(1)
        errors = means[:, -1] - labels.energy / labels.n_atoms
        chosen = labels.has_energy if is_labelled else labels.weights > 0
    return FrameFeatures(means[chosen, :-1].cpu(), errors[chosen].cpu())


def fit_uncertainty(
    covariance: CovarianceSum,
    held_out: FrameFeatures,
    *,
    n_members: int = N_MEMBERS,
    seed: int = 0,
    what: str = "the model",
) -> tuple[FittedUncertainty, Calibration]:
    """Return the uncertainty that suits the errors of held-out frames best.

    Args:
        covariance: of the training set.
        held_out: frames that were not trained on.
        n_members: of the ensemble that is drawn.
        seed: of the draws.
        what: whose uncertainty it is, for messages.

    Raises:
        DataError: if there are no frames to fit or to calibrate with.
    """
    n_frames = len(held_out.errors)
    matrix = 0.5 * (covariance.matrix + covariance.matrix.T)
    mean = float(matrix.diagonal().mean())
    if not n_frames or not (math.isfinite(mean) and mean > 0):
        raise DataError(
            f"uncertainty of {what}: expected training frames and validation frames "
            f"with energies, got {covariance.count:.0f} and {n_frames}"
        )
    if n_frames < FEWEST_FRAMES:
        logger.warning(
            "uncertainty of %s: calibrated on %d frames only, which know its scale to "
            "%.0f %%",
            what,
            n_frames,
            100 / math.sqrt(2 * n_frames),
        )
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0.0)
    squares = (held_out.features @ vectors).pow(2)
    best = (math.inf, 0.0, 0.0)
    for ridge in RIDGES:
        variances = (squares / (values + ridge * mean)).sum(dim=1)
        scale2 = float((held_out.errors.pow(2) / variances).mean())
        # of errors that are all zero the likelihood has no bound
        score = float(variances.log().mean()) + math.log(max(scale2, 1e-300))
        if score < best[0]:
            best = (score, ridge, math.sqrt(scale2))
    _, ridge, scale = best
    identity = torch.eye(len(matrix), dtype=torch.float64)
    factor = torch.linalg.cholesky(matrix + ridge * mean * identity)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        (len(matrix), n_members), generator=generator, dtype=torch.float64
    )
    draws = torch.linalg.solve_triangular(factor.T, noise, upper=True)
    fitted = FittedUncertainty(matrix, factor, scale, scale * draws.T)
    solved = torch.linalg.solve_triangular(factor, held_out.features.T, upper=False)
    reliability = Reliability()
    reliability.add(
        held_out.errors.numpy(), (scale * solved.pow(2).sum(dim=0).sqrt()).numpy()
    )
    calibration = Calibration(
        round(covariance.count), scale, ridge, n_members, reliability.to_dict()
    )
    return fitted, calibration

"""The uncertainty of a run's best model, from the frames that the run trained on."""

import logging
from collections.abc import Iterator

import torch

from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.checkpoint.uncertainty import count_features, set_uncertainty
from pet_calc.data.loader import BatchLoader, MicroBatch
from pet_calc.evaluate.fit_uncertainty import (
    Calibration,
    CovarianceSum,
    FrameFeatures,
    fit_uncertainty,
    measure_features,
)
from pet_calc.model.pet import PET
from pet_calc.train.memory import describe_frame
from pet_calc.train.objective import EnergyObjective, TrainedSet
from pet_calc.train.step_runner import StepRunner

logger = logging.getLogger(__name__)


def add_uncertainties(
    best: Checkpoint, runner: StepRunner, validation: BatchLoader, seed: int
) -> dict[str, Calibration]:
    """Fit the uncertainty of every energy of a run and put it into the best model.

    All processes of the run take part, and get the same.

    Args:
        best: changed in place.
        runner: has the frames that were trained on, replayed ones included.
        validation: frames on which it is calibrated.
        seed: of the draws of the ensemble.

    Returns:
        How each was fitted, by target.
    """
    weight = runner.model.edge_embedder.weight
    model = load_merged_model(best, dtype=weight.dtype, device=weight.device)
    calibrations = {}
    for objective in runner.training.objectives:
        if not isinstance(objective, EnergyObjective):
            continue
        target = objective.name
        sets = [runner.training, *runner.replayed]
        covariance = _sum_covariance(model, sets, target, count_features(best), runner)
        held_out = _measure(model, validation, target, runner)
        fitted, calibration = fit_uncertainty(
            covariance, held_out, seed=seed, what=target
        )
        set_uncertainty(best, model, target, fitted)
        calibrations[target] = calibration
    return calibrations


def _sum_covariance(
    model: PET,
    sets: list[TrainedSet],
    target: str,
    n_features: int,
    runner: StepRunner,
) -> CovarianceSum:
    """Return the covariance over the frames of which some objective learns a target."""
    own = CovarianceSum(n_features)
    for trained in sets:
        # those of direct heads have no energy to be uncertain of
        if not any(
            isinstance(objective, EnergyObjective) and objective.name == target
            for objective in trained.objectives
        ):
            continue
        for part, found in _iterate(
            model, trained.loader, target, runner, is_labelled=False
        ):
            # where each frame is there in two orientations, both count half
            n_copies = 1 if part.turns is None else 2
            own.add(found.features, 1 / n_copies)
    own.matrix = runner.ranks.sum_tensor(own.matrix, runner.device)
    (own.count,) = runner.ranks.sum([own.count], runner.device)
    return own


def _measure(
    model: PET, loader: BatchLoader, target: str, runner: StepRunner
) -> FrameFeatures:
    """Return features and errors of the validation frames of a target."""
    width = 2 * model.hypers.num_readout_layers * model.hypers.d_head
    rows = [torch.zeros((0, width + 1), dtype=torch.float64)]
    for _, found in _iterate(model, loader, target, runner, is_labelled=True):
        rows.append(torch.cat([found.features, found.errors.unsqueeze(1)], dim=1))
    together = torch.cat(runner.ranks.collect(torch.cat(rows)))
    return FrameFeatures(together[:, :-1], together[:, -1])


def _iterate(
    model: PET,
    loader: BatchLoader,
    target: str,
    runner: StepRunner,
    *,
    is_labelled: bool,
) -> Iterator[tuple[MicroBatch, FrameFeatures]]:
    """Yield this process's frames of a target, as they stand in the first epoch."""

    def compute(part: MicroBatch) -> tuple[MicroBatch, FrameFeatures] | None:
        if target not in part.labels:
            return None
        labels = part.labels[target]
        found = measure_features(
            model, part.batch, labels, target, is_labelled=is_labelled
        )
        return part, found

    name_frame = describe_frame(loader.dataset)
    for step in loader.iterate_steps(0):
        for result in runner.bound.run(step, compute, name_frame):
            if result is not None:
                yield result

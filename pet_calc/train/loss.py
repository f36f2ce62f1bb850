"""The training loss, of energy per atom, forces and virial per atom, and its parts."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pet_calc.config import LossOptions, LossTerm
from pet_calc.data.dataset import LabelTotals
from pet_calc.data.loader import MicroBatch
from pet_calc.data.orientation import turn_rows, turn_tensors
from pet_calc.data.systems import Labels
from pet_calc.model.derivatives import Prediction


class LossParts(NamedTuple):
    """The loss and what it is made of, each before its weight."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor


def compute_loss(
    prediction: Prediction, labels: Labels, volumes: Tensor, options: LossOptions
) -> LossParts:
    """Return the weighted sum of the mean energy, force and stress penalties.

    Energies enter per atom, forces per component, stress as virial per atom (stress x
    volume / atoms), so that all three are of one order and weights near 1 make sense.
    What has no label counts neither above nor below the line.

    Args:
        prediction: with the graph attached; energies without composition.
        labels: of the same batch; energies without composition.
        volumes: [n_systems] in Å^3, zero without a cell.
        options: weight, kind of penalty and Huber threshold of each term.
    """
    n_atoms = labels.n_atoms.to(torch.float64)
    energy = forces = stress = prediction.energy.new_zeros(())
    if options.value.weight > 0:
        difference = (prediction.energy - labels.energy) / n_atoms
        kept = labels.has_energy
        energy = _mean_penalty(difference[kept], labels.weights[kept], options.value)
    if options.forces.weight > 0 and prediction.forces is not None:
        difference = prediction.forces - labels.forces
        weights = labels.weights.repeat_interleave(labels.n_atoms)
        kept = labels.has_forces
        forces = _mean_penalty(difference[kept], weights[kept], options.forces)
    if options.stress.weight > 0 and prediction.stress is not None:
        scale = (volumes.to(torch.float64) / n_atoms).view(-1, 1, 1)
        difference = (prediction.stress - labels.stress) * scale
        kept = labels.has_stress
        stress = _mean_penalty(difference[kept], labels.weights[kept], options.stress)
    total = (
        options.value.weight * energy
        + options.forces.weight * forces
        + options.stress.weight * stress
    )
    return LossParts(total, energy, forces, stress)


def compute_share(
    parts: LossParts, labels: Labels, totals: LabelTotals, options: LossOptions
) -> Tensor:
    """Return a part's summand of the loss of its step.

    The summands of all parts, in all processes, add up to what ``compute_loss`` gives
    for the step as a whole: its means are over the labels of the step, not over those
    of the part.

    Args:
        parts: the part's own means.
        labels: of the part.
        totals: of the step.
        options: weights of the terms.
    """
    per_atom = labels.weights.repeat_interleave(labels.n_atoms)
    terms = (
        (parts.energy, labels.weights[labels.has_energy], totals.energy, options.value),
        (parts.forces, per_atom[labels.has_forces], totals.forces, options.forces),
        (
            parts.stress,
            labels.weights[labels.has_stress],
            totals.stress,
            options.stress,
        ),
    )
    share = parts.energy.new_zeros(())
    for mean, weights, total, term in terms:
        if total > 0 and term.weight > 0:
            share = share + term.weight * (weights.sum() / total) * mean
    return share


def compute_deviation(
    prediction: Prediction,
    labels: Labels,
    volumes: Tensor,
    totals: LabelTotals,
    options: LossOptions,
) -> float:
    """Return a part's summand of the weighted sum of mean absolute errors of its step.

    The terms are those of the loss, in eV and Å, with the roots of their weights, so
    that both weigh alike. A frame that is far off counts for less than in squares.

    Args:
        prediction: for the part.
        labels: of the part.
        volumes: [n_systems] in Å^3, zero without a cell.
        totals: of the step.
        options: of the loss.
    """
    absolute = options.to_absolute()
    parts = compute_loss(prediction, labels, volumes, absolute)
    return float(compute_share(parts, labels, totals, absolute))


def compute_consistency(
    prediction: Prediction,
    labels: Labels,
    part: MicroBatch,
    volumes: Tensor,
    totals: LabelTotals,
    options: LossOptions,
) -> Tensor:
    """Return how far predictions are from each other in two orientations, squared.

    It needs no labels. Terms and weights are those of the loss, each mean over the
    frames of the step; the parts of a step add up.

    Args:
        prediction: for ``part``, with the graph attached.
        labels: of the same target; their weights and sizes count.
        part: each frame twice, see ``MicroBatch.turns``.
        volumes: [n_systems] in Å^3, zero without a cell.
        totals: of the step, each frame twice.
        options: weights of the terms.
    """
    assert part.turns is not None
    back = part.turns.transpose(1, 2)
    n_atoms = labels.n_atoms[::2].to(torch.float64)
    weights = labels.weights[::2].to(torch.float64)
    squares = (_subtract_pairs(prediction.energy) / n_atoms).pow(2)
    loss = options.value.weight * (weights * squares).sum() / (0.5 * totals.frames)
    if prediction.forces is not None and options.forces.weight > 0:
        turned = turn_rows(prediction.forces, back, part.batch.system_of_atom)
        # frames have their atoms in the same order both times
        is_first = part.batch.system_of_atom % 2 == 0
        apart = (turned[is_first] - turned[~is_first]).to(torch.float64)
        per_atom = weights.repeat_interleave(labels.n_atoms[::2])
        mean = (per_atom * apart.pow(2).mean(dim=1)).sum() / (0.5 * totals.atoms)
        loss = loss + options.forces.weight * mean
    if prediction.stress is not None and options.stress.weight > 0:
        virials = turn_tensors(prediction.stress, back) * volumes.view(-1, 1, 1)
        apart = _subtract_pairs(virials) / n_atoms.view(-1, 1, 1)
        squares = apart.pow(2).mean(dim=(1, 2))
        mean = (weights * squares).sum() / (0.5 * totals.frames)
        loss = loss + options.stress.weight * mean
    return loss


def _subtract_pairs(values: Tensor) -> Tensor:
    """Return what neighbours in the first axis differ by, in float64."""
    values = values.to(torch.float64)
    return values[::2] - values[1::2]


def _mean_penalty(errors: Tensor, weights: Tensor, term: LossTerm) -> Tensor:
    """Return the weighted mean penalty; ``weights`` [n] go with the first axis."""
    if errors.shape[0] == 0:
        return errors.sum().to(torch.float64)
    if term.type == "mse":
        penalty = errors.pow(2)
    elif term.type == "mae":
        penalty = errors.abs()
    else:
        penalty = F.huber_loss(
            errors, torch.zeros_like(errors), reduction="none", delta=term.delta
        )
    penalty = penalty.reshape(penalty.shape[0], -1).mean(dim=1).to(torch.float64)
    weights = weights.to(torch.float64)
    return (penalty * weights).sum() / weights.sum().clamp_min(1e-30)

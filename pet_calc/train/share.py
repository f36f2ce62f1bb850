"""What a part of a step contributes to the step's loss."""

from torch import Tensor

from pet_calc.config import LossOptions
from pet_calc.data.dataset import LabelTotals
from pet_calc.data.graph import Labels
from pet_calc.train.loss import LossParts


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

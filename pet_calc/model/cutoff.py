"""Cutoff functions, and the radius that adapts to how crowded an atom is.

Both adaptive schemes count neighbours softly, with the bump function: atom i has
``n(r) = sum_j f(d_ij; r, w)`` of them within r. A term that grows like r^3 up to the
wanted number n at the largest cutoff R makes the answer unique and keeps lonely atoms
near R.
"""

import math

import torch
from torch import Tensor

from pet_calc.model import constants


def compute_bump_cutoff(distances: Tensor, cutoff: Tensor, width: float) -> Tensor:
    """Return the smooth step 0.5 (1 + tanh(cot(pi s))), s from 0 to 1 over the width.

    Args:
        distances: any shape, in Å.
        cutoff: broadcastable to ``distances``, Å.
        width: of the fade-out below the cutoff, Å.

    Returns:
        1 before the fade-out, 0 at the cutoff and beyond; infinitely differentiable.
    """
    s = ((distances - (cutoff - width)) / width).clamp(
        constants.BUMP_MARGIN, 1.0 - constants.BUMP_MARGIN
    )
    return 0.5 * (1.0 + torch.tanh(1.0 / torch.tan(math.pi * s)))


def compute_cosine_cutoff(distances: Tensor, cutoff: Tensor, width: float) -> Tensor:
    """Return half a cosine wave from 1 to 0 over the last ``width`` Å."""
    s = ((distances - (cutoff - width)) / width).clamp(0.0, 1.0)
    return 0.5 * (1.0 + torch.cos(math.pi * s))


def _count_with_slope(
    radii: Tensor,
    distances: Tensor,
    centers: Tensor,
    width: float,
    max_cutoff: float,
    n_wanted: float,
) -> tuple[Tensor, Tensor]:
    """Return n(r) + n (r/R)^3 per atom, and its derivative in r."""
    s = (distances - (radii.index_select(0, centers) - width)) / width
    is_fading = (s > 0.0) & (s < 1.0)
    angle = math.pi * s.clamp(constants.BUMP_MARGIN, 1.0 - constants.BUMP_MARGIN)
    sine = torch.sin(angle)
    step = torch.tanh(torch.cos(angle) / sine)
    count = torch.where(is_fading, 0.5 * (1.0 + step), (s <= 0.0).to(s.dtype))
    slope = (0.5 * math.pi / width) * (1.0 - step * step) / (sine * sine)
    slope = slope * is_fading.to(s.dtype)
    x = radii / max_cutoff
    counts = (n_wanted * x.pow(3)).index_add(0, centers, count)
    slopes = (3.0 * n_wanted / max_cutoff * x.pow(2)).index_add(0, centers, slope)
    return counts, slopes


def find_trial_radii(
    distances: Tensor,
    centers: Tensor,
    n_atoms: int,
    n_wanted: float,
    max_cutoff: float,
    width: float,
) -> Tensor:
    """Return the radius per atom at which the soft count plus r^3 term reaches n.

    The root is bracketed in [0, R] and found by Newton steps that fall back to
    halving; a Newton step that is not half as long as the one before it counts as
    stuck. ``refine_adaptive_radii`` makes the last step.

    metatrain stops after ten steps, converged or not. On the first 25 frames of each
    file of the public sets (19,089 atoms; cutoff 8 Å, 16 neighbours, float64) all have
    converged then at the published width of 1 Å. Narrower windows leave 3 atoms at
    0.5 Å, 14 at 0.25 Å and 108 at 0.1 Å (up to 0.3, 0.6 and 3.2 Å off): only for those
    do the two differ (``benchmarks/adaptive_radii.py``).

    Args:
        distances: [n_pairs] in Å, without gradient.
        centers: [n_pairs] int64.
        n_atoms: number of atoms, those without pairs included.
        n_wanted: neighbours wanted per atom.
        max_cutoff: R, Å.
        width: of the fade-out in the count, Å.

    Returns:
        [n_atoms] in Å, between 0 and R.
    """
    low = torch.zeros(n_atoms, dtype=distances.dtype, device=distances.device)
    high = torch.full_like(low, max_cutoff)
    radii = 0.5 * high
    last_step = high.clone()
    solved = constants.SOLVED_FLOAT32
    if distances.dtype == torch.float64:
        solved = constants.SOLVED_FLOAT64
    for k in range(constants.N_SOLVER_STEPS):
        counts, slopes = _count_with_slope(
            radii, distances, centers, width, max_cutoff, n_wanted
        )
        excess = counts - n_wanted
        is_below = excess <= 0.0
        low = torch.where(is_below, radii, low)
        high = torch.where(is_below, high, radii)
        newton = radii - excess / slopes.clamp_min(constants.MIN_SLOPE)
        is_good = (newton >= low) & (newton <= high)
        is_solved = is_good & ((newton - radii).abs() <= solved * max_cutoff)
        if k >= constants.N_FREE_SOLVER_STEPS:
            is_good = is_good & ((newton - radii).abs() <= 0.5 * last_step)
        following = torch.where(is_good | is_solved, newton, 0.5 * (low + high))
        last_step = (following - radii).abs()
        radii = following
        if bool((is_solved | (high - low <= solved * max_cutoff)).all()):
            break
    return radii


def refine_adaptive_radii(
    trial_radii: Tensor,
    distances: Tensor,
    centers: Tensor,
    n_wanted: float,
    max_cutoff: float,
    width: float,
) -> Tensor:
    """Return the adaptive radii, with their gradient in the distances.

    The gradient comes from the implicit function theorem: one step
    r - (count - n)/slope, in which only the count depends on the distances.

    Args:
        trial_radii: [n_atoms] from ``find_trial_radii`` with the same arguments.
        distances: [n_pairs] in Å; may carry a gradient.
        centers: [n_pairs] int64.
        n_wanted: neighbours wanted per atom.
        max_cutoff: R, Å.
        width: of the fade-out in the count, Å.

    Returns:
        [n_atoms] in Å, between R/16 and R.
    """
    _, slopes = _count_with_slope(
        trial_radii, distances.detach(), centers, width, max_cutoff, n_wanted
    )
    cutoffs = trial_radii.index_select(0, centers)
    counts = (n_wanted * (trial_radii / max_cutoff).pow(3)).index_add(
        0, centers, compute_bump_cutoff(distances, cutoffs, width)
    )
    radii = trial_radii - (counts - n_wanted) / slopes.clamp_min(constants.MIN_SLOPE)
    return radii.clamp(max_cutoff * constants.MIN_ADAPTIVE_FRACTION, max_cutoff)


def average_adaptive_radii(
    distances: Tensor,
    centers: Tensor,
    n_atoms: int,
    n_wanted: float,
    max_cutoff: float,
    width: float,
) -> Tensor:
    """Return the radius per atom as a weighted mean over a grid of trial radii.

    The older scheme, kept for the checkpoints trained with it. A trial radius weighs
    exp(-(excess/slope)^2 / 2), where excess is the soft count plus n x^3 (x from 0 to
    1 along the grid) minus n, and slope its finite difference along the grid.

    Args as in ``find_trial_radii``, except that the distances may carry a gradient;
    returns as in ``refine_adaptive_radii``.
    """
    trials = torch.arange(
        constants.GRID_START,
        max_cutoff,
        width / constants.GRID_STEPS_PER_WIDTH,
        dtype=distances.dtype,
        device=distances.device,
    )
    n_trials = trials.shape[0]
    inside = compute_bump_cutoff(distances.unsqueeze(1), trials.unsqueeze(0), width)
    counts = torch.zeros(
        (n_atoms, n_trials), dtype=distances.dtype, device=distances.device
    ).index_add(0, centers, inside)
    x = torch.linspace(0, 1, n_trials, dtype=distances.dtype, device=distances.device)
    excess = counts - n_wanted + n_wanted * x.pow(3).unsqueeze(0)
    if n_trials == 1:
        slope = 0.5 * excess.abs() + constants.MIN_GRID_SLOPE
    else:
        first = excess[:, 1:2] - excess[:, :1]
        inner = 0.5 * (excess[:, 2:] - excess[:, :-2])
        last = excess[:, -1:] - excess[:, -2:-1]
        slope = (
            torch.cat([first, inner, last], dim=1)
            .abs()
            .clamp_min(constants.MIN_GRID_SLOPE)
        )
    # softmax: the same weights whatever constant is subtracted, and no underflow
    weights = torch.softmax(-0.5 * (excess / slope).pow(2), dim=1)
    return weights @ trials

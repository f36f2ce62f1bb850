"""Defaults that depend on the method and on the size of the model."""

from math import ceil, sqrt
from typing import Literal

Method = Literal["scratch", "full", "heads", "lora"]

# PET of 3 million parameters (the default shape) trains well at 3e-4 with Adam, a
# batch of 16 and a cosine schedule.
_REFERENCE_RATE = 3e-4
_REFERENCE_SIZE = 3e6
# the bundled bases, on which most of LoRA's recipe was measured
_LORA_SIZE = 441_474
_LEAST_STEPS = 3000


def default_learning_rate(method: Method, n_parameters: int) -> float:
    """Return the peak learning rate for Adam.

    The step that a network bears falls as one over its width, that is as one over the
    square root of its parameter count (arXiv:2203.03466), from 1e-3 for small models
    to 1e-4 for large ones. Heads take that too. All weights of a trained base take 0.3
    of it: at 0.1 and at the whole errors are larger in the mean
    (`benchmarks/recipe.py targets`).

    Low-rank layers take twice as much on the bundled bases: over eight sets a third of
    that has errors 4 % (forces) and 6 % larger, three times about the same, but that
    four of the sets begin again at half. Their rate falls as the fourth root of the
    parameter count: with the square root, twice the rate was 5 to 6 % better (forces)
    on bases of 1 and 4 million parameters (`benchmarks/recipe.py rate`, three seeds,
    and `size`, seed 0).

    Args:
        method: What is trained.
        n_parameters: Parameters of the whole model, frozen ones included.
    """
    if method == "lora":
        bundled = 2.0 * default_learning_rate("heads", _LORA_SIZE)
        return min(bundled * (_LORA_SIZE / max(n_parameters, 1)) ** 0.25, 2e-3)
    rate = _REFERENCE_RATE * sqrt(_REFERENCE_SIZE / max(n_parameters, 1))
    rate = min(max(rate, 1e-4), 1e-3)
    return 0.3 * rate if method == "full" else rate


def default_alpha(rank: int) -> float:
    """Return the alpha of LoRA: 16 at rank 8, and as the square root of the rank.

    So corrections are multiplied by 5.7 / sqrt(rank), which keeps the size of a step
    (arXiv:2312.03732), and one rate serves all ranks: over eight sets errors of rank 16
    and 32 are 2 % below those of rank 8 in the mean (`benchmarks/recipe.py stabilized`,
    three seeds). With twice the rank as alpha rank 32 begins again on carbon, and ends
    with forces that are 78 % worse (`rank`, seed 0).
    """
    return round(16.0 * sqrt(rank / 8), 1)


def default_ema_decay(n_steps: int) -> float:
    """Return the decay per step that averages over the last twentieth of a run.

    Averaged weights jump less from epoch to epoch. Li3PS4, LoRA, 600 steps, together
    with the faster B of LoRA+: validation force MAE 326 instead of 335 meV/A, energy 43
    instead of 54 meV/atom. Runs too short to average over get 0, which is none.
    """
    decay = 1.0 - 20.0 / max(n_steps, 1)
    return min(decay, 0.999) if decay > 0.5 else 0.0


def default_adam_beta2(method: Method) -> float:
    """Return the decay per step of Adam's mean of squared gradients.

    LoRA's B is zero at first, and so is the gradient of A: a mean over 1,000 steps,
    more than many runs have, trails what comes then, and a gradient that jumps makes a
    step of three rates. Over 20 it makes one of half a rate. That has forces 2 % and
    energies 3 % lower over eight sets; over 10, forces are 4 % lower, but at the
    default rate runs on two sets of eleven begin again (`benchmarks/recipe.py beta2`).
    All weights gain less, and keep what Adam has elsewhere.
    """
    return 0.95 if method == "lora" else 0.999


def default_energy_weight(method: Method) -> float:
    """Return the weight of the energy per atom in the loss, beside forces at 1.

    A new network has to learn forces first, and a heavy energy keeps it from that. A
    base knows them: there 10 lowers the energy error at little cost, less still where
    the weight rises to it (``energy_warmup``). Li3PS4, LoRA, 600 steps, 10 from the
    start: 33 instead of 43 meV/atom, forces 267 instead of 245 meV/A.
    """
    return 1.0 if method == "scratch" else 10.0


def default_num_epochs(
    method: Method, steps_per_epoch: int = 1, *, is_paired: bool = False
) -> int:
    """Return how often the training set is passed over: often from scratch, else less.

    A base already knows most of it. Few frames make few steps in 200 passes, too few to
    learn them: 50 frames of acetylacetone, LoRA, have test errors of 32.4 meV/Å and
    0.95 meV/atom after 1,200 steps, 29.2 and 0.70 after 3,000 (`benchmarks/recipe.py
    --length`). The best epoch is kept: too many passes cost only time.

    Args:
        method: What is trained.
        steps_per_epoch: Steps in one pass.
        is_paired: Whether a pass shows each frame twice.
    """
    n_epochs = 1000 if method == "scratch" else 200
    if is_paired:
        n_epochs //= 2
    return max(n_epochs, ceil(_LEAST_STEPS / max(steps_per_epoch, 1)))

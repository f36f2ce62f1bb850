"""Find a run that diverges while there is nothing to lose, and let it begin again.

A rate that is too high shows against the loss before the first step. Rates that are
high but good overshoot as well: LoRA of rank 8 at twice its default rate reaches 3
times that loss on aspirin, falls below it within 20 steps and ends ahead of the
default. Rank 32 at twice its rate reaches 70 times and never comes back.

The rate rises slowly, so that many a run is ahead of the base before its rate is too
high for it, and then loses what it had. Of 282 runs at all rates (benchmarks/recipe.py,
finetune_table.py) the 13 whose losses, of both sets, rose for some time, that of
validation to 1.8 times its lowest or more, ended 10 to 330 % behind the best in forces
(1.9 to 5,400 times at most); the highest of the others, 1.77, was of a run with replay.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.train.task import RunState

# each at half the rate of the one before
MOST_RESTARTS = 4
# times the loss before the first step: hopeless at once, and bad if it lasts
_HOPELESS, _BAD = 10.0, 1.5
# times the lowest loss so far: lost again, if it lasts for so many steps, or this part
# of the run
_LOST, _LAST_STEPS, _LAST_PART = 1.8, 20, 0.05
# an overshoot is over after so many steps, and a mean over them has little noise
_ENOUGH_STEPS = 50
# about 10 meV/Å: a base that is exact for the data loses that much by any training
_LEAST_LOSS = 1e-4


class DivergedError(Exception):
    """Training went the wrong way from its start; the text says how it showed."""


class StartWatch:
    """Holds what a run began with until it is on its way.

    That is when half of the steps are taken and an epoch's loss is below that of the
    start. The rate has fallen from its highest by then, and much would be lost.
    """

    def __init__(self, model: nn.Module, n_steps: int) -> None:
        """Keep the trainable weights as they are.

        Args:
            model: before its first step.
            n_steps: of the whole run.
        """
        self._n_steps = n_steps
        # on the CPU: the device may be full
        self._start: dict[str, Tensor] | None = {
            name: parameter.detach().cpu().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._first_loss = 0.0
        self._recent_sum = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run is on its way."""
        return self._start is None

    def judge_step(self, state: RunState, loss: float, zero: float) -> str:
        """Return how it shows that the run diverges, empty if it does not.

        Args:
            state: after the step.
            loss: of the step.
            zero: validation loss before the first step.
        """
        if self.is_over:
            return ""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if state.step == 1:
            # replay adds to this one, and not to that of validation
            self._first_loss, self._recent_sum = loss, 0.0
        self._recent_sum += loss
        if state.step % _ENOUGH_STEPS:
            return ""
        mean, self._recent_sum = self._recent_sum / _ENOUGH_STEPS, 0.0
        ratio = mean / max(zero, self._first_loss, _LEAST_LOSS)
        if ratio <= _HOPELESS:
            return ""
        return f"the training loss is {ratio:.3g} times that before the first step"

    def judge_epoch(self, state: RunState, *, is_last: bool) -> str:
        """Return how it shows that the run diverges, empty if it does not.

        Args:
            state: after the epoch, with its losses.
            is_last: whether the run would end with this epoch.
        """
        if self.is_over:
            return ""
        zero, loss = state.losses[0], state.losses[-1]
        if loss < zero:
            if state.step < self._n_steps // 2:
                return self._describe_loss_of_progress(state)
            self._start = None
            return ""
        ratio = loss / max(zero, _LEAST_LOSS)
        limit = _HOPELESS
        if len(state.restarts) < MOST_RESTARTS and (
            is_last or state.step >= _ENOUGH_STEPS
        ):
            limit = _BAD
        # not: more than the limit, which NaN never is
        if ratio <= limit:
            return ""
        return f"the validation loss is {ratio:.3g} times that before the first step"

    def _describe_loss_of_progress(self, state: RunState) -> str:
        """Return for how long losses have been above what they were, empty if not."""
        n_steps = max(_LAST_STEPS, _LAST_PART * self._n_steps)
        n_epochs = math.ceil(n_steps * state.epoch / state.step)
        lowest, recent = _compare(state.losses, n_epochs)
        lowest_trained, recent_trained = _compare(state.train_losses, n_epochs)
        # overfitted, that of training falls
        if recent_trained <= lowest_trained or recent <= _LOST * lowest:
            return ""
        return (
            f"the validation loss has been {recent / lowest:.3g} times its lowest, or "
            f"more, for {n_epochs} epochs"
        )

    def put_back(self, model: nn.Module) -> None:
        """Give the model the weights that it began with, in place."""
        assert self._start is not None
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self._start.items():
                parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Any] | None:
        """Return what ``load_state_dict`` takes back, None once it is over."""
        if self._start is None:
            return None
        return {
            "start": self._start,
            "first_loss": self._first_loss,
            "recent_sum": self._recent_sum,
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take up a saved watch; None is one that is over."""
        self._start = None if state is None else dict(state["start"])
        if state is not None:
            self._first_loss = float(state["first_loss"])
            self._recent_sum = float(state["recent_sum"])


def describe_restarts(restarts: list[dict[str, Any]]) -> str:
    """Return at which rates a run diverged, such as ``diverged at 0.01, 0.005``."""
    rates = ", ".join(f"{each['learning_rate']:.2g}" for each in restarts)
    return f"diverged at learning rate {rates}"


def describe_late_divergence(losses: Sequence[float]) -> str:
    """Return how much higher than at its start a run ended, empty if it did not.

    Args:
        losses: of the validation set, before the first step and by epoch.
    """
    if len(losses) < 2:
        return ""
    ratio = losses[-1] / max(losses[0], _LEAST_LOSS)
    if ratio <= _BAD:
        return ""
    return (
        f"training diverged on the way: the validation loss of the last epoch is "
        f"{ratio:.3g} times that before the first step; lower the learning rate (--lr)"
    )


def _compare(losses: Sequence[float], n_last: int) -> tuple[float, float]:
    """Return the lowest of all but the last losses, infinite without, and of these."""
    earlier, last = losses[:-n_last], losses[-n_last:]
    return min(earlier, default=math.inf), min(last, default=math.inf)

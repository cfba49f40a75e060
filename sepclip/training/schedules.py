"""Optimizers and learning-rate schedules by name.

To add one: a line in ``OPTIMIZERS``, or a branch of ``Schedule.rate``.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from sepclip.config.schema import Optimizer as Settings

_LEAST_FALL = 1e-4  # share of the best loss by which a loss must be lower, as in torch's ReduceLROnPlateau


def _adam(kind: type[Adam]) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters, s: kind(
        parameters, lr=s.learning_rate, eps=s.epsilon, weight_decay=s.weight_decay, fused=True
    )


# each gets the parameters and the section ``optimizer``; keys that it does not use are ignored
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": _adam(Adam),
    "adamw": _adam(AdamW),
    "sgd": lambda parameters, s: SGD(
        parameters, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay, fused=True
    ),
}


def build_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer of the section ``optimizer``; it is fused, which updates all parameters in one pass."""
    return OPTIMIZERS[settings.name](parameters, settings)


class Schedule:
    """The learning rate of each step: ``learning_rate`` times a warm-up factor times the factor of the ``schedule``.

    Warm-up: k / W for step k (from 1) of the first W. ``hold``: 1, then (S - k) / F for the step after k of S steps, in
    the last F = S // 5 of them. ``cosine``: (1 + cos(pi t)) / 2, in which t rises from 0 after
    the warm-up to 1 at the last of ``steps``. ``plateau``: halved whenever more than ``patience`` validations in a row
    had no lower loss; lower means by at least 1e-4 of the best one, for losses below zero too.
    """

    def __init__(self, settings: Settings, steps: int):
        self._settings, self._steps = settings, steps
        # all that a checkpoint needs: without them the rate is a function of the step number
        self.halvings, self.best_loss, self.worse = 0, math.inf, 0

    @property
    def held_steps(self) -> int:
        """The number of steps before the rate of ``hold`` begins to fall; all steps with the other schedules."""
        return self._steps - self._steps // 5 if self._settings.schedule == "hold" else self._steps

    def rate(self, step: int) -> float:
        """Return the learning rate of the step after ``step`` steps."""
        settings, warmup = self._settings, self._settings.warmup_steps
        # step counts from 0 and the warm-up from 1, so that the first step has a rate above zero
        rate = settings.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)
        # no restarts (Loshchilov and Hutter 2017 with one period); a step beyond the last keeps the rate zero
        if settings.schedule == "cosine" and step > warmup:
            rate *= (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self._steps - warmup)))) / 2
        if self.held_steps <= step and settings.schedule == "hold":
            rate *= max(0, self._steps - step) / max(1, self._steps - self.held_steps)
        # from a counter, not by halving a stored rate: a resumed run computes the same bits
        return float(rate * 0.5**self.halvings)

    def note_validation(self, loss: float) -> None:
        """Take the loss of a validation into account; one that is not finite counts as worse."""
        if self._settings.schedule != "plateau":
            return
        # torch has best * (1 - 1e-4), which for a best loss below zero accepts slightly higher ones. inf - inf is NaN,
        # so the first validation needs a case of its own
        least = self.best_loss - _LEAST_FALL * abs(self.best_loss) if math.isfinite(self.best_loss) else math.inf
        if loss < least:  # NaN compares false, so it counts as worse
            self.best_loss, self.worse = loss, 0
        else:
            self.worse += 1
        if self.worse > self._settings.patience:
            self.halvings, self.worse = self.halvings + 1, 0  # patience starts again at the new rate

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must save."""
        return {"halvings": self.halvings, "best_loss": self.best_loss, "worse": self.worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.halvings, self.worse = int(state["halvings"]), int(state["worse"])
        self.best_loss = float(state["best_loss"])

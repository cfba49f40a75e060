"""Gradient clipping rules with one interface, AutoClip first of all. Copy this file into any training script.

    rule = parse("auto:10")
    ...
    loss.backward()
    step = rule(model.parameters())   # clips in place; under a GradScaler, after scaler.unscale_(optimizer)
    optimizer.step()

AutoClip (Seetharaman, Wichern, Pardo, Le Roux, MLSP 2020, Algorithm 1): the threshold of a step is the p-th percentile
of the norms of all gradients seen so far, the present one among them. So the first step is never clipped, nor is
one with the smallest norm yet, and ``auto:100`` never clips at all.

What is done differently from ``torch.nn.utils.clip_grad_norm_``: the factor is exactly 1 or threshold / norm, without
the 1e-6 that shrinks small gradients; and a norm that is not finite, or zero, enters no history: every ``grad``
becomes None, so that no optimizer moves, and the step is reported as skipped.
"""

import math
from array import array
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GRAMMAR = "none, norm:V (V > 0), auto:P (0 <= P <= 100)"


@dataclass(frozen=True)
class Step:
    """What a rule did to the gradients of one step."""

    norm: float
    """Norm of all gradients together, before clipping."""
    threshold: float
    """What the norm was held against; inf where nothing limits it."""
    factor: float
    """What the gradients were multiplied by; 0 where the step was skipped."""
    skipped: str = ""
    """Why the gradients were dropped, empty where they were not."""

    @property
    def clipped(self) -> bool:
        """Whether the gradients were made smaller."""
        return 0 < self.factor < 1


class TooManySkipped(RuntimeError):
    """So many steps in a row had no usable gradient that training cannot recover."""


class Rule:
    """No clipping, and the frame of all rules: measure once, decide, scale in place.

    ``most_skipped``: raise TooManySkipped after so many skipped steps in a row.
    """

    def __init__(self, most_skipped: int = 100):
        self.most_skipped = most_skipped
        self.steps = 0
        self.clipped = 0
        self.skipped = 0
        self.skipped_in_a_row = 0

    def __call__(self, parameters: Iterable[Tensor]) -> Step:
        """Clip the gradients of ``parameters`` in place. One synchronisation with the device."""
        owners = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
        norm = global_norm(gradients)
        self.steps += 1
        if not math.isfinite(norm) or norm == 0:
            return self._skip(owners, norm)
        self.skipped_in_a_row = 0
        threshold = self._threshold(norm)
        factor = 1.0 if norm <= threshold else threshold / norm
        if factor < 1:
            self.clipped += 1
            torch._foreach_mul_(gradients, factor)
        return Step(norm, threshold, factor)

    def _threshold(self, norm: float) -> float:
        """Return the threshold of this step; ``norm`` is finite and above 0."""
        return math.inf

    def _skip(self, owners: list[Tensor], norm: float) -> Step:
        for parameter in owners:
            parameter.grad = None
        self.skipped += 1
        self.skipped_in_a_row += 1
        reason = "gradient is zero" if norm == 0 else "gradient is not finite"
        if self.skipped_in_a_row >= self.most_skipped:
            raise TooManySkipped(f"{self.skipped_in_a_row} steps in a row were skipped: the last {reason}")
        return Step(norm, math.nan, 0.0, reason)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rule remembers, as numbers, strings and lists."""
        return {
            "rule": repr(self),
            "steps": self.steps,
            "clipped": self.clipped,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises ValueError where it is of another kind of rule."""
        kind, own = state["rule"].split(":")[0], repr(self).split(":")[0]
        if kind != own:
            raise ValueError(f"the state is of the rule {state['rule']!r}, this is {self!r}")
        self.steps, self.clipped = state["steps"], state["clipped"]
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]

    def __repr__(self) -> str:
        return "none"


class FixedNorm(Rule):
    """``norm:V``: one threshold for all steps."""

    def __init__(self, value: float, most_skipped: int = 100):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"norm:{value:g}: the threshold must be above 0 and finite")
        super().__init__(most_skipped)
        self.value = value

    def _threshold(self, norm: float) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"norm:{self.value:.15g}"


class AutoClip(Rule):
    """``auto:P``: the threshold is the P-th percentile of all norms so far, the present one included.

    The history is exact and costs 8 bytes a step; it is part of the state, for a run that is resumed without it
    is another run. P may differ between saving and loading.
    """

    def __init__(self, percentile: float, most_skipped: int = 100):
        if not 0 <= percentile <= 100:
            raise ValueError(f"auto:{percentile:g}: the percentile must lie from 0 to 100")
        super().__init__(most_skipped)
        self.percentile = percentile
        self._sorted = array("d")

    def _threshold(self, norm: float) -> float:
        insort(self._sorted, norm)
        return percentile_of_sorted(self._sorted, self.percentile)

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the norms so far, sorted."""
        return {**super().state_dict(), "history": self._sorted.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the counters and norms of ``state``."""
        super().load_state_dict(state)
        self._sorted = array("d", sorted(state["history"]))

    def __repr__(self) -> str:
        return f"auto:{self.percentile:.15g}"


def global_norm(gradients: list[Tensor]) -> float:
    """Return the 2-norm of all gradients together, summed over tensors in float64; 0 where there are none."""
    if not gradients:
        return 0.0
    # low-precision gradients are summed in float32, or their norm would be as coarse as they are
    norms = [
        norm
        for kind in {gradient.dtype for gradient in gradients}
        for norm in _norms([gradient for gradient in gradients if gradient.dtype == kind])
    ]
    return float(torch.linalg.vector_norm(torch.stack([norm.double() for norm in norms])))


def _norms(gradients: list[Tensor]) -> Iterable[Tensor]:
    if gradients[0].dtype in (torch.float32, torch.float64):
        return torch._foreach_norm(gradients)
    return (torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients)


def percentile_of_sorted(values: "array[float]", percentile: float) -> float:
    """Return the percentile of ascending ``values`` by linear interpolation, bit-equal to ``numpy.percentile``."""
    position = (percentile / 100) * (len(values) - 1)
    low = math.floor(position)
    share = position - low
    below, above = values[low], values[min(low + 1, len(values) - 1)]
    if share < 0.5:
        return below + (above - below) * share
    return above - (above - below) * (1 - share)


def _plain(_: str) -> Rule:
    return Rule()


RULES: dict[str, Callable[[str], Rule]] = {
    "none": _plain,
    "norm": lambda value: FixedNorm(float(value)),
    "auto": lambda value: AutoClip(float(value)),
}


def parse(text: str) -> Rule:
    """Make a rule from its name and value, such as ``"auto:10"``.

    Raises ValueError, which says what is allowed, for anything that is no rule.
    """
    name, colon, value = text.strip().partition(":")
    if name not in RULES or bool(colon) != (name != "none"):
        raise ValueError(f"{text!r} is no clipping rule: choose {GRAMMAR}")
    try:
        return RULES[name](value)
    except ValueError as error:
        raise ValueError(f"{text!r} is no clipping rule ({error}): choose {GRAMMAR}") from error

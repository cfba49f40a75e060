"""Adapters of the clipping rules for other training loops, and the functions that these share.

``optimizer``: any torch optimizer, through its step hook. ``lightning``: a callback. ``huggingface``: a mixin for the
Trainer. Each module imports its library only when it is imported itself. Accelerate needs no adapter, see
``examples/with_accelerate.py``.
"""

import copy
import warnings
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from sepclip.clip import Rule, Step, parse

Named = Iterable[tuple[str, Tensor]]


def as_rule(rule: Rule | str) -> Rule:
    """Return the rule of a text, or a copy of a rule, because two optimizers must not share one history."""
    return parse(rule) if isinstance(rule, str) else copy.deepcopy(rule)


def parameters_of(optimizer: Optimizer, names: dict[Tensor, str]) -> list[tuple[str, Tensor]]:
    """Return the optimizer's parameters with their names in the model. Raises ValueError if one has no name."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if unnamed := [tuple(parameter.shape) for parameter in parameters if parameter not in names]:
        raise ValueError(f"the optimizer has {len(unnamed)} tensors without a name, of shapes {unnamed[:3]}")
    return [(names[parameter], parameter) for parameter in parameters]


def warn_if_skipped(step: Step, before: Step | None, place: str) -> None:
    """Warn about a skipped step, but only about the first of several in a row."""
    if step.skipped and not (before and before.skipped):
        warnings.warn(f"{place} is skipped: {step.skipped}", RuntimeWarning, stacklevel=3)

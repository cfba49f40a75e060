"""Adapters of the clipping rules for other people's training loops, and what these share.

``optimizer``: any torch optimizer, by its step hook. ``lightning``: a callback. ``huggingface``: a mixin for the
Trainer. Each imports its library only when it is imported itself. For Accelerate the rule is enough as it is:
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
    """Return a fresh rule from its text, or a copy of a rule: no two optimizers may share one history."""
    return parse(rule) if isinstance(rule, str) else copy.deepcopy(rule)


def parameters_of(optimizer: Optimizer, names: dict[Tensor, str]) -> list[tuple[str, Tensor]]:
    """Return what the optimizer moves, with the names of the model. Raises ValueError where one has no name."""
    found = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if lost := [tuple(parameter.shape) for parameter in found if parameter not in names]:
        raise ValueError(f"the optimizer moves {len(lost)} tensors that have no name, of shapes {lost[:3]}")
    return [(names[parameter], parameter) for parameter in found]


def tell_skipped(step: Step, before: Step | None, where: str) -> None:
    """Warn about a skipped step, once where several follow on each other."""
    if step.skipped and not (before and before.skipped):
        warnings.warn(f"{where} is skipped: {step.skipped}", RuntimeWarning, stacklevel=3)

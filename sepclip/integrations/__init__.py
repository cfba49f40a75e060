"""Adapters of the clipping rules for other training loops, and the functions that these share.

``optimizer``: any torch optimizer, through its step hook. ``lightning``: a callback. ``huggingface``: a mixin for the
Trainer. Each module imports its library only when it is imported itself. Accelerate needs no adapter, see
``examples/with_accelerate.py``.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sepclip.clip import Rule, Step, parse

Named = Iterable[tuple[str, Tensor]]


def as_rule(rule: Rule | str) -> Rule:
    """Return the rule of a text, or a copy of a rule, because two optimizers must not share one history."""
    return parse(rule) if isinstance(rule, str) else copy.deepcopy(rule)


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups of the optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameters_of(optimizer: Optimizer, names: dict[Tensor, str], remedy: str) -> list[tuple[str, Tensor]]:
    """Return the optimizer's parameters with their names in the model.

    Raises ValueError, which ends with ``remedy``, if one has no name.
    """
    parameters = tensors_of(optimizer)
    if unnamed := [tuple(parameter.shape) for parameter in parameters if parameter not in names]:
        raise ValueError(f"the optimizer has {len(unnamed)} tensors without a name, of shapes {unnamed[:3]}: {remedy}")
    return [(names[parameter], parameter) for parameter in parameters]


def clip_gradients(rule: Rule, parameters: list[Any]) -> Step:
    """Clip the gradients of all parameters of an optimizer, with or without names, by ``rule``.

    Without any gradient the optimizer moves nothing. This is not a step of the rule, which would raise ValueError if
    it occurred repeatedly, as it does if an optimizer is used in some of the steps only.
    """
    tensors = [entry[1] if isinstance(entry, tuple) else entry for entry in parameters]
    if all(tensor.grad is None for tensor in tensors):
        return Step(0.0, math.nan, 0.0, "no parameter of the optimizer has a gradient")
    return rule(parameters)


def load_history(rule: Rule, state: Mapping[str, Any], remedy: str) -> None:
    """Restore ``rule``. Raises ValueError, which ends with ``remedy``, if the state is of another rule."""
    try:
        rule.load_state_dict(dict(state))
    except ValueError as error:
        raise ValueError(f"{error}; to start with a fresh history instead, {remedy}") from error


def warn_of_empty_history(rule: Rule, source: str) -> None:
    """Warn that ``source``, such as a checkpoint, has no history for ``rule``."""
    text = f"{source} has no history of a clipping rule: {rule!r} starts with an empty history"
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def warn_if_skipped(step: Step, before: Step | None, place: str) -> None:
    """Warn about a skipped step, but only about the first of several in a row."""
    if step.skipped and not (before and before.skipped):
        warnings.warn(f"{place} is skipped: {step.skipped}", RuntimeWarning, stacklevel=3)

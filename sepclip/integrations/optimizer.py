"""A rule that acts inside ``optimizer.step()``, so that the loop, its schedulers and its checkpoints stay as they are.

    clip = clip_before_step(optimizer, "auto:10", model.named_parameters())
    ...
    loss.backward()
    optimizer.step()                    # clips first; clip.last says what was done
    torch.save(optimizer.state_dict())  # the history is in it

With a GradScaler nothing changes: ``scaler.step(optimizer)`` unscales before the hook runs, and where it leaves that to
a fused optimizer, the hook does it. With accumulation the hook runs once an update, because it is the update.

Functions that rebuild an optimizer's state (torch.distributed.checkpoint, ``copy.deepcopy`` of the optimizer) drop what
is not theirs: save ``clip.rule.state_dict()`` beside it then. Loading such a state is warned about.
"""

import warnings
from typing import Any
from weakref import WeakSet

import torch
from torch.optim import Optimizer

from sepclip.clip import Rule, Step
from sepclip.integrations import Named, as_rule, parameters_of, tell_skipped

KEY = "sepclip"
"""Where the state of the rule lies in the optimizer's own state."""

_clipped: WeakSet[Optimizer] = WeakSet()


class OptimizerClip:
    """A rule attached to an optimizer; made by ``clip_before_step``."""

    def __init__(self, optimizer: Optimizer, rule: Rule, named_parameters: Named | None):
        self.optimizer = optimizer
        self.rule = rule
        self.last: Step | None = None
        """What the last step did; None before the first."""
        self._names = None if named_parameters is None else {tensor: name for name, tensor in named_parameters}
        self._arriving: dict[str, Any] | None = None
        self._parameters()  # an optimizer of strangers is refused now, not in the first step
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._before_load),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]
        _clipped.add(optimizer)

    def remove(self) -> None:
        """Take the rule off the optimizer."""
        for hook in self._hooks:
            hook.remove()
        _clipped.discard(self.optimizer)

    def _parameters(self) -> list[Any]:
        groups = self.optimizer.param_groups
        if self._names is not None:
            return list(parameters_of(self.optimizer, self._names))
        if all("param_names" in group for group in groups):  # made from named parameters (torch 2.6)
            return [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
        return [parameter for group in groups for parameter in group["params"]]

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(one) for one in (*args[1:], *kwargs.values())):
            raise TypeError(
                "step(closure) makes its gradients after this hook, so they cannot be clipped here (LBFGS, Lightning): "
                "step without a closure, or in Lightning use sepclip.integrations.lightning"
            )
        if "grad_scaler" in kwargs:  # an old protocol of GradScaler: step() alone knows the scale
            raise TypeError(f"{type(optimizer).__name__} unscales within its step(grad_scaler=...), after this hook")
        if not self._unscale():
            return
        before, self.last = self.last, self.rule(self._parameters())
        tell_skipped(self.last, before, f"optimizer step {self.rule.steps}")

    def _unscale(self) -> bool:
        """Undo the factor of a GradScaler that leaves this to a fused optimizer; False where it drops the step."""
        optimizer: Any = self.optimizer
        found = getattr(optimizer, "found_inf", None)
        if found is not None and float(found) > 0:
            return False  # the scaler's own affair: its steps with an overflow reach no unfused optimizer either
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            owners = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch._foreach_mul_([owner.grad for owner in owners if owner.grad is not None], 1 / float(scale))
            optimizer.grad_scale = None
        return True

    def _save(self, _: Optimizer, state: dict[str, Any]) -> None:
        state[KEY] = self.rule.state_dict()

    def _before_load(self, _: Optimizer, state: dict[str, Any]) -> None:
        self._arriving = state.get(KEY)
        if self._arriving is None:
            warnings.warn(
                f"the optimizer's state has no history of a clipping rule: {self.rule!r} starts afresh",
                RuntimeWarning,
                stacklevel=3,
            )

    def _load(self, _: Optimizer) -> None:
        # only now, so that a state that the optimizer refuses changes nothing
        if self._arriving is not None:
            self.rule.load_state_dict(self._arriving)
        self._arriving = None


def clip_before_step(optimizer: Optimizer, rule: Rule | str, named_parameters: Named | None = None) -> OptimizerClip:
    """Clip the gradients of ``optimizer`` by ``rule`` at the beginning of each of its steps.

    ``rule`` is a text such as ``"auto:10"``, or a rule, of which a copy is taken. ``named_parameters``, best those of
    the whole model, are needed by rules that act per layer; an optimizer made from named parameters has them itself.

    The rule's state is saved and loaded with the optimizer's. Raises ValueError where the optimizer is clipped already,
    or moves a parameter that has no name; its ``step`` raises TypeError for a closure.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner  # Accelerate and Lightning wrap optimizers; the hooks are those of the innermost
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is no torch optimizer, so it has no step hooks")
    if optimizer in _clipped:
        raise ValueError(f"this {type(optimizer).__name__} is clipped already: remove() the other rule first")
    return OptimizerClip(optimizer, as_rule(rule), named_parameters)

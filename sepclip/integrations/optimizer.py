"""A rule that acts inside ``optimizer.step()``, so the training loop, its schedulers and checkpoints need no change.

    clip = clip_before_step(optimizer, "auto:10", model.named_parameters())
    ...
    loss.backward()
    optimizer.step()                    # clips first; clip.last is the step of the rule
    torch.save(optimizer.state_dict())  # the history is in it

It works with a GradScaler: ``scaler.step(optimizer)`` unscales before the hook runs, and if it leaves that to a fused
optimizer, the hook does it. With gradient accumulation the hook runs once per update.

Functions that rebuild an optimizer's state (torch.distributed.checkpoint, ``copy.deepcopy`` of the optimizer) drop the
state of the rule: save ``clip.rule.state_dict()`` separately. Loading a state without it gives a warning.
"""

from typing import Any
from weakref import WeakSet

import torch
from torch.optim import Optimizer

from sepclip.clip import Rule, Step
from sepclip.integrations import (
    Named,
    as_rule,
    clip_gradients,
    load_history,
    parameters_of,
    tensors_of,
    warn_if_skipped,
    warn_of_empty_history,
)

KEY = "sepclip"
"""The key of the rule's state in the optimizer's state."""

_clipped: WeakSet[Optimizer] = WeakSet()


class OptimizerClip:
    """A rule attached to an optimizer by ``clip_before_step``."""

    def __init__(self, optimizer: Optimizer, rule: Rule, names: torch.nn.Module | Named | None, fresh: bool):
        self.optimizer = optimizer
        self.rule = rule
        self.last: Step | None = None
        """The last step of the rule; None before the first."""
        self.warned = False
        """Whether there was a warning of a loaded state without a history."""
        self._model = names if isinstance(names, torch.nn.Module) else None
        pairs = names.named_parameters() if isinstance(names, torch.nn.Module) else names
        self._names = None if pairs is None else {tensor: name for name, tensor in pairs}
        self._fresh = fresh
        self._loaded: dict[str, Any] | None = None
        self._parameters()  # refuse an optimizer of unnamed parameters now, not in its first step
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._before_load),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]
        _clipped.add(optimizer)

    def remove(self) -> None:
        """Detach the rule from the optimizer."""
        for hook in self._hooks:
            hook.remove()
        _clipped.discard(self.optimizer)

    def _parameters(self) -> list[Any]:
        groups = self.optimizer.param_groups
        if self._names is not None:
            if self._model is not None and any(tensor not in self._names for tensor in tensors_of(self.optimizer)):
                # parameters that were added during the training
                self._names = {tensor: name for name, tensor in self._model.named_parameters()}
            remedy = "give clip_before_step the model itself, which has to contain all of them"
            return list(parameters_of(self.optimizer, self._names, remedy))
        if all("param_names" in group for group in groups):  # the optimizer was made from named parameters (torch 2.6)
            return [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
        return [parameter for group in groups for parameter in group["params"]]

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(argument) for argument in (*args[1:], *kwargs.values())):
            raise TypeError(
                "step(closure) computes its gradients after this hook, so they cannot be clipped here (LBFGS, "
                "Lightning): call step without a closure, or in Lightning use sepclip.integrations.lightning"
            )
        if "grad_scaler" in kwargs:  # an old protocol of GradScaler: only step() knows the scale
            raise TypeError(f"{type(optimizer).__name__} unscales within its step(grad_scaler=...), after this hook")
        if not self._unscale():
            return
        before, self.last = self.last, clip_gradients(self.rule, self._parameters())
        warn_if_skipped(self.last, before, f"optimizer step {self.rule.steps}")

    def _unscale(self) -> bool:
        """Unscale the gradients if a GradScaler leaves that to a fused optimizer.

        Return False if the scaler drops this step.
        """
        optimizer: Any = self.optimizer
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and float(overflow) > 0:
            return False  # not counted as skipped: with unfused optimizers the hook does not see such a step at all
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            torch._foreach_mul_([p.grad for p in tensors_of(optimizer) if p.grad is not None], 1 / float(scale))
            optimizer.grad_scale = None
        return True

    def _save(self, _: Optimizer, state: dict[str, Any]) -> None:
        state[KEY] = self.rule.state_dict()

    def _before_load(self, _: Optimizer, state: dict[str, Any]) -> None:
        self._loaded = None if self._fresh else state.get(KEY)
        if self._loaded is None and not self._fresh:
            self.warned = True
            warn_of_empty_history(self.rule, "the optimizer's state")

    def _load(self, _: Optimizer) -> None:
        # after the optimizer's own load, so that a state that the optimizer refuses changes nothing here
        if self._loaded is not None:
            load_history(self.rule, self._loaded, "give clip_before_step fresh=True (ClipMixin: fresh_clip=True)")
        self._loaded = None


def clip_before_step(
    optimizer: Optimizer,
    rule: Rule | str,
    named_parameters: torch.nn.Module | Named | None = None,
    *,
    fresh: bool = False,
) -> OptimizerClip:
    """Clip the gradients of ``optimizer`` by ``rule`` at the beginning of each of its steps.

    ``rule`` is a text such as ``"auto:10"``, or a rule, which is copied. ``named_parameters`` are needed by rules that
    act per layer, unless the optimizer was made from named parameters: those of the whole model, or the model itself,
    in which parameters that are added during training are found too.

    The rule's state is saved and loaded with the optimizer's; ``fresh`` ignores a saved one. Raises ValueError if the
    optimizer is clipped already or has a parameter without a name. ``optimizer.step`` raises TypeError for a closure.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner  # Accelerate and Lightning wrap optimizers, and only the innermost runs hooks
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not a torch optimizer, so it has no step hooks")
    if optimizer in _clipped:
        raise ValueError(f"this {type(optimizer).__name__} is clipped already: remove() the other rule first")
    return OptimizerClip(optimizer, as_rule(rule), named_parameters, fresh)

"""A warning about parameters that do not learn, because their gradient is exactly zero for many steps in a row."""

import torch
from torch import Tensor, nn

from sepclip.terminal import warn

STEPS = 20  # in a row; a gradient that underflows now and then, or in silence, is not a failure
_MOST_NAMES = 5
_FIRST_VALUES = 64  # of a gradient, nearly always enough to see on a CPU that it is not zero


class ZeroGradientWatchdog:
    """Reports each parameter of a ``module`` by name, once, if its gradient is exactly zero for ``STEPS`` steps.

    A parameter without a gradient counts too; skipped steps, which have none at all, do not. On a GPU the counts stay
    there until :meth:`report`, so that no step makes the host wait for them.
    """

    def __init__(self, module: nn.Module):
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._names, self._parameters = [name for name, _ in named], [parameter for _, parameter in named]
        device = self._parameters[0].device if self._parameters else torch.device("cpu")
        # steps in a row in which the gradient was zero: now, and the most so far
        self._counts = torch.zeros(len(named), dtype=torch.int32, device=device)
        self._most = self._counts.clone()
        self._reported: set[str] = set()

    @torch.no_grad()
    def note(self) -> None:
        """Take the gradients of a step into account; call it after every step that was not skipped."""
        if not self._parameters:
            return
        zero = self._zero_on_cpu() if self._counts.device.type == "cpu" else self._zero_on_gpu()
        self._counts = torch.where(zero, self._counts + 1, 0)
        self._most = torch.maximum(self._most, self._counts)

    def report(self) -> None:
        """Warn about parameters whose gradient has been zero for too long; call it now and then."""
        stuck = [name for name, most in zip(self._names, self._most.tolist(), strict=True) if most >= STEPS]
        new = [name for name in stuck if name not in self._reported]
        self._reported.update(new)
        if new:
            more = f" and {len(new) - _MOST_NAMES} more" if len(new) > _MOST_NAMES else ""
            warn(
                f"the gradient of {', '.join(new[:_MOST_NAMES])}{more} was exactly zero for {STEPS} steps in a row: "
                f"these weights do not learn. Does the loss depend on them? In 16 bits, try --precision fp32"
            )

    def _zero_on_cpu(self) -> Tensor:
        """Return which gradients are zero; most need a look at their first values only."""
        return torch.tensor([p.grad is None or _is_zero(p.grad) for p in self._parameters])

    def _zero_on_gpu(self) -> Tensor:
        """Return which gradients are zero, from one kernel over all of them."""
        indices = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        zero = torch.ones_like(self._counts, dtype=torch.bool)
        gradients = [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None]
        if not gradients:
            return zero
        # the largest value, not the 2-norm, whose squares underflow. NaN is not zero
        largest = torch.stack(torch._foreach_norm(gradients, float("inf")))
        if len(indices) == len(zero):
            return largest == 0
        return zero.index_copy(0, torch.tensor(indices).to(zero.device, non_blocking=True), largest == 0)


def _is_zero(gradient: Tensor) -> bool:
    return not (bool(gradient.reshape(-1)[:_FIRST_VALUES].any()) or bool(gradient.any()))

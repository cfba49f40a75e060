"""Copies of small results from a GPU for which the host does not wait at once."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on the CPU. On a GPU it is made in the order of its kernels, while the host continues.

    Reading it waits until the copy is complete. It costs nothing if the host has waited for a later kernel already, as
    a clip rule does that needs the norm of the gradient.
    """

    def __init__(self, tensor: Tensor):
        # into pinned memory, which torch allocates for copies to the CPU that do not block
        self._tensor = tensor.to("cpu", non_blocking=True)
        self._event = None
        if tensor.device.type != "cpu":
            self._event = torch.get_device_module(tensor.device).Event()
            self._event.record()

    def tolist(self) -> list[float]:
        """Return the values."""
        if self._event is not None:
            self._event.synchronize()
        values: list[float] = self._tensor.tolist()
        return values

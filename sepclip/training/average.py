"""A moving average of the weights, which validation and separation use in their place."""

from copy import deepcopy

import torch
from torch import Tensor

from sepclip.model.separator import SeparationModel


class Average:
    """The exponential moving average of a separator's parameters (Polyak and Juditsky 1992); buffers are copied.

    After step n the average moves by 1 - d towards the parameters, d = min(``decay``, (1 + n) / (10 + n)): the first
    weights are soon forgotten (as TensorFlow's ExponentialMovingAverage with ``num_updates``).
    """

    def __init__(self, separator: SeparationModel, decay: float):
        self.separator = deepcopy(separator).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, separator: SeparationModel, step: int) -> None:
        """Take the parameters after ``step`` steps into the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine: list[Tensor] = list(self.separator.parameters())
        new: list[Tensor] = list(separator.parameters())
        torch._foreach_lerp_(mine, new, 1 - decay)
        for buffer, value in zip(self.separator.buffers(), separator.buffers(), strict=True):
            buffer.copy_(value)

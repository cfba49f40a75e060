"""A moving average of the weights, used for validation and separation instead of the weights themselves."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from sepclip.model.separator import SeparationModel


class WeightAverage:
    """The exponential moving average of a separator's parameters (Polyak and Juditsky 1992); buffers are copied.

    After step n the average moves by 1 - d towards the parameters, with d = min(``decay``, (1 + n) / (10 + n)), so that
    the first weights are soon forgotten (as in TensorFlow's ExponentialMovingAverage with ``num_updates``).
    """

    def __init__(self, separator: SeparationModel, decay: float):
        # costs one more copy of the weights; in eval mode for good, since it is validated and used but never trained
        self.separator = deepcopy(separator).eval().requires_grad_(False)
        self._decay = decay
        # copied one by one, the weights of a recurrent layer are separate pieces of memory, which cuDNN would join at
        # every call
        for module in self.separator.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()

    @torch.no_grad()
    def update(self, separator: SeparationModel, step: int) -> None:
        """Move the average towards the parameters of ``separator`` after ``step`` steps."""
        # a function of the step number, so that a checkpoint needs the weights of the average and nothing else
        decay = min(self._decay, (1 + step) / (10 + step))
        average: list[Tensor] = list(self.separator.parameters())
        current: list[Tensor] = list(separator.parameters())
        # one call for all parameters: in a loop of small tensors most of the time would be Python's
        torch._foreach_lerp_(average, current, 1 - decay)
        # buffers are running statistics, averages already: averaging them twice would only delay them
        for buffer, value in zip(self.separator.buffers(), separator.buffers(), strict=True):
            buffer.copy_(value)

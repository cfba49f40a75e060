"""Recurrent layers over a batch whose items end at different frames."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run_apart(layer: nn.RNNBase, batch: Tensor, lengths: Sequence[int]) -> Tensor:
    """Run a bidirectional layer on a batch (B, N, F) of which item b has ``lengths[b]`` frames; returns (B, N, 2H).

    The direction from the end begins at the end of each item, so that none knows of the others.
    """
    if _packs(batch):
        packed = pack_padded_sequence(batch, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=batch.shape[1])[0]
    return _turned(layer, batch, torch.tensor(lengths))


def _packs(batch: Tensor) -> bool:
    return batch.is_cuda


def _turned(layer: nn.RNNBase, batch: Tensor, lengths: Tensor) -> Tensor:
    """Do the same with each item turned round for the direction from its end.

    torch runs packed sequences on a CPU frame by frame, in three times the time (docs/RESULTS.md).
    """
    frames = torch.arange(batch.shape[1])
    places = lengths.unsqueeze(1) - 1 - frames  # (B, N)
    places = torch.where(places >= 0, places, frames).unsqueeze(-1)
    onwards, back = layer.all_weights
    there = _one_way(layer, batch, [*onwards])
    here = _one_way(layer, batch.gather(1, places.expand_as(batch)), [*back])
    return torch.cat([there, here.gather(1, places.expand_as(here))], -1)


def _one_way(layer: nn.RNNBase, batch: Tensor, weights: list[Tensor]) -> Tensor:
    start = batch.new_zeros(1, len(batch), layer.hidden_size)
    how = (True, 1, 0.0, False, False, True)  # biases, one layer, no dropout, not training, one direction, batch first
    if isinstance(layer, nn.LSTM):
        outputs: Tensor = torch.lstm(batch, (start, start), weights, *how)[0]
    else:
        outputs = torch.gru(batch, start, weights, *how)[0]
    return outputs

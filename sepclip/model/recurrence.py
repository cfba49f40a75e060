"""Recurrent layers over a batch whose items have different lengths."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run_by_lengths(layer: nn.RNNBase, batch: Tensor, lengths: Sequence[int]) -> Tensor:
    """Run a bidirectional layer on a batch (B, N, F) in which item b has ``lengths[b]`` frames; return (B, N, 2H).

    The backward direction starts at the last frame of each item, so that the result of an item depends neither on its
    padding nor on the other items.
    """
    if _uses_packed_sequences(batch):
        packed = pack_padded_sequence(batch, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=batch.shape[1])[0]
    return _run_reversed(layer, batch, torch.tensor(lengths))


def _uses_packed_sequences(batch: Tensor) -> bool:
    """Return whether packed sequences are the faster way: on a GPU only."""
    return batch.is_cuda


def _run_reversed(layer: nn.RNNBase, batch: Tensor, lengths: Tensor) -> Tensor:
    """Return the result of :func:`run_by_lengths` without packed sequences: reverse each item, run, reverse again.

    On a CPU torch runs packed sequences frame by frame, which takes three times as long (docs/RESULTS.md).
    """
    # frame n of a reversed item is frame length - 1 - n of the item; padding stays where it is
    frames = torch.arange(batch.shape[1])
    mirrored = lengths.unsqueeze(1) - 1 - frames  # (B, N)
    mirrored = torch.where(mirrored >= 0, mirrored, frames).unsqueeze(-1)
    forward_weights, backward_weights = layer.all_weights
    forward = _run_one_direction(layer, batch, [*forward_weights])
    reversed_batch = batch.gather(1, mirrored.expand_as(batch))
    backward = _run_one_direction(layer, reversed_batch, [*backward_weights])
    return torch.cat([forward, backward.gather(1, mirrored.expand_as(backward))], -1)  # (B, N, 2H)


def _run_one_direction(layer: nn.RNNBase, batch: Tensor, weights: list[Tensor]) -> Tensor:
    """Run a layer from the first frame to the last with the ``weights`` of one direction; return (B, N, H)."""
    # what layer.forward does for one direction; torch has no public function for it
    state = batch.new_zeros(1, len(batch), layer.hidden_size)
    # with biases, one layer, no dropout, not training, one direction, batch first
    options = (True, 1, 0.0, False, False, True)
    if isinstance(layer, nn.LSTM):
        outputs: Tensor = torch.lstm(batch, (state, state), weights, *options)[0]
    else:
        outputs = torch.gru(batch, state, weights, *options)[0]
    return outputs

"""Recurrent layers: in a precision that trains on a GPU, and over a batch whose items have different lengths."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sepclip.errors import is_out_of_memory


def run_recurrent(layer: nn.RNNBase, batch: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """Run a bidirectional layer on a batch (B, N, F), as :func:`run_by_lengths` if there are ``lengths`` (B,).

    Under autocast to bfloat16 on a GPU, the layer runs in bfloat16 if cuDNN accepts it, otherwise in the dtype of its
    weights. The result (B, N, 2H) has the dtype in which it was computed.
    """
    if not _is_cast_wrongly(batch.device):
        return layer(batch)[0] if lengths is None else run_by_lengths(layer, batch, lengths)
    with torch.autocast(batch.device.type, enabled=False):
        if takes_bf16(batch.device):
            return _run_in_bf16(layer, batch.bfloat16(), lengths)
        return run_recurrent(layer, batch.to(next(layer.parameters()).dtype), lengths)


def _is_cast_wrongly(device: torch.device) -> bool:
    """Return whether autocast would run a recurrent layer in a dtype in which it does not train.

    Autocast casts the recurrent layers of cuDNN to float16 even if its dtype is bfloat16 (ATen/cudnn/AutocastRNN.cpp
    of torch). Without a GradScaler, most of their gradients are then exactly zero.
    """
    kind = device.type
    return kind != "cpu" and torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16


@lru_cache
def takes_bf16(device: torch.device) -> bool:
    """Return whether cuDNN runs recurrent layers in bfloat16 on a GPU. It is tried once for each device."""
    # if cuDNN does not accept a tensor, torch runs its own layers frame by frame, which takes many times as long
    probe = torch.zeros(1, 2, 8, dtype=torch.bfloat16, device=device, requires_grad=True)
    if not torch.cudnn_is_acceptable(probe):
        return False
    # zeros, not the initial weights of a layer, which would draw from the random generator of the training
    weights = [probe.new_zeros(shape).requires_grad_() for shape in [(32, 8), (32, 8), (32,), (32,)] * 2]
    state = probe.new_zeros(2, 1, 8)
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            torch.lstm(probe, (state, state), weights, True, 1, 0.0, True, True, True)[0].sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # of cuDNN, such as CUDNN_STATUS_NOT_SUPPORTED
        if is_out_of_memory(error):
            raise
        return False
    return True


def _run_in_bf16(layer: nn.RNNBase, batch: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Run a layer on a batch (B, N, F) in bfloat16 with copies of its weights, through which gradients reach them."""
    # the copies are pieces of one tensor in cuDNN's order, matrices before biases, so that it need not copy them again
    names = sorted(layer._flat_weights_names, key=lambda name: name.startswith("bias"))
    tensors = [getattr(layer, name) for name in names]
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).bfloat16()
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    copies = {name: x.view_as(tensor) for name, x, tensor in zip(names, pieces, tensors, strict=True)}
    weights = [copies[name] for name in layer._flat_weights_names]
    # what layer.forward does with its own weights; torch has no public function for others, and to exchange those of
    # the layer for a while would disturb other threads
    function: Callable[..., tuple[Tensor, ...]] = torch.lstm if isinstance(layer, nn.LSTM) else torch.gru
    zeros = batch.new_zeros(2, len(batch), layer.hidden_size)
    state = (zeros, zeros) if isinstance(layer, nn.LSTM) else zeros
    # with biases, one layer, no dropout, two directions
    options = (True, 1, 0.0, layer.training, True)
    if lengths is None:
        return function(batch, state, weights, *options, True)[0]
    packed = pack_padded_sequence(batch, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    result = function(packed.data, packed.batch_sizes, state, weights, *options)[0]
    return _unpack(PackedSequence(result, *packed[1:]), batch.shape[1])


def run_by_lengths(layer: nn.RNNBase, batch: Tensor, lengths: Sequence[int]) -> Tensor:
    """Run a bidirectional layer on a batch (B, N, F) in which item b has ``lengths[b]`` frames; return (B, N, 2H).

    The backward direction starts at the last frame of each item, so that the result of an item depends neither on its
    padding nor on the other items.
    """
    if _uses_packed_sequences(batch):
        packed = pack_padded_sequence(batch, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        return _unpack(layer(packed)[0], batch.shape[1])
    return _run_reversed(layer, batch, torch.tensor(lengths))


def _unpack(packed: PackedSequence, frames: int) -> Tensor:
    """Return a packed sequence as a batch (B, N, F) of ``frames`` frames, padded with zeros."""
    return pad_packed_sequence(packed, batch_first=True, total_length=frames)[0]


def _uses_packed_sequences(batch: Tensor) -> bool:
    """Return whether packed sequences are the faster way: on a GPU only."""
    return batch.device.type != "cpu"


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

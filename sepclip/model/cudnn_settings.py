"""The switches of cuDNN for this process: TF32, and the search for the fastest algorithm."""

import torch


def set_cudnn(precision: str, *, equal_shapes: bool) -> None:
    """Set the switches for a network that computes in ``precision`` (such as ``fp32``) on a GPU.

    TF32 is for recurrent layers and convolutions in ``tf32``, and in ``bf16`` for layers that do not support bfloat16.
    Matrix products never use it: it is too coarse for the products of embeddings in their losses. ``equal_shapes``:
    whether nearly all batches have the same shape, so that cuDNN's search for the fastest algorithm pays off.
    """
    tf32 = precision in ("tf32", "bf16")
    backends = torch.backends
    backends.cudnn.allow_tf32 = tf32
    backends.cuda.matmul.allow_tf32 = False
    # newer versions of torch (2.9 and later) have a switch for each kind of layer; both are set, because these versions
    # raise an error if a program reads an old switch that the new ones contradict
    if hasattr(backends.cudnn.rnn, "fp32_precision"):
        backends.cudnn.rnn.fp32_precision = "tf32" if tf32 else "ieee"
        backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"  # type: ignore[attr-defined]
        backends.cuda.matmul.fp32_precision = "ieee"
    backends.cudnn.benchmark = equal_shapes

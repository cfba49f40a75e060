import pytest
import torch
from torch import nn

from sepclip.model import recurrence
from sepclip.model.recurrence import run_by_lengths
from tests.processor import NEEDS_BF16

LENGTHS = [30, 7, 1, 29]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=NEEDS_BF16)])
def test_item_of_a_batch_has_the_result_it_has_alone(kind, bf16):
    layer = kind(5, 16, batch_first=True, bidirectional=True)
    batch = torch.randn(len(LENGTHS), max(LENGTHS), 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        together = run_by_lengths(layer, batch, LENGTHS)
        assert together.shape == (4, 30, 32)
        for item, length, output in zip(batch, LENGTHS, together, strict=True):
            alone = layer(item[:length].unsqueeze(0))[0][0]
            torch.testing.assert_close(output[:length], alone, rtol=0, atol=1e-2 if bf16 else 1e-6)


def test_packed_sequences_have_the_same_result(monkeypatch):
    layer = nn.LSTM(5, 16, batch_first=True, bidirectional=True)
    batch = torch.randn(len(LENGTHS), max(LENGTHS), 5)
    ours = run_by_lengths(layer, batch, LENGTHS)
    monkeypatch.setattr(recurrence, "_uses_packed_sequences", lambda batch: True)  # as on a GPU
    packed = run_by_lengths(layer, batch, LENGTHS)
    for length, one, other in zip(LENGTHS, ours, packed, strict=True):
        torch.testing.assert_close(one[:length], other[:length], rtol=0, atol=1e-6)

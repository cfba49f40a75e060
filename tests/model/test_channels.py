"""Several channels: folded into the samples and the bins, so that only the transforms know of them."""

import pytest
import torch

from sepclip.model.inference import BlockSeparator
from sepclip.model.losses import LOSSES
from tests.model.build import loss_settings
from tests.model.test_separator import model, wave


def stereo(loss="mi", **options):
    return model(loss, channels=2, **options)


def separate(made, mixture):
    return BlockSeparator(made).separate(mixture)


def test_the_spectrum_holds_the_channels_one_after_the_other():
    made, mixture = stereo(), wave(2)
    spectrum = made.spectrum(mixture.reshape(1, -1))  # (1, N, 2 F)
    each = made.stft.forward(mixture)  # (2, N, F)
    assert torch.equal(spectrum[0], torch.cat([*each], -1))
    torch.testing.assert_close(made.wave(spectrum, 2 * 1003).reshape(2, -1), mixture, rtol=0, atol=1e-6)


def test_one_channel_is_what_it_was():
    made, mixture = model(), wave(3)
    assert torch.equal(made.spectrum(mixture), made.stft.forward(mixture))
    assert torch.equal(made.wave(made.spectrum(mixture), 1003), made.stft.inverse(made.stft.forward(mixture), 1003))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_from_two_channels(loss):
    made = stereo(loss)
    sources = torch.stack([wave(4, seed=0), wave(4, seed=1)]).reshape(2, 2, -1)  # (B, S, 2 T)
    true = made.signals(sources.sum(1), sources)
    assert true.mixture.shape == (2, made.stft.frames(1003), 2 * made.stft.bins)
    given = made(true.mixture_wave, true.mixture)
    LOSSES[loss](given, true, loss_settings()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.network.heads.parameters())
    assert made.estimates(given, true.mixture, 2006).shape == (2, 2, 2006)


def test_the_level_is_that_of_all_channels():
    made = stereo()
    mixture = torch.cat([torch.full((1, 100), 0.1), torch.full((1, 100), 0.7)], 1)  # (1, 2 T), RMS 0.5
    assert made.level_gain(mixture).item() == pytest.approx(10 ** (-25 / 20) / 0.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("samples", [0, 1, 1003])
def test_any_channel_count_is_separated(loss, channels, samples):
    estimates = separate(stereo(loss, sources=3), wave(channels, samples))
    assert estimates.shape == (3, channels, samples)
    assert estimates.isfinite().all()


def test_channels_of_the_layout_have_masks_of_their_own():
    made = stereo()
    mixture = wave(2)
    folded = mixture.reshape(1, -1)
    levelled = folded * made.level_gain(folded)
    with torch.no_grad():
        masks = made(levelled, made.spectrum(levelled))["mask"]  # (1, S, N, 2 F)
    left, right = masks.chunk(2, -1)
    assert (left - right).abs().max() > 0.1
    for channel, mask in enumerate((left, right)):
        alone = made.stft.inverse(mask * made.stft.forward(mixture[channel : channel + 1]).unsqueeze(1), 1003)
        torch.testing.assert_close(separate(made, mixture)[:, channel], alone[0], rtol=0, atol=1e-6)


def test_one_channel_is_separated_as_two_of_the_same():
    made, mono = stereo(), wave(1)
    both = separate(made, mono.expand(2, -1))  # (S, 2, T)
    torch.testing.assert_close(separate(made, mono)[:, 0], both.mean(1), rtol=0, atol=1e-6)


def test_masks_for_other_channel_counts_come_from_their_mean():
    made, three = stereo(), wave(3)
    mid = three.mean(0, keepdim=True)
    torch.testing.assert_close(separate(made, three).mean(1), separate(made, mid)[:, 0], rtol=0, atol=1e-6)

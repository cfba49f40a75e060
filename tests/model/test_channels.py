"""Several channels: folded into the samples and the bins, so that only the transforms know of them."""

import pytest
import torch

from sepclip.model.inference import BlockSeparator
from sepclip.model.losses import LOSSES
from tests.model.build import loss_settings
from tests.model.test_separator import make_model, wave


def make_stereo_model(loss="mi", **options):
    return make_model(loss, channels=2, **options)


def separate(model, mixture):
    return BlockSeparator(model).separate(mixture)


def test_spectrum_has_the_bins_of_one_channel_after_the_other():
    model, mixture = make_stereo_model(), wave(2)
    spectrum = model.spectrum(mixture.reshape(1, -1))  # (1, N, 2 F)
    each = model.stft.forward(mixture)  # (2, N, F)
    assert torch.equal(spectrum[0], torch.cat([*each], -1))
    torch.testing.assert_close(model.wave(spectrum, 2 * 1003).reshape(2, -1), mixture, rtol=0, atol=1e-6)


def test_one_channel_has_the_plain_transform():
    model, mixture = make_model(), wave(3)
    assert torch.equal(model.spectrum(mixture), model.stft.forward(mixture))
    assert torch.equal(model.wave(model.spectrum(mixture), 1003), model.stft.inverse(model.stft.forward(mixture), 1003))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_from_two_channels(loss):
    model = make_stereo_model(loss)
    sources = torch.stack([wave(4, seed=0), wave(4, seed=1)]).reshape(2, 2, -1)  # (B, S, 2 T)
    truth = model.signals(sources.sum(1), sources)
    assert truth.mixture.shape == (2, model.stft.frames(1003), 2 * model.stft.bins)
    prediction = model(truth.mixture_wave, truth.mixture)
    LOSSES[loss](prediction, truth, loss_settings()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.network.heads.parameters())
    assert model.estimates(prediction, truth.mixture, 2006).shape == (2, 2, 2006)


def test_the_level_is_that_of_all_channels():
    model = make_stereo_model()
    mixture = torch.cat([torch.full((1, 100), 0.1), torch.full((1, 100), 0.7)], 1)  # (1, 2 T), RMS 0.5
    assert model.level_gain(mixture).item() == pytest.approx(10 ** (-25 / 20) / 0.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("samples", [0, 1, 1003])
def test_model_separates_any_channel_count(loss, channels, samples):
    estimates = separate(make_stereo_model(loss, sources=3), wave(channels, samples))
    assert estimates.shape == (3, channels, samples)
    assert estimates.isfinite().all()


def test_each_channel_of_the_layout_has_its_mask():
    model = make_stereo_model()
    mixture = wave(2)
    folded = mixture.reshape(1, -1)
    levelled = folded * model.level_gain(folded)
    with torch.no_grad():
        masks = model(levelled, model.spectrum(levelled))["mask"]  # (1, S, N, 2 F)
    left, right = masks.chunk(2, -1)
    assert (left - right).abs().max() > 0.1
    for channel, mask in enumerate((left, right)):
        alone = model.stft.inverse(mask * model.stft.forward(mixture[channel : channel + 1]).unsqueeze(1), 1003)
        torch.testing.assert_close(separate(model, mixture)[:, channel], alone[0], rtol=0, atol=1e-6)


def test_one_channel_is_separated_as_two_of_the_same():
    model, mono = make_stereo_model(), wave(1)
    both = separate(model, mono.expand(2, -1))  # (S, 2, T)
    torch.testing.assert_close(separate(model, mono)[:, 0], both.mean(1), rtol=0, atol=1e-6)


def test_masks_for_other_channel_counts_come_from_their_mean():
    model, three = make_stereo_model(), wave(3)
    mid = three.mean(0, keepdim=True)
    torch.testing.assert_close(separate(model, three).mean(1), separate(model, mid)[:, 0], rtol=0, atol=1e-6)

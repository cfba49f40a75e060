import math

import pytest
import scipy.signal
import torch

from sepclip.audio.stft import STFT, magnitude


def test_stft_of_25536_samples_has_400_frames_of_129_bins():
    assert STFT().forward(torch.zeros(25536)).shape == (400, 129)
    assert STFT().frames(25536) == 400
    assert STFT().samples(400) == 25536
    assert STFT().bins == 129


@pytest.mark.parametrize("samples", [1, 10, 63, 64, 65, 1000, 25536, 25537])
def test_frames_returns_the_frame_count_of_forward(samples):
    assert STFT().forward(torch.zeros(samples)).shape[0] == STFT().frames(samples) == math.ceil(samples / 64) + 1


@pytest.mark.parametrize(("scale", "height"), [("window_sum", 1.0), ("none", 162.9726)])
def test_stft_of_a_constant_is_its_value_in_bin_0(scale, height):
    # away from the ends; 162.9726 = 1 / tan(pi / 512), the sum of sin(pi n / 256)
    spectrum = STFT(scale=scale).forward(torch.ones(1024, dtype=torch.float64))
    assert spectrum[4, 0].real.item() == pytest.approx(height, rel=1e-6)


@pytest.mark.parametrize("samples", [257, 1000, 8192, 25536, 25537])
@pytest.mark.parametrize(("window", "hop"), [(256, 64), (256, 128), (128, 32)])
def test_stft_equals_scipy(samples, window, hop):
    wave = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(samples))
    root = scipy.signal.get_window("hann", window) ** 0.5
    _, _, want = scipy.signal.stft(wave.numpy(), window=root, nperseg=window, noverlap=window - hop)
    want = torch.from_numpy(want).mT  # (N, F)
    torch.testing.assert_close(STFT(window, hop).forward(wave), want, rtol=0, atol=1e-13)
    unscaled = STFT(window, hop, scale="none").forward(wave)
    torch.testing.assert_close(unscaled, want * root.sum(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", ["window_sum", "none"])
@pytest.mark.parametrize(("window", "hop"), [(256, 64), (256, 128), (256, 32), (256, 100)])
@pytest.mark.parametrize("samples", [1, 10, 63, 64, 65, 1001, 25537])
def test_inverse_with_a_mask_of_one_returns_the_wave(samples, window, hop, scale):
    waves = torch.rand(2, 3, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stft = STFT(window, hop, scale)
    spectrum = stft.forward(waves)
    torch.testing.assert_close(spectrum[1, 2], stft.forward(waves[1, 2]))
    assert (stft.inverse(spectrum * 1.0, samples) - waves).abs().max() < 1e-5


@pytest.mark.parametrize("scale", ["window_sum", "none"])
@pytest.mark.parametrize(("window", "hop"), [(16, 4), (16, 8), (16, 6), (15, 4)])
def test_inverse_and_its_gradient_equal_torch(window, hop, scale):
    stft, samples = STFT(window, hop, scale), 61
    chance = torch.Generator().manual_seed(0)
    frames = stft.frames(samples)
    spectrum = torch.randn(2, 3, frames, stft.bins, dtype=torch.complex128, generator=chance, requires_grad=True)
    root = torch.hann_window(window, dtype=torch.float64).sqrt()
    factor = root.sum() if scale == "window_sum" else 1
    want = torch.istft((spectrum * factor).flatten(0, 1).mT, window, hop, window=root, length=samples)
    got = stft.inverse(spectrum, samples)
    torch.testing.assert_close(got, want.unflatten(0, (2, 3)))
    towards = torch.randn(2, 3, samples, dtype=torch.float64, generator=chance)
    gradients = [torch.autograd.grad((x.reshape(towards.shape) * towards).sum(), spectrum)[0] for x in (got, want)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda x: stft.inverse(x, samples), spectrum[:1, :1].detach().requires_grad_())


def test_inverse_pads_a_longer_wave_with_silence():
    spectrum = STFT(16, 4).forward(torch.ones(40))
    assert STFT(16, 4).inverse(spectrum, 50)[40:].tolist() == [0] * 10


@pytest.mark.parametrize("hop", [0, 16, 20])
def test_hop_outside_the_window_is_refused(hop):
    with pytest.raises(ValueError, match=f"hop of {hop} samples"):
        STFT(16, hop)


def test_magnitude_equals_abs():
    spectrum = torch.randn(5, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(magnitude(spectrum), spectrum.abs(), rtol=1e-6, atol=0)
    assert magnitude(torch.zeros(3, dtype=torch.complex64)).tolist() == [0, 0, 0]


def test_first_use_in_inference_mode_does_not_spoil_training():
    stft = STFT(96, 24)  # a window that no other test uses, because it is cached
    with torch.inference_mode():
        stft.forward(torch.ones(200))
    wave = torch.ones(200, requires_grad=True)
    stft.forward(wave).abs().sum().backward()
    assert wave.grad.abs().sum() > 0


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
def test_of_seconds_keeps_the_duration_at_any_rate(rate_hz):
    stft = STFT.of_seconds(0.032, 0.008, rate_hz)
    assert stft.window_length == 4 * stft.hop_length
    assert stft.hop_length / rate_hz == pytest.approx(0.008, rel=0.03)
    factor = stft.hop_length
    for prime in (2, 3, 5):
        while factor % prime == 0:
            factor //= prime
    assert factor == 1

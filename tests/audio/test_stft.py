import math

import pytest
import scipy.signal
import torch

from sepclip.audio.stft import STFT


def test_25536_zeros_give_400_frames_of_129_bins():
    assert STFT().forward(torch.zeros(25536)).shape == (400, 129)
    assert STFT().frames(25536) == 400
    assert STFT().samples(400) == 25536
    assert STFT().bins == 129


@pytest.mark.parametrize("samples", [1, 10, 63, 64, 65, 1000, 25536, 25537])
def test_frames_tells_what_forward_gives(samples):
    assert STFT().forward(torch.zeros(samples)).shape[0] == STFT().frames(samples) == math.ceil(samples / 64) + 1


@pytest.mark.parametrize(("scale", "height"), [("window_sum", 1.0), ("none", 162.9726)])
def test_a_constant_stands_in_bin_0_at_its_own_height(scale, height):
    # away from the ends; 162.9726 = 1 / tan(pi / 512), the sum of sin(pi n / 256)
    spectrum = STFT(scale=scale).forward(torch.ones(1024, dtype=torch.float64))
    assert spectrum[4, 0].real.item() == pytest.approx(height, rel=1e-6)


@pytest.mark.parametrize("samples", [257, 1000, 8192, 25536, 25537])
@pytest.mark.parametrize(("window", "hop"), [(256, 64), (256, 128), (128, 32)])
def test_equals_scipy(samples, window, hop):
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
def test_mask_of_one_gives_the_wave_back(samples, window, hop, scale):
    waves = torch.rand(2, 3, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stft = STFT(window, hop, scale)
    spectrum = stft.forward(waves)
    torch.testing.assert_close(spectrum[1, 2], stft.forward(waves[1, 2]))
    assert (stft.inverse(spectrum * 1.0, samples) - waves).abs().max() < 1e-5


@pytest.mark.parametrize("scale", ["window_sum", "none"])
@pytest.mark.parametrize(("window", "hop"), [(256, 64), (256, 128), (256, 100)])
def test_spectra_of_no_wave_are_inverted_as_by_torch(window, hop, scale):
    shape = (2, 3, STFT(window, hop).frames(1001), window // 2 + 1)
    spectrum = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    root = torch.hann_window(window, dtype=torch.float64).sqrt()
    scaled = spectrum * (root.sum() if scale == "window_sum" else 1)
    want = torch.istft(scaled.flatten(0, 1).mT, window, hop, window=root, length=1001).reshape(2, 3, 1001)
    torch.testing.assert_close(STFT(window, hop, scale).inverse(spectrum, 1001), want, rtol=0, atol=1e-10)


def test_first_use_in_inference_mode_does_not_spoil_training():
    stft = STFT(96, 24)  # a window of no other test: it is cached
    with torch.inference_mode():
        stft.forward(torch.ones(200))
    wave = torch.ones(200, requires_grad=True)
    stft.forward(wave).abs().sum().backward()
    assert wave.grad.abs().sum() > 0


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
def test_seconds_are_kept_at_any_rate(rate_hz):
    made = STFT.of_seconds(0.032, 0.008, rate_hz)
    assert made.window_length == 4 * made.hop_length
    assert made.hop_length / rate_hz == pytest.approx(0.008, rel=0.03)
    rest = made.hop_length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1

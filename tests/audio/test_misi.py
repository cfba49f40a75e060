import torch

from sepclip.audio.misi import refine_phases
from sepclip.audio.stft import STFT

STFT_64 = STFT(64, 16)


def sources(count=2, samples=1003):
    return torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(0))  # (S, C, T)


def error(waves, true):
    return float((waves - true).square().sum() / true.square().sum())


def test_refinement_keeps_true_waves():
    true = sources()
    refined = refine_phases(true, STFT_64.forward(true).abs(), true.sum(0), STFT_64, 3)
    torch.testing.assert_close(refined, true, rtol=0, atol=1e-5)


def test_zero_iterations_return_the_waves():
    assert refine_phases(sources(), torch.zeros(2, 1, 64, 33), sources().sum(0), STFT_64, 0).equal(sources())


def test_refinement_of_true_magnitudes_improves_with_every_iteration():
    true = sources()
    mixture, magnitudes = true.sum(0), STFT_64.forward(true).abs()
    start = STFT_64.inverse(magnitudes * STFT_64.forward(mixture).sgn(), mixture.shape[-1])
    errors = [error(refine_phases(start, magnitudes, mixture, STFT_64, count), true) for count in (0, 1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_one_iteration_follows_the_definition():
    true = sources()
    mixture, magnitudes = true.sum(0), STFT_64.forward(true).abs()
    waves = 0.5 * true.flip(0)
    residual = mixture - waves[0] - waves[1]
    expected = []
    for wave, magnitude in zip(waves, magnitudes, strict=True):
        spectrum = STFT_64.forward(wave + residual / 2)
        expected.append(STFT_64.inverse(torch.polar(magnitude, spectrum.angle()), 1003))
    refined = refine_phases(waves, magnitudes, mixture, STFT_64, 1)
    torch.testing.assert_close(refined, torch.stack(expected), rtol=0, atol=1e-5)


def test_refinement_keeps_silence():
    nothing = torch.zeros(2, 1, 500)
    assert refine_phases(nothing, STFT_64.forward(nothing).abs(), nothing.sum(0), STFT_64, 3).eq(0).all()

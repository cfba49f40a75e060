import torch

from sepclip.audio.misi import refine_phases
from sepclip.audio.stft import STFT

STFT_64 = STFT(64, 16)


def sources(count=2, samples=1003):
    return torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(0))  # (S, C, T)


def error(waves, true):
    return float((waves - true).square().sum() / true.square().sum())


def test_true_waves_stay_as_they_are():
    true = sources()
    refined = refine_phases(true, STFT_64.forward(true).abs(), true.sum(0), STFT_64, 3)
    torch.testing.assert_close(refined, true, rtol=0, atol=1e-5)


def test_no_iteration_changes_nothing():
    assert refine_phases(sources(), torch.zeros(2, 1, 64, 33), sources().sum(0), STFT_64, 0).equal(sources())


def test_true_magnitudes_with_the_phase_of_the_mixture_get_better_at_every_iteration():
    true = sources()
    mixture, magnitudes = true.sum(0), STFT_64.forward(true).abs()
    begun = STFT_64.inverse(magnitudes * STFT_64.forward(mixture).sgn(), mixture.shape[-1])
    errors = [error(refine_phases(begun, magnitudes, mixture, STFT_64, count), true) for count in (0, 1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_one_iteration_by_its_definition():
    true = sources()
    mixture, magnitudes = true.sum(0), STFT_64.forward(true).abs()
    waves = 0.5 * true.flip(0)
    lacking = mixture - waves[0] - waves[1]
    expected = []
    for wave, magnitude in zip(waves, magnitudes, strict=True):
        spectrum = STFT_64.forward(wave + lacking / 2)
        expected.append(STFT_64.inverse(torch.polar(magnitude, spectrum.angle()), 1003))
    refined = refine_phases(waves, magnitudes, mixture, STFT_64, 1)
    torch.testing.assert_close(refined, torch.stack(expected), rtol=0, atol=1e-5)


def test_silence_stays_silent():
    nothing = torch.zeros(2, 1, 500)
    assert refine_phases(nothing, STFT_64.forward(nothing).abs(), nothing.sum(0), STFT_64, 3).eq(0).all()

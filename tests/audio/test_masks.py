from pathlib import Path

import pytest
import soundfile
import torch

from sepclip.audio.masks import ideal_binary_mask, mask_target
from sepclip.audio.si_sdr import si_sdr
from sepclip.audio.stft import STFT

SPEECH = Path(__file__).parents[2] / "data" / "speech"

# mixture, source, and the targets tpsa and psa: |S| cos(angle between them), for tpsa clamped to [0, |X|]
TABLE = [(1, 2, 1, 2), (1, -0.5, 0, -0.5), (1, 0.5j, 0, 0), (1j, 0.3 + 0.4j, 0.4, 0.4), (0.5, 0.3 + 0.4j, 0.3, 0.3)]


@pytest.mark.parametrize(("mixture", "source", "tpsa", "psa"), TABLE)
def test_mask_targets_match_the_table(mixture, source, tpsa, psa):
    x = torch.tensor(mixture, dtype=torch.complex64).reshape(1, 1, 1)
    s = torch.tensor(source, dtype=torch.complex64).reshape(1, 1, 1, 1)
    assert mask_target(x, s, "tpsa").item() == pytest.approx(tpsa, abs=1e-6)
    assert mask_target(x, s, "psa").item() == pytest.approx(psa, abs=1e-6)
    assert mask_target(x, s, "msa").item() == pytest.approx(abs(source))


@pytest.mark.parametrize("kind", ["tpsa", "psa"])
def test_mask_target_of_a_silent_mixture_is_zero(kind):
    assert mask_target(torch.zeros(1, 2, 3) + 0j, torch.ones(1, 2, 2, 3) + 0j, kind).eq(0).all()


def test_binary_mask_assigns_bins_to_the_loudest_source_and_ties_to_none():
    magnitudes = torch.tensor([[3.0, 1, 2, 0, 5], [1, 2, 2, 0, 4], [0, 1, 1, 0, 5]])
    phases = torch.exp(1j * torch.arange(15.0)).reshape(3, 5)  # the mask looks at magnitudes only
    phases[:, [2, 4]] = 1  # keep the ties exact
    mask = ideal_binary_mask((magnitudes * phases).reshape(1, 3, 1, 5))
    assert mask.squeeze().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_binary_mask_assigns_bins_for_any_number_of_sources(count):
    sources = torch.randn(2, count, 6, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(count))
    sources[0, :, 2] = 0  # silence
    mask, loudness = ideal_binary_mask(sources), sources.abs()
    assert torch.equal(mask.sum(1), (loudness.amax(1) > 0).float())
    assert torch.equal(mask.argmax(1)[1], loudness.argmax(1)[1])


def test_oracle_masks_on_speech_rank_as_published():
    # METHOD 2.2: untruncated PSA 16.4, truncated 14.7, binary 13.5, magnitude ratio 12.7 dB
    voices = [soundfile.read(SPEECH / name / "0000.flac", dtype="float32")[0] for name in ("en-f", "fr-m")]
    samples = min(map(len, voices))
    waves = torch.stack([torch.from_numpy(v[:samples]) for v in voices])
    waves = (waves / waves.std(-1, keepdim=True)).unsqueeze(0)  # (1, 2, T)
    stft = STFT()
    sources, mixture = stft.forward(waves), stft.forward(waves.sum(1))
    magnitude = mixture.abs().unsqueeze(1).clamp_min(1e-9)
    masks = [
        mask_target(mixture, sources, "psa") / magnitude,
        mask_target(mixture, sources, "tpsa") / magnitude,
        ideal_binary_mask(sources),
        sources.abs() / sources.abs().sum(1, keepdim=True).clamp_min(1e-9),
    ]
    scores = [si_sdr(est=stft.inverse(m * mixture.unsqueeze(1), samples), ref=waves).mean().item() for m in masks]
    assert scores == sorted(scores, reverse=True), scores
    assert min(scores) > 5, scores

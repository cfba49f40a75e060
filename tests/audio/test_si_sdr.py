import math

import pytest
import torch

from sepclip.audio.si_sdr import pairwise_si_sdr, si_sdr


def waves(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orthogonal_noise(ref):
    """Return zero-mean noise with the energy of ``ref`` (..., T) and orthogonal to it."""
    noise, ref = (x - x.mean(-1, keepdim=True) for x in (waves(*ref.shape, seed=1), ref))
    noise = noise - (noise * ref).sum(-1, keepdim=True) / ref.square().sum(-1, keepdim=True) * ref
    return noise * (ref.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))


def test_si_sdr_matches_the_worked_example():
    est, ref = torch.tensor([[[1, -0.5, 2, -1.5]]]), torch.tensor([[[1.0, -1, 2, -2]]])
    assert si_sdr(est=est, ref=ref).item() == pytest.approx(24.608978, abs=5e-7)


@pytest.mark.parametrize("db", [-30, 0, 20, 100, 240])
def test_si_sdr_of_orthogonal_noise_is_its_ratio(db):
    ref = waves(1, 2, 4000)
    est = ref + orthogonal_noise(ref) * 10 ** (-db / 20)
    # at 240 dB the last bit of a float64 sample is a thousandth of the noise
    assert si_sdr(est=est, ref=ref).tolist() == [pytest.approx([db, db], abs=0.01)]


@pytest.mark.parametrize(
    "change", [lambda x: -x, lambda x: 1e-3 * x, lambda x: 7 * x + 3], ids=["sign", "gain", "mean"]
)
def test_si_sdr_ignores_sign_gain_and_mean(change):
    ref = waves(1, 2, 500)
    est = ref + 0.3 * waves(1, 2, 500, seed=2)
    want = si_sdr(est=est, ref=ref)
    torch.testing.assert_close(si_sdr(est=change(est), ref=ref), want)
    torch.testing.assert_close(si_sdr(est=est, ref=change(ref)), want)


@pytest.mark.parametrize("gain", [1.0, -2.0, 0.1, 1e-8])
def test_perfect_estimate_scores_inf(gain):
    ref = waves(1, 1, 8000)
    assert si_sdr(est=gain * ref, ref=ref).item() == math.inf


def test_orthogonal_estimate_scores_minus_inf():
    est, ref = torch.tensor([[[1.0, -1, 0, 0]]]), torch.tensor([[[0, 0, 1.0, -1]]])
    assert si_sdr(est=est, ref=ref).item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.5, 0.1])
def test_silent_wave_on_either_side_scores_nan(value, dtype):
    # 0.1 and a length that rounds: in float64 the mean of equal samples is not quite the sample
    silent, sound = torch.full((1, 1, 1000), value, dtype=dtype), waves(1, 1, 1000).to(dtype)
    assert si_sdr(est=silent, ref=sound).isnan().all()
    assert si_sdr(est=sound, ref=silent).isnan().all()


def test_silent_source_does_not_affect_other_pairs():
    ref, est = waves(1, 2, 100), waves(1, 2, 100, seed=3)
    want = pairwise_si_sdr(est=est, ref=ref)
    est[0, 0] = 0
    got = pairwise_si_sdr(est=est, ref=ref)
    assert got[0, 0].isnan().all()
    assert torch.equal(got[0, 1], want[0, 1])


def test_pairwise_si_sdr_scores_every_pair():
    est, ref = waves(2, 3, 200), waves(2, 4, 200, seed=4)
    table = pairwise_si_sdr(est=est, ref=ref)
    assert table.shape == (2, 3, 4)
    for e in range(3):
        for r in range(4):
            torch.testing.assert_close(table[:, e, r], si_sdr(est=est[:, e : e + 1], ref=ref[:, r : r + 1])[:, 0])

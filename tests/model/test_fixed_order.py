"""Sources that have an order of their own: no loss and no score permutes them."""

from dataclasses import replace

import pytest
import torch

from sepclip.audio.layout import Layout
from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr, si_sdr_improvement
from sepclip.errors import UserError
from sepclip.model.losses import LOSSES
from sepclip.model.separator import require_trainable
from tests.model.build import loss_settings
from tests.model.test_losses import outputs, perfect_outputs, permute_outputs, signals, transform_signals

ORDERED = ["mi", "snr", "tsnr", "si-sdr", "chimera"]
PLAIN = loss_settings()


@pytest.mark.parametrize("name", ORDERED)
def test_fixed_order_loss_grows_if_sources_are_exchanged(name):
    free = signals(sources=3)
    fixed = replace(free, fixed_order=True)
    best = perfect_outputs(free)
    right = LOSSES[name](best, fixed, PLAIN)
    torch.testing.assert_close(right, LOSSES[name](best, free, PLAIN))
    swapped = permute_outputs(best, [1, 0, 2])
    torch.testing.assert_close(LOSSES[name](swapped, free, PLAIN), right)
    assert (LOSSES[name](swapped, fixed, PLAIN) > right + 1e-5).all()


@pytest.mark.parametrize("name", ["mi", "snr", "tsnr", "si-sdr"])
def test_fixed_order_loss_is_the_mean_over_single_sources(name):
    truth, prediction = replace(signals(sources=3), fixed_order=True), outputs(sources=3)
    expected = []
    for index in range(3):
        # one source has but one order, so this is the loss that permutes
        alone = replace(
            truth,
            sources=truth.sources[:, index : index + 1],
            source_waves=truth.source_waves[:, index : index + 1],
            fixed_order=False,
        )
        heads = {"mask": prediction["mask"][:, index : index + 1], "wave": prediction["wave"][:, index : index + 1]}
        expected.append(LOSSES[name](heads, alone, PLAIN))
    torch.testing.assert_close(LOSSES[name](prediction, truth, PLAIN), torch.stack(expected).mean(0))


@pytest.mark.parametrize("name", ["snr", "si-sdr"])
def test_silent_stem_is_excluded_from_the_loss(name):
    prediction, truth = outputs(sources=3), replace(signals(sources=3), fixed_order=True)
    waves = truth.source_waves.clone()
    waves[:, 1] = 0
    silent = replace(truth, source_waves=waves)
    result = LOSSES[name](prediction, silent, PLAIN)
    two = replace(truth, source_waves=waves[:, [0, 2]])
    torch.testing.assert_close(result, LOSSES[name]({"wave": prediction["wave"][:, [0, 2]]}, two, PLAIN))
    result.sum().backward()
    assert prediction["wave"].grad[:, 1].abs().max() == 0 < prediction["wave"].grad[:, 2].abs().max()
    quiet = transform_signals(silent, lambda x: x * 0)
    assert LOSSES[name](prediction, quiet, PLAIN).tolist() == [0, 0]


def test_fixed_order_is_the_identity():
    pairwise = torch.tensor([[[1.0, 5.0], [7.0, 3.0]]])
    best, order = best_permutation(pairwise, maximise=True, fixed_order=True)
    assert (best.tolist(), order.tolist()) == ([2.0], [[0, 1]])
    assert best_permutation(torch.zeros(2, 9, 9), maximise=True, fixed_order=True)[1].shape == (2, 9)  # nothing to try


def test_improvement_in_fixed_order_excludes_silent_sources():
    ref = torch.randn(3, 2, 400, generator=torch.Generator().manual_seed(0))
    ref[1, 1] = 0
    ref[2] = 0
    mixture = ref.sum(1)
    est = ref + 0.1 * torch.randn(3, 2, 400, generator=torch.Generator().manual_seed(1))
    gains = si_sdr_improvement(est=est, ref=ref, mixture=mixture, fixed_order=True)
    pairs = pairwise_si_sdr(est=est, ref=ref).diagonal(dim1=1, dim2=2)  # (B, S)
    mixed = pairwise_si_sdr(est=mixture[:1, None], ref=ref[:1])[0, 0]  # (S,)
    assert gains.shape == (2,)
    torch.testing.assert_close(gains[0], (pairs[0] - mixed).mean())
    torch.testing.assert_close(gains[1], pairs[1, 0] - 100)  # its mixture is the one source that sounds
    swapped = si_sdr_improvement(est=est[:1].flip(1), ref=ref[:1], mixture=mixture[:1], fixed_order=True)
    assert swapped.item() < 0 < si_sdr_improvement(est=est[:1].flip(1), ref=ref[:1], mixture=mixture[:1]).item()


def test_losses_and_networks_without_order_raise():
    stems = Layout(44100, 2, 2, ("vocals", "drums"), fixed_order=True)
    for name in ("dc", "wkm"):
        with pytest.raises(UserError, match=r"\(vocals, drums\): choose --loss mi or chimera or snr or tsnr or si-sdr"):
            require_trainable(stems, loss=name, network="blstm")
        require_trainable(Layout(44100, 2, 2), loss=name, network="blstm")
    with pytest.raises(UserError, match="takes one channel and this data has 2"):
        require_trainable(stems, loss="snr", network="conv-tasnet")


def test_layout_describes_itself():
    assert str(Layout(8000, 2)) == "2 sources in any order (s1, s2), 1 channel at 8000 Hz"
    stems = Layout(44100, 2, 2, ("vocals", "drums"), fixed_order=True)
    assert str(stems) == "2 sources in fixed order (vocals, drums), 2 channels at 44100 Hz"
    assert Layout(8000, 2) == Layout(8000, 2, names=("s1", "s2"))
    with pytest.raises(ValueError, match="3 sources cannot have the names a, b"):
        Layout(8000, 3, names=("a", "b"))

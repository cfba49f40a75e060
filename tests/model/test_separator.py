import pytest
import torch

from sepclip.audio.stft import STFT
from sepclip.model.losses import LOSSES
from sepclip.model.separator import Separator

every_loss = pytest.mark.parametrize("loss", LOSSES)


def separator(loss="mi", level=-25.0, sources=2):
    made = Separator(
        rate_hz=8000,
        sources=sources,
        stft=STFT(64, 16),
        loss=loss,
        network="blstm",
        seed=0,
        input_level_dbfs=level,
        layers=1,
        hidden=8,
        dropout=0.0,
        embedding_size=5,
        input_norm="all",
    ).eval()
    with torch.no_grad():  # fresh weights answer every bin alike: sharpen them
        for head in made.network.heads.values():
            head.weight.mul_(20)
    return made


def wave(channels=1, samples=1003, seed=0):
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


@every_loss
@pytest.mark.parametrize("samples", [0, 1, 10, 63, 64, 1003])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_length_and_channel_count(loss, samples, channels):
    estimates = separator(loss, sources=3).separate(wave(channels, samples))
    assert estimates.shape == (3, channels, samples)
    assert estimates.isfinite().all()
    assert not estimates.requires_grad


@pytest.mark.parametrize("channels", [1, 2])
def test_masks_of_a_half_give_half_of_the_mixture(channels):
    made = separator()
    for parameter in made.network.heads["mask"].parameters():
        torch.nn.init.zeros_(parameter)  # sigmoid(0)
    torch.testing.assert_close(
        made.separate(wave(channels)), wave(channels).expand(2, -1, -1) / 2, rtol=0, atol=1e-6
    )  # float32 transform of a wave below 1


def test_estimates_by_clustering_add_up_to_the_mixture():
    estimates = separator("dc").separate(wave(2))
    assert estimates.abs().amax((1, 2)).min() > 0.01  # and neither of them is nothing
    torch.testing.assert_close(estimates.sum(0), wave(2), rtol=0, atol=1e-6)


@every_loss
@pytest.mark.parametrize("gain", [2.0**-10, 4.0, 1e-3, 30.0])
def test_masks_do_not_depend_on_the_level(loss, gain):
    made = separator(loss)
    quiet, loud = made.separate(wave()), made.separate(gain * wave())
    if gain in (2.0**-10, 4.0):  # nothing is rounded
        assert torch.equal(loud, gain * quiet)
    else:
        torch.testing.assert_close(loud / gain, quiet, rtol=0, atol=1e-5)
    masks = []
    for mixture in (wave(), gain * wave()):
        spectrum = made.stft.forward(mixture * made.level_gain(mixture))
        with torch.no_grad():
            masks.append(made.masks(made(spectrum), spectrum))
    torch.testing.assert_close(*masks, rtol=0, atol=1e-4)  # the sharpened head multiplies what was rounded


def test_without_an_input_level_masks_do_depend_on_it():
    made = separator(level=None)
    assert (made.separate(100 * wave()) / 100 - made.separate(wave())).abs().max() > 1e-3
    assert made.level_gain(wave(3)).tolist() == [[1], [1], [1]]


def test_input_level_is_reached_and_silence_left_alone():
    mixtures = torch.cat([wave(), 100 * wave(), torch.zeros(1, 1003)])
    levelled = mixtures * separator(level=-25.0).level_gain(mixtures)
    rms = levelled.square().mean(-1).sqrt()
    assert rms.tolist() == pytest.approx([10 ** (-25 / 20)] * 2 + [0], rel=1e-5)


@every_loss
@pytest.mark.parametrize("level", [-25.0, None])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_gives_silence(loss, level, channels):
    assert separator(loss, level).separate(torch.zeros(channels, 500)).eq(0).all()


@every_loss
def test_channels_that_cancel_are_separated_by_the_first(loss):
    made = separator(loss)
    stereo, mono = made.separate(torch.cat([wave(), -wave()])), made.separate(wave())[:, 0]
    torch.testing.assert_close(stereo, torch.stack([mono, -mono], 1), rtol=0, atol=1e-6)
    assert mono.abs().amax(-1).min() > 0.01


@every_loss
def test_order_of_the_channels_is_kept(loss):
    made = separator(loss)
    forth, back = made.separate(wave(2)), made.separate(wave(2).flip(0))
    torch.testing.assert_close(forth, back.flip(1), rtol=0, atol=1e-6)
    assert (forth[:, 0] - forth[:, 1]).abs().max() > 0.01

import pytest
import torch

from sepclip.audio.layout import Layout
from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.audio.stft import STFT
from sepclip.model.inference import BlockSeparator, factors
from sepclip.model.losses import LOSSES
from sepclip.model.network_base import WaveNetwork
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import losses_of
from tests.model.build import build_model, loss_settings

PAIRS = [(network, loss) for network in NETWORKS for loss in losses_of(network)]
every_pair = pytest.mark.parametrize(("network", "loss"), PAIRS)


def model(loss="mi", level=-25.0, sources=2, network="blstm", channels=1, fixed_order=False):
    layout = Layout(8000, sources, channels, fixed_order=fixed_order)
    made = build_model(loss, network, layout=layout, stft=STFT(64, 16), input_level_dbfs=level)
    with torch.no_grad():  # fresh weights answer every bin alike: sharpen them
        for head in getattr(made.network, "heads", {}).values():
            head.weight.mul_(20)
    return made


def separator(*given, **options):
    return BlockSeparator(model(*given, **options))


def wave(channels=1, samples=1003, seed=0):
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


@every_pair
@pytest.mark.parametrize("samples", [0, 1, 10, 64, 1003])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_length_and_channel_count(network, loss, samples, channels):
    estimates = separator(loss, sources=3, network=network).separate(wave(channels, samples))
    assert estimates.shape == (3, channels, samples)
    assert estimates.isfinite().all()
    assert not estimates.requires_grad


@pytest.mark.parametrize("channels", [1, 2])
def test_masks_of_a_half_give_half_of_the_mixture(channels):
    made = separator()
    for parameter in made.model.network.heads["mask"].parameters():
        torch.nn.init.zeros_(parameter)  # sigmoid(0)
    torch.testing.assert_close(
        made.separate(wave(channels)), wave(channels).expand(2, -1, -1) / 2, rtol=0, atol=1e-6
    )  # float32 transform of a wave below 1


def test_estimates_by_clustering_add_up_to_the_mixture():
    estimates = separator("dc").separate(wave(2))
    assert estimates.abs().amax((1, 2)).min() > 0.01  # and neither of them is nothing
    torch.testing.assert_close(estimates.sum(0), wave(2), rtol=0, atol=1e-6)


@every_pair
@pytest.mark.parametrize("gain", [2.0**-10, 4.0, 1e-3, 30.0])
def test_masks_do_not_depend_on_the_level(network, loss, gain):
    made = separator(loss, network=network)
    quiet, loud = made.separate(wave()), made.separate(gain * wave())
    if gain in (2.0**-10, 4.0):  # nothing is rounded
        assert torch.equal(loud, gain * quiet)
    else:
        torch.testing.assert_close(loud / gain, quiet, rtol=0, atol=1e-5)
    masks = []
    for mixture in (wave(), gain * wave()):
        levelled = mixture * made.model.level_gain(mixture)
        spectrum = made.stft.forward(levelled)
        with torch.no_grad():
            outputs = made.model(levelled, spectrum)
        masks.append(outputs["wave"] if made.takes_waves else made.model.masks(outputs, spectrum))
    torch.testing.assert_close(*masks, rtol=0, atol=1e-4)  # the sharpened head multiplies what was rounded


def test_without_an_input_level_masks_do_depend_on_it():
    made = separator(level=None)
    assert (made.separate(100 * wave()) / 100 - made.separate(wave())).abs().max() > 1e-3
    assert made.model.level_gain(wave(3)).tolist() == [[1], [1], [1]]


def test_input_level_is_reached_and_silence_left_alone():
    mixtures = torch.cat([wave(), 100 * wave(), torch.zeros(1, 1003)])
    levelled = mixtures * model(level=-25.0).level_gain(mixtures)
    rms = levelled.square().mean(-1).sqrt()
    assert rms.tolist() == pytest.approx([10 ** (-25 / 20)] * 2 + [0], rel=1e-5)


@every_pair
@pytest.mark.parametrize("level", [-25.0, None])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_gives_silence(network, loss, level, channels):
    assert separator(loss, level, network=network).separate(torch.zeros(channels, 500)).eq(0).all()


@every_pair
def test_channels_that_cancel_are_separated_by_the_first(network, loss):
    made = separator(loss, network=network)
    stereo, mono = made.separate(torch.cat([wave(), -wave()])), made.separate(wave())[:, 0]
    other = made.separate(-wave())[:, 0] if made.takes_waves else -mono  # it sees each channel as it is
    if made.takes_waves and (mono * other).sum() > (mono * other.flip(0)).sum():
        other = other.flip(0)
    torch.testing.assert_close(stereo, torch.stack([mono, other], 1), rtol=0, atol=1e-6)
    assert mono.abs().amax(-1).min() > 0.01


@every_pair
def test_order_of_the_channels_is_kept(network, loss):
    made = separator(loss, network=network)
    forth, back = made.separate(wave(2)), made.separate(wave(2).flip(0))
    torch.testing.assert_close(forth, back.flip(1), rtol=0, atol=1e-6)
    assert (forth[:, 0] - forth[:, 1]).abs().max() > 0.01


def example(made, waves):
    """Return a loss (B,) of a separator on sources (B, S, T), and the gradients of its network."""
    true = made.signals(waves.sum(1), waves)
    loss = LOSSES[made.loss](made.train()(true.mixture_wave, true.mixture), true, loss_settings())
    made.zero_grad()
    loss.mean().backward()
    return loss, {name: parameter.grad for name, parameter in made.named_parameters()}


def test_each_loss_has_a_network_and_each_network_a_loss():
    assert {loss for _, loss in PAIRS} == set(LOSSES)
    assert {network for network, _ in PAIRS} == set(NETWORKS)
    assert losses_of("conv-tasnet") == ["snr", "si-sdr"]


@every_pair
@pytest.mark.parametrize("sources", [2, 3])
def test_every_parameter_gets_a_gradient(network, loss, sources):
    made = model(loss, network=network, sources=sources)
    values, gradients = example(made, wave(2 * sources).reshape(2, sources, -1))
    assert values.shape == (2,)
    assert values.isfinite().all()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


@every_pair
@pytest.mark.parametrize("silent", [[0], [1], [0, 1]])
def test_silence_does_no_harm_in_training(network, loss, silent):
    made = model(loss, network=network)
    waves = wave(4).reshape(2, 2, -1)
    waves[1, silent] = 0
    values, gradients = example(made, waves)
    assert values.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@every_pair
def test_a_step_against_the_gradient_lowers_the_loss(network, loss):
    made, waves = model(loss, network=network), wave(4).reshape(2, 2, -1)
    before, gradients = example(made, waves)
    norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter -= 1e-3 * gradients[name] / norm
    after, _ = example(made, waves)
    assert after.mean() < before.mean()


def test_signals_are_brought_to_the_input_level_together():
    waves = wave(4).reshape(2, 2, -1)
    made = model()
    true = made.signals(waves.sum(1), waves)
    gain = made.level_gain(waves.sum(1)).unsqueeze(-1)
    torch.testing.assert_close(true.source_waves, gain * waves)
    torch.testing.assert_close(true.mixture_wave, true.source_waves.sum(1))
    torch.testing.assert_close(true.mixture, made.stft.forward(true.mixture_wave))
    torch.testing.assert_close(true.sources, made.stft.forward(true.source_waves))


def test_a_loss_of_waves_takes_no_spectra_of_the_sources():
    waves = wave(4).reshape(2, 2, -1)
    true = model("snr").signals(waves.sum(1), waves)
    assert true.sources.numel() == 0
    assert true.mixture.numel() > 0


@every_pair
def test_estimates_in_training_are_those_of_separation(network, loss):
    made = model(loss, network=network)
    mixture = wave()
    levelled = mixture * made.level_gain(mixture)
    spectrum = made.stft.forward(levelled)
    with torch.no_grad():
        estimates = made.estimates(made(levelled, spectrum), spectrum, mixture.shape[-1])[0]
    separated = BlockSeparator(made).separate(mixture)[:, 0]
    if LOSSES[loss].scale_free:
        estimates, separated = (waves / waves.norm(dim=-1, keepdim=True) for waves in (estimates, separated))
        signs = (estimates * separated).sum(-1, keepdim=True).sign()
        torch.testing.assert_close(estimates, signs * separated, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(estimates / made.level_gain(mixture), separated, rtol=0, atol=1e-6)


def test_a_network_of_waves_keeps_the_sources_of_all_channels_in_one_order():
    made = separator("snr", network="conv-tasnet")
    true = wave(2, seed=3)  # (S, T)
    true[:, 0] = 0.1

    class Swapping(WaveNetwork):
        """Gives the true sources, but the other way round for mixtures that begin below zero."""

        def forward(self, mixture):
            levels = mixture.norm(dim=-1) / true.sum(0).norm()
            waves = true.expand(len(mixture), -1, -1) * levels.reshape(-1, 1, 1)
            swapped = (mixture[:, 0] < 0).reshape(-1, 1, 1)
            return {"wave": torch.where(swapped, -waves.flip(1), waves)}

    made.model.network = Swapping(33, 2, ["wave"])
    mixture = torch.stack([true.sum(0), -0.5 * true.sum(0), 0.25 * true.sum(0)])
    estimates = made.separate(mixture)  # (S, C, T)
    gains = torch.tensor([1, -0.5, 0.25]).reshape(1, 3, 1)
    either = true.unsqueeze(1) * gains
    _, order = best_permutation(pairwise_si_sdr(est=estimates[:, 0].unsqueeze(0), ref=true.unsqueeze(0)), maximise=True)
    torch.testing.assert_close(estimates, either[order[0]], rtol=0, atol=1e-5)


def add_up(waves, mixture):
    return waves * factors(waves @ waves.mT, (waves @ mixture.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)


def test_waves_are_scaled_to_add_up_to_the_mixture():
    true = torch.randn(3, 2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = torch.tensor([[2.0, -0.1], [1e-6, 1e6], [-5, 3]], dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(add_up(factors * true, true.sum(1)), true, rtol=0, atol=1e-4)
    same = true[:, :1].expand(-1, 2, -1)
    torch.testing.assert_close(add_up(same, same.sum(1)).sum(1), same.sum(1), rtol=0, atol=1e-4)
    silent = torch.cat([true[:, :1], torch.zeros(3, 1, 500, dtype=torch.float64)], 1)
    torch.testing.assert_close(add_up(3 * silent, silent.sum(1)), silent, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_the_scale_free_loss_gives_adds_up_and_nothing_else_is_scaled(network):
    def remainder(loss, mixture):
        return (separator(loss, network=network).separate(mixture).sum(0) - mixture).norm() / mixture.norm()

    for channels in (1, 2):
        assert remainder("si-sdr", wave(channels)) < remainder("snr", wave(channels))

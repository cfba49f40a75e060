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


def make_model(loss="mi", level=-25.0, sources=2, network="blstm", channels=1, fixed_order=False):
    layout = Layout(8000, sources, channels, fixed_order=fixed_order)
    model = build_model(loss, network, layout=layout, stft=STFT(64, 16), input_level_dbfs=level)
    with torch.no_grad():  # fresh weights answer every bin alike: sharpen them
        for head in getattr(model.network, "heads", {}).values():
            head.weight.mul_(20)
    return model


def make_separator(*arguments, **options):
    return BlockSeparator(make_model(*arguments, **options))


def wave(channels=1, samples=1003, seed=0):
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


@every_pair
@pytest.mark.parametrize("samples", [0, 1, 10, 64, 1003])
@pytest.mark.parametrize("channels", [1, 3])
def test_separator_accepts_any_length_and_channel_count(network, loss, samples, channels):
    estimates = make_separator(loss, sources=3, network=network).separate(wave(channels, samples))
    assert estimates.shape == (3, channels, samples)
    assert estimates.isfinite().all()
    assert not estimates.requires_grad


@pytest.mark.parametrize("channels", [1, 2])
def test_masks_of_one_half_return_half_of_the_mixture(channels):
    separator = make_separator()
    for parameter in separator.model.network.heads["mask"].parameters():
        torch.nn.init.zeros_(parameter)  # sigmoid(0)
    torch.testing.assert_close(
        separator.separate(wave(channels)), wave(channels).expand(2, -1, -1) / 2, rtol=0, atol=1e-6
    )  # float32 transform of a wave below 1


def test_estimates_by_clustering_add_up_to_the_mixture():
    estimates = make_separator("dc").separate(wave(2))
    assert estimates.abs().amax((1, 2)).min() > 0.01  # and neither of them is nothing
    torch.testing.assert_close(estimates.sum(0), wave(2), rtol=0, atol=1e-6)


@every_pair
@pytest.mark.parametrize("gain", [2.0**-10, 4.0, 1e-3, 30.0])
def test_masks_do_not_depend_on_the_level(network, loss, gain):
    separator = make_separator(loss, network=network)
    quiet, loud = separator.separate(wave()), separator.separate(gain * wave())
    if gain in (2.0**-10, 4.0):  # nothing is rounded
        assert torch.equal(loud, gain * quiet)
    else:
        torch.testing.assert_close(loud / gain, quiet, rtol=0, atol=1e-5)
    masks = []
    for mixture in (wave(), gain * wave()):
        levelled = mixture * separator.model.level_gain(mixture)
        spectrum = separator.stft.forward(levelled)
        with torch.no_grad():
            outputs = separator.model(levelled, spectrum)
        masks.append(outputs["wave"] if separator.takes_waves else separator.model.masks(outputs, spectrum))
    torch.testing.assert_close(*masks, rtol=0, atol=1e-4)  # the sharpened head multiplies what was rounded


def test_masks_depend_on_the_level_without_an_input_level():
    separator = make_separator(level=None)
    assert (separator.separate(100 * wave()) / 100 - separator.separate(wave())).abs().max() > 1e-3
    assert separator.model.level_gain(wave(3)).tolist() == [[1], [1], [1]]


def test_level_gain_reaches_the_input_level_and_is_one_for_silence():
    mixtures = torch.cat([wave(), 100 * wave(), torch.zeros(1, 1003)])
    levelled = mixtures * make_model(level=-25.0).level_gain(mixtures)
    rms = levelled.square().mean(-1).sqrt()
    assert rms.tolist() == pytest.approx([10 ** (-25 / 20)] * 2 + [0], rel=1e-5)


@every_pair
@pytest.mark.parametrize("level", [-25.0, None])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_gives_silence(network, loss, level, channels):
    assert make_separator(loss, level, network=network).separate(torch.zeros(channels, 500)).eq(0).all()


@every_pair
def test_channels_that_cancel_are_separated_by_the_first(network, loss):
    separator = make_separator(loss, network=network)
    stereo, mono = separator.separate(torch.cat([wave(), -wave()])), separator.separate(wave())[:, 0]
    other = separator.separate(-wave())[:, 0] if separator.takes_waves else -mono  # it sees each channel as it is
    if separator.takes_waves and (mono * other).sum() > (mono * other.flip(0)).sum():
        other = other.flip(0)
    torch.testing.assert_close(stereo, torch.stack([mono, other], 1), rtol=0, atol=1e-6)
    assert mono.abs().amax(-1).min() > 0.01


@every_pair
def test_order_of_the_channels_is_kept(network, loss):
    separator = make_separator(loss, network=network)
    forth, back = separator.separate(wave(2)), separator.separate(wave(2).flip(0))
    torch.testing.assert_close(forth, back.flip(1), rtol=0, atol=1e-6)
    assert (forth[:, 0] - forth[:, 1]).abs().max() > 0.01


def example(model, waves):
    """Return a loss (B,) of a separator on sources (B, S, T), and the gradients of its network."""
    truth = model.signals(waves.sum(1), waves)
    loss = LOSSES[model.loss](model.train()(truth.mixture_wave, truth.mixture), truth, loss_settings())
    model.zero_grad()
    loss.mean().backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_each_loss_has_a_network_and_each_network_a_loss():
    assert {loss for _, loss in PAIRS} == set(LOSSES)
    assert {network for network, _ in PAIRS} == set(NETWORKS)
    assert losses_of("conv-tasnet") == ["snr", "tsnr", "si-sdr"]


@every_pair
@pytest.mark.parametrize("sources", [2, 3])
def test_every_parameter_gets_a_gradient(network, loss, sources):
    model = make_model(loss, network=network, sources=sources)
    values, gradients = example(model, wave(2 * sources).reshape(2, sources, -1))
    assert values.shape == (2,)
    assert values.isfinite().all()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


@every_pair
@pytest.mark.parametrize("silent", [[0], [1], [0, 1]])
def test_silence_has_finite_gradients_in_training(network, loss, silent):
    model = make_model(loss, network=network)
    waves = wave(4).reshape(2, 2, -1)
    waves[1, silent] = 0
    values, gradients = example(model, waves)
    assert values.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@every_pair
def test_step_against_the_gradient_lowers_the_loss(network, loss):
    model, waves = make_model(loss, network=network), wave(4).reshape(2, 2, -1)
    before, gradients = example(model, waves)
    norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 1e-3 * gradients[name] / norm
    after, _ = example(model, waves)
    assert after.mean() < before.mean()


def test_signals_have_the_gain_of_the_mixture():
    waves = wave(4).reshape(2, 2, -1)
    model = make_model()
    truth = model.signals(waves.sum(1), waves)
    gain = model.level_gain(waves.sum(1)).unsqueeze(-1)
    torch.testing.assert_close(truth.source_waves, gain * waves)
    torch.testing.assert_close(truth.mixture_wave, truth.source_waves.sum(1))
    torch.testing.assert_close(truth.mixture, model.stft.forward(truth.mixture_wave))
    torch.testing.assert_close(truth.sources, model.stft.forward(truth.source_waves))


def test_wave_loss_needs_no_spectra_of_the_sources():
    waves = wave(4).reshape(2, 2, -1)
    truth = make_model("snr").signals(waves.sum(1), waves)
    assert truth.sources.numel() == 0
    assert truth.mixture.numel() > 0


@every_pair
def test_estimates_in_training_equal_those_of_separation(network, loss):
    model = make_model(loss, network=network)
    mixture = wave()
    levelled = mixture * model.level_gain(mixture)
    spectrum = model.stft.forward(levelled)
    with torch.no_grad():
        estimates = model.estimates(model(levelled, spectrum), spectrum, mixture.shape[-1])[0]
    separated = BlockSeparator(model).separate(mixture)[:, 0]
    if LOSSES[loss].scale_free:
        estimates, separated = (waves / waves.norm(dim=-1, keepdim=True) for waves in (estimates, separated))
        signs = (estimates * separated).sum(-1, keepdim=True).sign()
        torch.testing.assert_close(estimates, signs * separated, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(estimates / model.level_gain(mixture), separated, rtol=0, atol=1e-6)


def test_wave_network_keeps_the_sources_of_all_channels_in_one_order():
    separator = make_separator("snr", network="conv-tasnet")
    truth = wave(2, seed=3)  # (S, T)
    truth[:, 0] = 0.1

    class Swapping(WaveNetwork):
        """Gives the true sources, but the other way round for mixtures that begin below zero."""

        def forward(self, mixture):
            levels = mixture.norm(dim=-1) / truth.sum(0).norm()
            waves = truth.expand(len(mixture), -1, -1) * levels.reshape(-1, 1, 1)
            swapped = (mixture[:, 0] < 0).reshape(-1, 1, 1)
            return {"wave": torch.where(swapped, -waves.flip(1), waves)}

    separator.model.network = Swapping(33, 2, ["wave"])
    mixture = torch.stack([truth.sum(0), -0.5 * truth.sum(0), 0.25 * truth.sum(0)])
    estimates = separator.separate(mixture)  # (S, C, T)
    gains = torch.tensor([1, -0.5, 0.25]).reshape(1, 3, 1)
    either = truth.unsqueeze(1) * gains
    _, order = best_permutation(
        pairwise_si_sdr(est=estimates[:, 0].unsqueeze(0), ref=truth.unsqueeze(0)), maximise=True
    )
    torch.testing.assert_close(estimates, either[order[0]], rtol=0, atol=1e-5)


def add_up(waves, mixture):
    return waves * factors(waves @ waves.mT, (waves @ mixture.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)


def test_waves_are_scaled_to_add_up_to_the_mixture():
    truth = torch.randn(3, 2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = torch.tensor([[2.0, -0.1], [1e-6, 1e6], [-5, 3]], dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(add_up(factors * truth, truth.sum(1)), truth, rtol=0, atol=1e-4)
    same = truth[:, :1].expand(-1, 2, -1)
    torch.testing.assert_close(add_up(same, same.sum(1)).sum(1), same.sum(1), rtol=0, atol=1e-4)
    silent = torch.cat([truth[:, :1], torch.zeros(3, 1, 500, dtype=torch.float64)], 1)
    torch.testing.assert_close(add_up(3 * silent, silent.sum(1)), silent, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_only_waves_of_the_scale_free_loss_are_scaled_to_the_mixture(network):
    def remainder(loss, mixture):
        return (make_separator(loss, network=network).separate(mixture).sum(0) - mixture).norm() / mixture.norm()

    for channels in (1, 2):
        assert remainder("si-sdr", wave(channels)) < remainder("snr", wave(channels))

"""A recording in blocks is the recording in one piece."""

import pytest
import soundfile
import torch

from sepclip.audio.resample import resample
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.model.network_base import MaskNetwork, WaveNetwork
from sepclip.separation.recording import WaveRecording
from sepclip.separation.stream import FITTED_FRAMES, SeparatedStream, batches, encode_together, scale, separate_wave
from tests.conftest import SPEECH
from tests.model.build import build_block_separator

RATE = 8000
CPU = torch.device("cpu")


def voice(name, seconds):
    wave = torch.from_numpy(soundfile.read(SPEECH / name / "0000.flac", dtype="float32")[0])
    return wave.repeat(-(-int(seconds * RATE) // len(wave)))[: int(seconds * RATE)]


class Bands(MaskNetwork):
    """Ideal masks for voices of which one lies below bin 40 and one above, in an order that changes at random."""

    def __init__(self, seed=0):
        super().__init__(129, 2, ["mask"])
        self.generator = torch.Generator().manual_seed(seed)

    def encode(self, magnitude, lengths):
        return magnitude

    def decode(self, hidden, head):
        low = (torch.arange(129) < 40).float().expand(hidden.shape[1], -1)  # (N, F)
        order = torch.randperm(2, generator=self.generator)
        return torch.stack([low, 1 - low])[order].unsqueeze(0)


@pytest.fixture
def speech():
    return (0.3 * voice("en-f", 47.3) + 0.2 * voice("ca-m", 47.3)).unsqueeze(0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rate_hz", [8000, 11025])
def test_stream_with_permuted_ideal_masks_equals_one_piece(seed, rate_hz, speech):
    separator = build_block_separator()
    separator.model.network = Bands(seed)
    mixture = resample(torch.cat([speech, 0.5 * speech]).repeat(1, 3)[:, : 130 * RATE], RATE, rate_hz)
    stream = SeparatedStream(separator, WaveRecording(mixture, rate_hz), CPU)
    waves = torch.cat(list(stream.chunks()), -1)
    whole = resample(separator.separate(resample(mixture, rate_hz, RATE)), RATE, rate_hz)[..., : mixture.shape[-1]]
    if (waves[0] - whole[0]).abs().max() > (waves[0] - whole[1]).abs().max():
        whole = whole.flip(0)
    torch.testing.assert_close(waves, whole, rtol=0, atol=1e-4)
    assert (stream.joins, stream.undecided_join_times) == (5, [])


@pytest.mark.parametrize("network", ["blstm", "conv-tasnet"])
@pytest.mark.parametrize("loss", ["snr", "si-sdr"])
def test_levels_and_scales_are_those_of_the_whole_file(network, loss, speech):
    separator = build_block_separator(loss, network)
    mixture = speech.clone()
    mixture[:, : 20 * RATE] *= 0.01  # blocks of very different levels
    if network == "blstm":
        network = separator.model.network  # frames by themselves: nothing depends on a block's context
        network.encode = lambda magnitude, _: magnitude
        network.decode = lambda level, _: torch.stack([level, 1 / (1 + level)], 1).clamp_max(3)
        tolerance = 1e-4
    else:
        separator.model.network = Thirds(129, 2, ["wave"])
        tolerance = 1e-4
    torch.testing.assert_close(
        separate_wave(separator, mixture, RATE, CPU), separator.separate(mixture), rtol=0, atol=tolerance
    )


class Thirds(WaveNetwork):
    """A network of waves that gives a third of the mixture and something that depends on its level."""

    def forward(self, mixture):
        return {"wave": torch.stack([mixture / 3, mixture.abs().clamp_max(0.1)], 1)}


def test_single_block_equals_one_piece(speech):
    for loss in ("mi", "dc", "chimera", "snr", "si-sdr"):
        separator = build_block_separator(loss)
        short = speech[:, : 7 * RATE]
        torch.testing.assert_close(
            separate_wave(separator, short, RATE, CPU), separator.separate(short), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("samples", [0, 1, 50, 255, 30 * RATE, 30 * RATE + 1, 54 * RATE])
@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 8000), (2, 16000), (3, 11025)])
@pytest.mark.parametrize("how", ["mid", "each"])
def test_stream_keeps_length_and_channel_count_at_any_rate(samples, channels, rate_hz, how):
    separator = build_block_separator(inference=InferenceOptions(channels=how))
    waves = separate_wave(separator, 0.1 * torch.randn(channels, samples), rate_hz, CPU)
    assert waves.shape == (2, channels, samples)
    assert waves.isfinite().all()


def test_stream_fits_centroids_once_for_a_recording(monkeypatch):
    separator, fits = build_block_separator("dc"), []
    fit = type(separator).fit
    monkeypatch.setattr(type(separator), "fit", lambda self, *bins: fits.append(len(bins[1])) or fit(self, *bins))
    stream = SeparatedStream(separator, WaveRecording(0.1 * torch.randn(1, 70 * RATE), RATE), CPU)
    assert sum(chunk.shape[-1] for chunk in stream.chunks()) == 70 * RATE
    assert len(fits) == 1
    assert fits[0] <= (FITTED_FRAMES + 10) * 129  # a sample of all frames


def test_channel_is_separated_as_if_it_were_alone(speech):
    for loss in ("mi", "snr"):
        separator = build_block_separator(loss, inference=InferenceOptions(channels="each"))
        other = voice("fr-m", 47.3).unsqueeze(0) * 0.1
        both = separate_wave(separator, torch.cat([speech, other]), RATE, CPU)
        separator = BlockSeparator(separator.model)
        for channel, wave in enumerate((speech, other)):
            alone = separate_wave(separator, wave, RATE, CPU)[:, 0]
            either = both[:, channel] if (both[0, channel] - alone[0]).abs().max() < 1e-3 else both[:, channel].flip(0)
            torch.testing.assert_close(either, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", ["mi", "dc", "snr"])
@pytest.mark.parametrize("channels", ["mid", "each"])
def test_short_recordings_encoded_together_equal_those_alone(loss, channels, speech, monkeypatch):
    separator, calls = build_block_separator(loss, inference=InferenceOptions(channels=channels)), []
    lengths = [40_000, 31_999, 3000, 100, 0, 36_001]
    waves = [speech[:, 7000 * index : 7000 * index + length] for index, length in enumerate(lengths)]
    waves[1] = torch.cat([waves[1], -0.5 * waves[1].flip(-1)])
    alone = [separate_wave(separator, wave, RATE, CPU) for wave in waves]
    encode = separator.model.network.encode
    monkeypatch.setattr(separator.model.network, "encode", lambda *args: calls.append(len(args[0])) or encode(*args))
    streams = [SeparatedStream(separator, WaveRecording(wave, RATE), CPU) for wave in waves]
    assert all(stream.is_short for stream in streams)
    encode_together(streams)
    assert calls == [5 if channels == "mid" else 7]  # an empty sound has no block; two channels are three items
    for stream, expected in zip(streams, alone, strict=True):
        result = torch.cat([torch.zeros_like(expected[..., :0]), *stream.chunks()], -1)
        torch.testing.assert_close(scale(result, stream.factors), expected, rtol=0, atol=1e-5)
    assert len(calls) == 1


def test_batches_have_nearly_the_same_size():
    assert [len(batch) for batch in batches(range(17), 8, 17)] == [5, 6, 6]
    assert list(batches([], 8, 0)) == []

"""Blocks by a trained network, beside the sound in one piece and beside the truth."""

from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.separation import stitching
from sepclip.separation import stream as streams
from sepclip.separation.blocks import BLOCKS
from sepclip.separation.recording import WaveRecording
from sepclip.separation.stitching import fade_place
from sepclip.separation.stream import FADE_SECONDS, SeparatedStream
from sepclip.training.run import Run
from tests.conftest import SPEECH, sepclip
from tests.processor import NEEDS_BF16

RATE = 8000
CPU = torch.device("cpu")


def voice(name: str, seconds: float) -> torch.Tensor:
    waves = [soundfile.read(path, dtype="float32")[0] for path in sorted((SPEECH / name).glob("*.flac"))]
    wave = np.concatenate(waves)
    return torch.from_numpy(np.resize(0.05 * wave / wave.std(), int(seconds * RATE)))


def mean_si_sdr(*, est: torch.Tensor, ref: torch.Tensor) -> float:
    score, _ = best_permutation(pairwise_si_sdr(est=est.unsqueeze(0), ref=ref.unsqueeze(0)), maximise=True)
    return float(score)


@pytest.fixture(scope="module")
def trained_separator(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> BlockSeparator:
    """Return a small network that is trained to separate, and so remembers what it heard seconds before."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    sizes = ("model.hidden=48", "data.segment_frames=250", "data.batch_size=8", "train.valid_every=100")
    sizes += ("optimizer.schedule=cosine",)
    settings = [part for size in sizes for part in ("--set", size)]
    process = sepclip("train", small_set, "--run", run, "--config", "demo", "--steps", 300, "--no-report", *settings)
    assert process.returncode == 0, process.stderr
    return Run.open(run).separator(CPU)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=NEEDS_BF16)])
@pytest.mark.parametrize("blocks_of", [BLOCKS, (15.0, 3.0)])  # of the shorter there is more to hear
def test_blocks_are_as_good_as_one_piece_and_their_seams_are_inaudible(
    blocks_of, bf16, trained_separator: BlockSeparator, monkeypatch
) -> None:
    monkeypatch.setattr(streams, "BLOCKS", blocks_of)
    ref = torch.stack([voice("en-f", 95.3), voice("ca-m", 95.3)])  # (S, T)
    mixture = ref.sum(0, keepdim=True)
    places = []
    monkeypatch.setattr(stitching, "fade_place", lambda *arguments: places.append(fade_place(*arguments)) or places[-1])
    trained_separator = BlockSeparator(trained_separator.model, InferenceOptions(precision="bf16" if bf16 else "fp32"))
    stream = SeparatedStream(trained_separator, WaveRecording(mixture, RATE), CPU)
    whole, blocks = trained_separator.separate(mixture)[:, 0], torch.cat(list(stream.chunks()), -1)[:, 0]
    assert mean_si_sdr(est=blocks, ref=ref) == pytest.approx(mean_si_sdr(est=whole, ref=ref), abs=0.1)
    energy = min(
        ((blocks[list(p)] - whole).square().sum(0) for p in permutations(range(2))), key=lambda each: float(each.sum())
    )  # (T,)
    seams = torch.zeros(mixture.shape[-1], dtype=torch.bool)
    fade = round(FADE_SECONDS * RATE)
    for start, place in zip(stream.blocks.starts[1:], places, strict=True):
        seams[start + place : start + place + fade] = True
    voices = whole.square().sum(0).mean()
    rounding = 1e-11 * voices  # 110 dB below the voices
    assert len(places) == len(stream.blocks.starts) - 1 >= 3
    uneven = 2 if bf16 else 1  # its rounding is louder where the voices are, and there are few seams
    assert energy[seams].mean() <= uneven * energy[~seams].mean() + rounding
    least = 1e-4 if blocks_of == BLOCKS else 1e-3  # and 40 dB below, wherever it is, or 30 dB with less context
    assert energy.mean() < least * voices
    assert blocks_of == BLOCKS or energy.mean() > rounding  # there is something to hear


def conversation(seconds: float, seed: int = 0) -> torch.Tensor:
    """Return two voices (S, T) that take turns of 1 to 6 s, speak at once for half of the time, and pause."""
    chance = np.random.default_rng(seed)
    ref = torch.stack([voice("en-f", seconds), voice("ca-m", seconds)])
    begin, speaks = 0, torch.zeros(2, ref.shape[-1])
    while begin < ref.shape[-1]:
        end = begin + int(chance.uniform(1, 6) * RATE)
        kind = chance.choice(4, p=[0.5, 0.2, 0.2, 0.1])  # both, either, nobody
        speaks[[0, 1] if kind == 0 else [kind - 1] if kind < 3 else [], begin:end] = 1
        begin = end
    return ref * speaks


class Oracle(BlockSeparator):
    """Masks of the true voices with errors of their own in every block, whose order changes at random.

    It knows where a sample lies in the recording, also behind an anchor, from a second channel that counts the samples.
    """

    count = 2.0**-60  # of a sample, in the second channel

    def finish(self, block, conditions, encoded):  # type: ignore[no-untyped-def]
        true = self.true[:, (block[1] / self.count).round().long()]  # (S, L)
        spectra = self.stft.forward(true)
        masks = spectra.abs() / spectra.abs().sum(0).clamp_min(1e-9)  # (S, N, F)
        noise = torch.rand(masks.shape, generator=self.chance)
        masks = (0.75 * masks + 0.25 * noise)[torch.randperm(2, generator=self.chance)]
        waves = self.stft.inverse(masks * self.stft.forward(block[:1]), block.shape[-1])  # (S, L)
        return torch.stack([waves, waves], 1)  # (S, C, L)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_voices_of_a_long_conversation_keep_their_outputs(
    trained_separator: BlockSeparator, seed: int, monkeypatch
) -> None:
    ref = conversation(600, seed)
    monkeypatch.setattr(trained_separator, "__class__", Oracle)
    trained_separator.true, trained_separator.chance = ref, torch.Generator().manual_seed(seed)
    recording = WaveRecording(torch.stack([ref.sum(0), torch.arange(ref.shape[-1]) * Oracle.count]), RATE)
    stream = SeparatedStream(trained_separator, recording, CPU)
    waves = torch.cat(list(stream.chunks()), -1)[:, 0]  # (S, T)
    starts, length = stream.blocks.starts, stream.blocks.length
    edges = [0, *((a + length + b) // 2 for a, b in pairwise(starts)), ref.shape[-1]]
    oracle = waves.clone()
    for begin, end in pairwise(edges):
        piece, true = waves[:, begin:end], ref[:, begin:end]
        distance = (piece.unsqueeze(1) - true).square().sum(-1).unsqueeze(0)  # (1, est, ref)
        oracle[:, begin:end] = piece[best_permutation(distance, maximise=False)[1][0]]
    assert stream.joins == len(starts) - 1 > 20
    gained = mean_si_sdr(est=oracle, ref=ref) - mean_si_sdr(est=waves, ref=ref)
    assert gained <= 0.3, f"{gained:.2f} dB; {len(stream.undecided_join_times)} of {stream.joins} joins undecided"
    assert stream.undecided_join_times == []

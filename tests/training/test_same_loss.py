"""The same recipes give the same loss, whether mixtures are written, mixed when read, or read in place."""

import pytest
import torch

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.corpora import corpora
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training.state import build_separator
from sepclip.training.step import compute_loss
from tests.conftest import TINY, sepclip


@pytest.fixture(scope="module")
def sets(speech, tmp_path_factory):
    """Return the same mixtures as a written set, as recipes alone, and as the written tree read in place."""
    folder = tmp_path_factory.mktemp("sets")
    for name, more in (("written", ()), ("recipes", ("--no-audio",))):
        result = sepclip("prepare", "speakers", speech, folder / name, "--tr", 8, "--cv", 3, "--tt", 3, *more)
        assert result.returncode == 0, result.stderr
    corpora()["wsj0-2mix"].prepare(folder / "written", folder / "place")
    return [MixtureSet.open(folder / name) for name in ("written", "recipes", "place")]


@pytest.mark.parametrize("loss", ["mi", "si-sdr"])
def test_losses_are_the_same_segment_for_segment(sets, loss):
    config = load_config("demo", [*TINY, f"loss.name={loss}"], {})
    torch.manual_seed(0)
    separator = build_separator(config, Layout(8000, 2)).eval()
    segment = separator.stft.samples(60)
    results = []
    for mixtures in sets:
        batches = training_data(mixtures, segment=segment, batch_size=4, dynamic=False, seed=0, memory_gib=1)
        with torch.no_grad():
            losses = [compute_loss(separator, batches.batch(step), config).loss for step in range(4)]
        results.append(torch.cat(losses))
    assert [len(losses) for losses in results] == [16, 16, 16]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert len(results[0].unique()) > 8

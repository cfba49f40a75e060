"""Overlap and single voices: the arithmetic of turns, and dynamic mixtures that keep it."""

import random

import numpy as np
import pytest

from sepclip.audio.activity import hop_levels, is_active
from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.chance import generator
from sepclip.mixing.conversation import (
    Conversation,
    OverlapRange,
    Pairing,
    parse_overlap,
    turns_in_excerpt,
    turns_of_utterances,
)
from sepclip.mixing.dynamic_voices import Augmentation
from tests.mixing.conftest import make_corpus, prepare

RATE = 8000


def covered(turns, samples):
    """Return how many voices speak in each sample."""
    voices = np.zeros(samples, int)
    for start, stop in turns:
        voices[start:stop] += 1
    return voices


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.8, 1.0])
def test_turns_in_an_excerpt_fill_it_and_overlap_as_drawn(overlap):
    for seed in range(50):
        turns = turns_in_excerpt(overlap, 16000, 4000, random.Random(seed))
        voices = covered(turns, 16000)
        assert voices.min() >= 1
        assert (voices == 2).mean() == pytest.approx(overlap, abs=1e-4)
        assert min(stop - start for start, stop in turns) >= 4000
        assert (turns[0][0], turns[1][1]) == (0, 16000)


@pytest.mark.parametrize("lengths", [(16000, 16000), (40000, 9000), (9000, 40000), (12000, 15000)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_turns_of_utterances_overlap_as_drawn_and_leave_no_gap(lengths, overlap):
    for seed in range(20):
        turns = turns_of_utterances(overlap, lengths, random.Random(seed))
        assert all(0 < used <= length for (_, used), length in zip(turns, lengths, strict=True))
        total = max(start + used for start, used in turns)
        voices = covered([(start, start + used) for start, used in turns], total)
        assert voices.min() >= 1
        assert (voices == 2).mean() == pytest.approx(overlap, abs=2e-4)


def test_shares_of_a_conversation_are_drawn_as_weighted():
    conversation = Conversation((OverlapRange(0.5, 1, 60), OverlapRange(0, 0.5, 25)), single=0.15)
    chance = random.Random(0)
    single = np.mean([conversation.draw_is_single(chance) for _ in range(4000)])
    overlaps = np.array([conversation.draw_overlap(chance) for _ in range(4000)])
    assert single == pytest.approx(0.15, abs=0.02)
    assert (overlaps >= 0.5).mean() == pytest.approx(60 / 85, abs=0.03)
    assert overlaps.min() < 0.02
    assert overlaps.max() > 0.98


def test_overlap_is_read_from_text():
    assert parse_overlap(["0.5,1", "0,0.5,25"]) == (OverlapRange(0.5, 1), OverlapRange(0, 0.5, 25))
    for text in ("1,0", "0.5", "-0.1,1", "0,1.5", "a,b", "0,1,0", "0,1,2,3", "nan,1"):
        with pytest.raises(UserError, match="--overlap"):
            parse_overlap([text])


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversation")
    corpus = make_corpus(folder / "corpus", name="{voice}/{index}.flac")
    return prepare(corpus, folder / "set", tr=12, audio=False, split="within")


def batches(mixtures, count=6, batch_size=16, segment=16000, segments=(), **options):
    made = training_data(
        mixtures,
        segment=segment,
        batch_size=batch_size,
        dynamic=True,
        seed=3,
        memory_gib=1.0,
        augmentation=Augmentation(**options),
        segments=segments,
    )
    return [made.batch(step) for step in range(count)]


def activity(wave):
    return is_active(hop_levels(wave, RATE))


def test_dynamic_conversations_overlap_less_and_every_voice_is_heard(mixtures):
    halves = Conversation((OverlapRange(0.0, 0.3),))
    for batch in batches(mixtures, conversation=halves):
        for mixture, sources in zip(batch.mixture.numpy(), batch.sources.numpy(), strict=True):
            np.testing.assert_allclose(mixture, sources.sum(0), atol=1e-6)
            speaking = (sources != 0).sum(0)
            assert (speaking == 2).mean() <= 0.31
            for source in sources:
                assert activity(source).sum() >= 40  # half a second, less what the edges of hops cost


def test_single_voices_leave_the_other_source_silent_in_either_place(mixtures):
    empty = []
    for batch in batches(mixtures, count=12, conversation=Conversation(single=0.5)):
        for sources in batch.sources.numpy():
            empty.append(tuple(not source.any() for source in sources))
    assert not [pair for pair in empty if all(pair)]
    share = np.mean([any(pair) for pair in empty])
    assert share == pytest.approx(0.5, abs=0.12)
    assert {(True, False), (False, True)} <= set(empty)


def test_levels_of_conversations_are_those_of_the_law(mixtures):
    batch = batches(mixtures, count=1, batch_size=40, conversation=Conversation((OverlapRange(0.5, 1),)))[0]
    levels = []
    for sources in batch.sources.numpy():
        active = [source[np.repeat(activity(source), 80)[: len(source)]] for source in sources]
        levels.append([20 * np.log10(np.sqrt(np.square(wave).mean())) for wave in active])
    levels = np.array(levels)
    assert np.median(levels) == pytest.approx(-25, abs=3)
    assert np.median(np.abs(levels[:, 0] - levels[:, 1])) < 6


def test_pairs_come_from_one_corpus_as_often_as_asked(mixtures):
    voices = ["ca-m", "en-f", "fr-m", "it-f", "ru-m"]
    for share in (0.0, 0.5, 1.0):
        pairing = Pairing.of(voices, share, "[a-z]$")  # the last letter: f or m
        pairs = [pairing.draw(generator(0, "pairs", index), voices, 2) for index in range(400)]
        counts = [sum(voice in pair for pair in pairs) for voice in voices]
        assert all(first != second for first, second in pairs)
        assert min(counts) > 60
        same = np.mean([first[-1] == second[-1] for first, second in pairs])
        assert same == pytest.approx(share, abs=0.08)
    with pytest.raises(UserError, match="finds no corpus in the voice"):
        batches(mixtures, same_corpus=0.5, corpus_from="^[0-9]+")


def test_excerpts_have_the_lengths_that_are_drawn(mixtures):
    lengths = [batch.mixture.shape[1] for batch in batches(mixtures, count=60, segments=((4000, 70), (8000, 30)))]
    assert set(lengths) == {4000, 8000}
    assert np.mean([length == 4000 for length in lengths]) == pytest.approx(0.7, abs=0.2)


def test_batches_of_a_step_do_not_depend_on_earlier_ones(mixtures):
    options = {"conversation": Conversation((OverlapRange(0, 1),), 0.2), "equaliser_db": 6.0, "telephone": 0.5}
    options |= {"coloured_noise_db": (15.0, 40.0), "speed": (0.85, 1.18), "segments": ((4000, 1), (8000, 1))}
    first, again = (
        batches(mixtures, count=3, batch_size=4, **options),
        batches(mixtures, count=3, batch_size=4, **options),
    )
    for one, other in zip(first, again, strict=True):
        assert one.mixture.equal(other.mixture)
        assert one.sources.equal(other.sources)
        assert one.mixture.isfinite().all()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.overlap=[0.5,0.2]", "data.overlap"),
        ("data.overlap=3", "data.overlap"),
        ("data.single=1", "data.single"),
        ("data.telephone=1.5", "data.telephone"),
        ("data.corpus_from='['", "not a regular expression"),
        ("data.segments=[[250,0]]", "data.segments"),
    ],
)
def test_wrong_settings_are_refused(setting, words):
    with pytest.raises(UserError, match=words):
        load_config(settings=["data.dynamic=true", setting])


@pytest.mark.parametrize("setting", ["overlap=[0.5,1]", "single=0.1", "equaliser_db=6", "segments=[[250,1]]"])
def test_settings_of_dynamic_voices_need_dynamic_mixing(setting):
    with pytest.raises(UserError, match=r"data\.dynamic=true"):
        load_config(settings=[f"data.{setting}"])
    assert load_config(settings=["data.dynamic=true", f"data.{setting}"]).data.augmentation() is not None

"""``prepare speakers --overlap`` and ``--single``: recipes, waves, statistics, and what reads them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sepclip.audio.activity import hop_levels, is_active
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from tests.conftest import sepclip, train_tiny
from tests.mixing.conftest import every_recipe, make_corpus, prepare, samples, tree, write_wave

RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def conversations(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "conversations"
    return prepare(corpus, out, tr=30, cv=6, tt=8, split="within", overlap=["0.5,1,60", "0,0.5,25"], single=0.3)


def activity(wave):
    return is_active(hop_levels(wave / 32768, RATE))


def test_waves_on_disk_are_those_of_the_recipes(conversations, corpus, tmp_path):
    bare = prepare(
        corpus, tmp_path / "bare", tr=30, cv=6, tt=8, split="within", overlap=["0.5,1,60", "0,0.5,25"], single=0.3,
        audio=False,
    )  # fmt: skip
    for split, recipe in every_recipe(conversations):
        written = np.stack([samples(conversations.wave_path(split, part, recipe.name)) for part in ("mix", "s1", "s2")])
        np.testing.assert_array_equal(written, bare.waves(split, recipe))
        assert written.shape[1] == recipe.length
        np.testing.assert_array_equal(written[0], written[1:].sum(0))


def test_single_voices_have_a_silent_source_in_either_place(conversations):
    recipes = [recipe for _, recipe in every_recipe(conversations)]
    empty = [tuple(source.absent for source in recipe.sources) for recipe in recipes]
    assert not [pair for pair in empty if all(pair)]
    assert np.mean([any(pair) for pair in empty]) == pytest.approx(0.3, abs=0.15)
    assert {(True, False), (False, True)} <= set(empty)
    for split, recipe in every_recipe(conversations):
        for source, wave in zip(recipe.sources, conversations.waves(split, recipe)[1:], strict=True):
            assert source.absent != bool(wave.any())


def test_voices_take_turns_as_drawn_and_each_is_heard(corpus, tmp_path):
    for text, low, high in (("0,0", 0, 0), ("0.2,0.3", 0.2, 0.3), ("1,1", 1, 1)):
        made = prepare(corpus, tmp_path / text, tr=12, split="within", overlap=[text])
        for split, recipe in every_recipe(made):
            turns = [source.turn for source in recipe.sources]
            both = sum(used for _, _, used in turns) - recipe.length
            assert low - 1e-3 <= both / recipe.length <= high + 1e-3
            assert min(start for start, _, _ in turns) == 0
            for wave in made.waves(split, recipe)[1:]:
                assert activity(wave).sum() >= 45  # half a second, less what the edges of hops cost


def test_levels_are_measured_by_active_speech(conversations):
    about = json.loads((conversations.path / "set.json").read_text())
    assert about["levels"]["by"] == about["settings"]["level"] == "p56"
    assert about["format"] == 2
    assert about["settings"]["single"] == 0.3


def test_statistics_say_how_much_overlaps(corpus, tmp_path):
    overlaps = []
    for text in ("0,0", "0.5,0.5", "1,1"):
        made = prepare(corpus, tmp_path / text, tr=12, split="within", overlap=[text], audio=False)
        overlaps.append(made.about["statistics"]["tr"]["overlap"])
    assert overlaps[0] < 0.02
    assert overlaps[0] < overlaps[1] < overlaps[2]
    assert overlaps[2] > 0.6


def test_the_same_seed_gives_the_same_bytes_and_the_same_command_is_finished(corpus, tmp_path):
    options = {"split": "within", "overlap": ["0,1"], "single": 0.2, "audio": False}
    prepare(corpus, tmp_path / "one", **options)
    before = tree(tmp_path / "one")
    prepare(corpus, tmp_path / "two", **options)
    assert tree(tmp_path / "two") == before
    prepare(corpus, tmp_path / "one", **options)
    assert tree(tmp_path / "one") == before
    with pytest.raises(UserError, match="single"):
        prepare(corpus, tmp_path / "one", **{**options, "single": 0.3})


def test_test_mixtures_are_all_different(conversations):
    for split in ("cv", "tt"):
        pairs = [frozenset((s.path, s.offset) for s in r.sources if not s.absent) for r in conversations.recipes(split)]
        assert len(set(pairs)) == len(pairs)


def test_dynamic_mixing_draws_from_whole_utterances(conversations):
    batch = training_data(
        conversations, segment=8000, batch_size=8, dynamic=True, seed=0, memory_gib=1.0
    ).batch(0)  # fmt: skip
    assert (batch.sources.abs().amax(-1) > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": ["1,0"]}, "--overlap 1,0"),
        ({"overlap": ["0,1"], "mode": "max"}, "--mode max"),
        ({"overlap": ["0,1"], "sources": 3}, "--overlap is for mixtures of two voices"),
        ({"single": 1.0}, "--single 1"),
        ({"same_corpus": 1.5}, "--same-corpus 1.5"),
        ({"same_corpus": 0.5, "corpus_from": "["}, "--corpus-from"),
        ({"same_corpus": 0.5, "corpus_from": "^[0-9]"}, "finds no corpus"),
    ],
)
def test_wrong_options_are_refused(corpus, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        prepare(corpus, tmp_path / "out", split="within", **options)


def test_a_set_of_conversations_trains_scores_and_is_described(conversations, tmp_path):
    run = tmp_path / "run"
    result = train_tiny(conversations.path, run, "--loss", "tsnr", "--no-report")
    assert result.returncode == 0, result.stderr
    result = sepclip("eval", run, conversations.path, "--metrics", "si_sdr", "--oracles", "none", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    silent = [row for row in rows if row["reason"] == "silent reference"]
    absent = sum(source.absent for recipe in conversations.recipes("tt") for source in recipe.sources)
    assert len(silent) == absent
    assert sepclip("info", conversations.path).returncode == 0
    assert MixtureSet.open(conversations.path).recipes("tr")[0].sexes is not None


def test_noise_is_below_the_voice_that_is_there(corpus, tmp_path):
    write_wave(tmp_path / "noise" / "a.wav", np.random.default_rng(0).normal(0, 0.1, RATE * 20))
    options = {"split": "within", "single": 0.9, "noise": tmp_path / "noise", "noise_snr": "7,7", "audio": False}
    for _, recipe in every_recipe(prepare(corpus, tmp_path / "set", tr=12, **options)):
        assert recipe.snr_db == pytest.approx(7, abs=1e-3)


def test_voice_lists_decide_who_trains_and_who_tests(corpus, tmp_path):
    file = tmp_path / "voices.yaml"
    file.write_text("cv: [en-f, ca-m]\ntt: [it-f]\n")
    with pytest.raises(UserError, match="need 2 voices"):
        prepare(corpus, tmp_path / "one", voices=file)
    file.write_text("cv: [ca-m, en-f]\ntt: [it-f, ru-m]\n")
    with pytest.raises(UserError, match="need 2 voices"):  # fr-m is left alone to train
        prepare(corpus, tmp_path / "alone", voices=file)
    more = make_corpus(tmp_path / "more", voices=("ca-m", "en-f", "fr-m", "it-f", "ru-m", "fr-f"))
    made = prepare(more, tmp_path / "two", voices=file, audio=False)
    heard = {split: {s.voice for r in made.recipes(split) for s in r.sources} for split in ("tr", "cv", "tt")}
    assert heard == {"tr": {"fr-m", "fr-f"}, "cv": {"ca-m", "en-f"}, "tt": {"it-f", "ru-m"}}
    assert {recipe.group for recipe in made.recipes("cv")} == {"unseen"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cv: [en-f, ca-m]", "write lists of voices by split"),
        ("[en-f]", "write lists of voices by split"),
        ("cv: en-f\ntt: [it-f]", "cv is not a list"),
        ("cv: [1, 2]\ntt: [it-f]", "cv is not a list"),
        ("cv: [en-f, ca-m]\ntt: [en-f, it-f]", "en-f is there twice"),
        ("cv: [en-f, nobody]\ntt: [ca-m, it-f]", "nobody"),
        ("cv: [", "not YAML"),
    ],
)
def test_wrong_voice_lists_are_refused(corpus, tmp_path, text, words):
    (tmp_path / "voices.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        prepare(corpus, tmp_path / "out", voices=tmp_path / "voices.yaml")


def test_voices_of_the_pretrained_separators_are_twenty_and_more_and_apart():
    import yaml

    import sepclip.pretrained as package

    lists = yaml.safe_load((Path(package.__path__[0]) / "open-speech-voices.yaml").read_text())
    counts = {split: Counter(voice[:3] for voice in voices) for split, voices in lists.items()}
    assert counts == {"cv": {"lt_": 10, "so_": 20, "ls_": 20}, "tt": {"so_": 20, "ls_": 20}}
    assert not set(lists["cv"]) & set(lists["tt"])

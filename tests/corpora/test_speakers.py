import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch

from sepclip import parallel
from sepclip.audio.resample import resample
from sepclip.cli import main
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.mixing.render import SetFolders, render_scene
from tests.conftest import assert_told, sepclip
from tests.mixing.conftest import (
    VOICES,
    WHOLE,
    every_recipe,
    make_corpus,
    prepare,
    samples,
    sentence,
    tree,
    used,
    write_wave,
)


def told(capsys, *arguments):
    """Run `sepclip prepare speakers` and return its exit code, stdout and the lines of stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "speakers", *map(str, arguments)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err.splitlines()


def voices_and_paths(mixtures, group):
    """Return, for each split, the voices and the files of the mixtures of one group."""
    recipes = [[recipe for recipe in mixtures.recipes(split) if recipe.group == group] for split in SPLITS]
    return [used(found, "voice") for found in recipes], [used(found, "path") for found in recipes]


def test_what_was_made_and_what_was_left_out_is_told_and_recorded(tmp_path, capsys):
    root, out = make_corpus(tmp_path / "voices"), tmp_path / "out"
    (root / "en-f" / "bad.wav").write_text("no sound")
    (root / "en-f" / "._0.flac").write_text("")
    write_wave(root / "fr-m" / "short.wav", samples(sentence("fr-m"))[:4000])
    code, stdout, notes = told(capsys, root, out, "--tr", 6, "--cv", 3, "--tt", 5, "--unseen", "en-f,ru-m")
    assert code == 0
    assert stdout.startswith(f"wrote mixtures to {out}: tr 0.")
    assert [f"({words})" in stdout for words in ("6 seen", "3 seen", "3 seen, 5 unseen")] == [True] * 3
    left_out = json.loads((out / "set.json").read_text())["left_out"]
    assert list(left_out) == ["en-f/._0.flac", "en-f/bad.wav", "fr-m/short.wav"]
    assert notes == [
        f"reading 22 files in {root}",
        f"found 5 voices, 20 usable files, 1.9 min in {root}",
        "left out 3 files (1 hidden, 1 not readable as sound, 1 short), all named in set.json:",
        *[f"  {name}: {reason}" for name, reason in left_out.items()],
        "split within voices",
        "tt seen: 5 asked for, but the voices give only 3 different mixtures",
    ]


def test_one_seed_gives_the_same_bytes_on_any_number_of_threads(corpus, mixtures, tmp_path, monkeypatch):
    for threads in (1, 7):
        monkeypatch.setattr(parallel, "cores", lambda threads=threads: threads)
        assert tree(prepare(corpus, tmp_path / f"{threads}", **WHOLE).path) == tree(mixtures.path)
    other = tree(prepare(corpus, tmp_path / "other", **WHOLE, seed=1).path)
    assert not {other[f"{split}.jsonl"] for split in SPLITS} & set(tree(mixtures.path).values())


def test_resampling_gives_the_same_bytes_on_any_number_of_threads(tmp_path):
    for voice in VOICES[:3]:
        for index in range(3):
            write_wave(tmp_path / "voices" / voice / f"{index}.wav", samples(sentence(voice, index)), 11025)
    for threads in ("1", "3"):
        out = tmp_path / threads
        made = sepclip("prepare", "speakers", tmp_path / "voices", out, "--tr", 4, OMP_NUM_THREADS=threads)
        assert made.returncode == 0, made.stderr
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_more_mixtures_are_the_same_and_then_others(corpus, mixtures, tmp_path):
    more = prepare(corpus, tmp_path / "more", **WHOLE | {"tr": 60}, audio=False)
    assert len(more.recipes("tr")) == 60
    assert more.recipes("tr")[:20] == mixtures.recipes("tr")
    assert more.recipes("cv") == mixtures.recipes("cv")


def test_twelve_voices_are_split_by_voices_and_fewer_within(mixtures, tmp_path):
    for third in range(3):
        make_corpus(tmp_path / "voices", f"{{voice}}{third}/{{index}}.flac", VOICES[:4], files=2, first=2 * third)
    twelve = prepare(tmp_path / "voices", tmp_path / "twelve")
    seen, unseen = (voices_and_paths(twelve, group)[0] for group in ("seen", "unseen"))
    assert [len(voices) for voices in (*seen, *unseen)] == [8, 0, 0, 0, 2, 2]
    assert len(set.union(*seen, *unseen)) == 12
    voices, paths = voices_and_paths(mixtures, "seen")
    assert voices == [set(VOICES)] * 3
    assert sum(map(len, paths)) == len(set.union(*paths))


def test_unseen_voices_are_heard_in_their_test_group_alone(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", unseen=" en-f,fr-m")
    assert voices_and_paths(made, "seen")[0] == [{"ca-m", "it-f", "ru-m"}] * 3
    assert voices_and_paths(made, "unseen")[0] == [set(), set(), {"en-f", "fr-m"}]
    assert {recipe.sexes for recipe in made.recipes("tt") if recipe.group == "unseen"} == {"fm"}
    assert {recipe.sexes for recipe in made.recipes("tr")} == {"fm", "mm"}
    assert [recipe.name[:6] for recipe in made.recipes("tt")] == ["00000_", "00001_", "00002_", "00003_"]


def test_three_sources(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", sources=3)
    assert made.source_count == 3
    for split, recipe in every_recipe(made):
        mix, *sources = made.waves(split, recipe).astype(int)
        assert len(used([recipe], "voice")) == len(sources) == 3
        assert np.array_equal(mix, sum(sources))
        assert np.array_equal(samples(made.path / split / "s3" / f"{recipe.name}.wav"), sources[2])


def test_shortest_or_longest(corpus, tmp_path):
    shortest, longest = (prepare(corpus, tmp_path / mode, mode=mode) for mode in ("min", "max"))
    for (split, cut), (_, padded) in zip(every_recipe(shortest), every_recipe(longest), strict=True):
        assert cut.sources == padded.sources
        assert (cut.length, padded.length) == tuple(pick(s.length for s in cut.sources) for pick in (min, max))
        assert np.array_equal(longest.waves(split, padded)[1:, : cut.length], shortest.waves(split, cut)[1:])


@pytest.mark.parametrize(("rate_hz", "channels"), [(16000, 1), (44100, 2)])
def test_recordings_of_another_rate_give_the_sentences_they_are_of(tmp_path, rate_hz, channels):
    for voice in VOICES[:3]:
        for index in range(3):
            wave = resample(torch.from_numpy(samples(sentence(voice, index)) / 32768), 8000, rate_hz).numpy()
            wide = np.stack([wave * 1.2, wave * 0.8], 1) if channels == 2 else wave
            write_wave(tmp_path / "voices" / voice / f"{index}.wav", wide, rate_hz, subtype="FLOAT")
    made = prepare(tmp_path / "voices", tmp_path / "out", max_seconds=3)
    offsets = set()
    for pair in every_recipe(made):
        for wave, source in zip(made.waves(*pair)[1:], pair[1].sources, strict=True):
            voice, name = source.path.split("/")
            start = round(source.offset * 8000 / rate_hz)  # within half a sample
            want = source.gain * samples(sentence(voice, int(name[0])))[start : start + len(wave)]
            assert np.square(wave[: len(want)] - want).sum() < 0.1 * np.square(want).sum()
            assert source.rate_hz == rate_hz
            offsets.add(source.offset)
    assert min(offsets) == 0 < max(offsets)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--split half", "--split half: choose auto, voices or within"),
        ("--mode mid", "--mode mid: choose min or max"),
        (
            "--split voices",
            "a split by voices needs 6 voices or more (2 to each of tr, cv and tt), found 5: use --split",
        ),
        ("--split voices --sources 3", "a split by voices needs 9 voices or more"),
        ("--unseen en-f,xx", "--unseen xx: no such voice; there are ca-m, en-f, fr-m, it-f, ru-m"),
        ("--unseen en-f", "--unseen needs 2 voices or more"),
        ("--unseen en-f,en-f", "--unseen needs 2 voices or more"),
        ("--unseen ca-m,en-f,fr-m,it-f", "Name fewer voices in --unseen"),
        ("--fractions 0.8,0.2", "--fractions 0.8,0.2: give three positive numbers that sum to 1"),
        ("--fractions 1,0,0", "give three positive numbers"),
        ("--fractions a,b,c", "give three positive numbers"),
        ("--fractions nan,nan,nan", "give three positive numbers"),
        ("--fractions 0.8,0.1,0.2", "give three positive numbers"),
        ("--speaker-from (", "is not a regular expression"),
        ("--split voices --unseen en-f,ru-m", "--split voices tests on unseen voices anyway"),
        ("--speaker-from xyz", "found none. Every file was left out"),
        ("--rate 16000", "found none. Every file was left out"),
        ("--min-seconds 3 --max-seconds 5", "--max-seconds 5: give 6 or more, twice --min-seconds"),
        ("--level loud", "--level loud: choose rms, p56 or lufs"),
        ("--preset dapz", "--preset dapz: choose one of vctk, librispeech, daps, timit"),
        ("--preset daps --speaker-from (.)", "leave --speaker-from out"),
        ("--preset daps", "found none. Every file was left out"),
        ("--max-seconds inf", "--max-seconds inf: give 2 or more"),
    ],
)
def test_settings_that_cannot_be_are_told(corpus, tmp_path, capsys, options, words):
    code, stdout, notes = told(capsys, corpus, tmp_path / "out", *options.split())
    assert (code, stdout) == (1, "")
    assert notes[-1].startswith("error: ")
    assert words in notes[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.touch(), "is a file, not a folder of voices"),
        (lambda root: root.mkdir(), "contains no sound files"),
        (lambda root: make_corpus(root, voices=["en-f"]), "found 1: en-f. Each sub-folder of ROOT is taken as one"),
        (
            lambda root: make_corpus(root, "{voice}-{index}.flac", files=1),
            "Put each voice into a sub-folder of its own",
        ),
        (lambda root: make_corpus(root, files=2, voices=["en-f", "fr-m"]), "Add recordings, or lower --min-seconds"),
    ],
)
def test_what_is_no_corpus_is_told(tmp_path, make, words):
    make(tmp_path / "voices")
    assert_told(sepclip("prepare", "speakers", tmp_path / "voices", tmp_path / "out"), "error: ", words)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told(corpus, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert told(capsys, corpus, tmp_path / "file")[2][-1].endswith("is a file: choose a folder for the mixtures")
    assert told(capsys, corpus, tmp_path / "file" / "out")[2][-1].endswith("cannot be written: Not a directory")


def test_mixtures_inside_the_corpus_would_become_a_voice(corpus):
    for out in (corpus / "out", corpus / "en-f" / "out"):
        with pytest.raises(UserError, match="where its waves would be taken for a voice"):
            prepare(corpus, out)
        assert not out.exists()
    with pytest.raises(UserError, match="already contains something else"):
        prepare(corpus, corpus)


def test_names_of_any_length_and_script_will_do(tmp_path):
    root = make_corpus(tmp_path / "voices", "{voice}/" + "語" * 75 + "\u2028{index}.flac")
    made = prepare(root, tmp_path / "out", sources=3)
    assert len(list(made.path.glob("tr/mix/*.wav"))) == len(made.recipes("tr")) == 6


@pytest.mark.parametrize(
    ("folders", "unseen"),
    [
        (("José", "Zoë"), ["José,Zoë"]),
        (("Smith, John", "Doe, Jane"), ["Smith, John", "Doe, Jane"]),
        (("Smith, John", "Doe, Jane"), ["Doe,Jane,Smith, John"]),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unseen_voices_are_found_in_any_spelling_and_with_commas(tmp_path, folders, unseen, form):
    for folder, voice in zip((*folders, "c", "d"), VOICES, strict=False):
        make_corpus(tmp_path / "voices", unicodedata.normalize(form, folder) + "/{index}.flac", [voice], files=3)
    made = prepare(tmp_path / "voices", tmp_path / "out", unseen=unseen, audio=False)
    assert voices_and_paths(made, "unseen")[0] == [set(), set(), set(folders)]
    assert made.about["settings"]["unseen"] == sorted(folders)


def test_a_voice_in_both_spellings_is_one_voice(tmp_path):
    for index, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "José")
        make_corpus(tmp_path / "voices", name + "/{index}.flac", ["en-f"], files=2, first=2 * index)
    make_corpus(tmp_path / "voices", voices=["fr-m"])
    assert {s.voice for _, r in every_recipe(prepare(tmp_path / "voices", tmp_path / "out")) for s in r.sources} == {
        "José",
        "fr-m",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: np.stack([x, -x], 1), "its channels cancel: channel 1 of 2 is used"),
        (lambda x: np.stack([x, -x + 20 * np.sin(np.arange(len(x)) ** 2)], 1), "its channels cancel"),
        (lambda x: 0.2 * x + 9830, "a constant offset of 0.3 of full scale is removed"),
        (
            lambda x: np.stack([0.3 * x + 3000, -0.3 * x - 3000], 1),
            "channel 1 of 2 is used; a constant offset of 0.09",
        ),
    ],
)
def test_every_voice_has_its_level_whatever_its_channels_and_offset(tmp_path, capsys, change, reason):
    root = make_corpus(tmp_path / "voices", voices=("ca-m", "en-f", "ru-f"))
    for path in (root / "en-f").glob("*.flac"):
        write_wave(path, np.round(change(samples(path).astype(float))).astype(np.int16))
    code, _, notes = told(capsys, root, tmp_path / "out", "--tr", 8, "-q")
    assert code == 0
    assert "corrected 4 files, all named in set.json:" in notes
    made = MixtureSet.open(tmp_path / "out")
    assert sorted(made.about["corrected"]) == [f"en-f/{index}.flac" for index in range(4)]
    assert all(reason in each for each in made.about["corrected"].values())
    assert json.loads((made.path / "set.json").read_text())["format"] == 2
    for split, recipe in every_recipe(made):
        for source, wave in zip(recipe.sources, made.waves(split, recipe)[1:], strict=True):
            if source.voice == "en-f":
                whole = render_scene(replace(recipe, sources=(source,), length=source.length), SetFolders(root), 8000)[
                    1
                ]
                expected = -25 + source.level_db
                assert 20 * np.log10((whole / 32768).std()) == pytest.approx(expected, abs=0.1)
                assert abs(whole.mean()) < 3
                assert np.array_equal(wave, whole[: len(wave)])


def test_copies_of_a_recording_in_another_format_are_left_out(tmp_path, capsys):
    root = make_corpus(tmp_path / "voices")
    wave = samples(root / "en-f" / "0.flac")
    write_wave(root / "en-f" / "0.mp3", wave / 32768)
    write_wave(root / "en-f" / "ogg" / "1.ogg", samples(root / "en-f" / "1.flac") / 32768)
    write_wave(
        root / "en-f" / "other" / "1.wav", samples(root / "en-f" / "2.flac")[: len(samples(root / "en-f" / "1.flac"))]
    )
    write_wave(root / "fr-m" / "session" / "0.wav", wave)
    code, _, notes = told(capsys, root, tmp_path / "out", "-q")
    assert code == 0
    assert notes[1:4] == [
        "  en-f/0.mp3: duplicate of en-f/0.flac by name and length",
        "  en-f/ogg/1.ogg: duplicate of en-f/1.flac by name and length",
        "  fr-m/session/0.wav: duplicate of en-f/0.flac",
    ]

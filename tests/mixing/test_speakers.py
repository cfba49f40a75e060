import json
import os

import numpy as np
import pytest
import soundfile
import torch

from sepclip.audio.resample import resample
from sepclip.cli import main
from sepclip.errors import UserError
from sepclip.mixing.mixture import SPLITS
from tests.conftest import assert_told, sepclip
from tests.mixing.conftest import (
    VOICES,
    every_recipe,
    heard,
    make_corpus,
    prepare,
    speech_wave,
    tree,
    write_wave,
)


def told_by_the_command_line(capsys, *arguments):
    """Run `sepclip prepare speakers` and return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "speakers", *map(str, arguments)])
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


def test_what_was_made_is_told(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    code, stdout, stderr = told_by_the_command_line(
        capsys, corpus, out, "--tr", 6, "--cv", 3, "--tt", 5, "--unseen", "en-f,ru-m"
    )
    assert code == 0
    assert stdout.startswith(f"wrote mixtures to {out}: tr 0.")
    assert "(6 seen)" in stdout
    assert "(3 seen)" in stdout
    assert "(3 seen, 5 unseen)" in stdout
    assert stderr.splitlines() == [
        f"found 5 voices, 20 usable files, 1.7 min in {corpus}",
        "split within voices",
        "tt seen: 5 asked for, but the voices give only 3 different mixtures",
    ]


def test_one_seed_gives_the_same_bytes_on_any_number_of_threads(corpus, mixtures, tmp_path, monkeypatch):
    for threads in (1, 7):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        again = prepare(corpus, tmp_path / f"{threads}", tr=20, cv=6, tt=4, mode="max")
        assert tree(again.path) == tree(mixtures.path)
    other = prepare(corpus, tmp_path / "other", tr=20, cv=6, tt=4, mode="max", seed=1)
    assert all(
        (other.path / f"{split}.jsonl").read_text() != (mixtures.path / f"{split}.jsonl").read_text()
        for split in SPLITS
    )


def test_resampling_gives_the_same_bytes_on_any_number_of_threads(tmp_path):
    for voice in VOICES[:3]:
        for index in range(3):
            write_wave(tmp_path / "voices" / voice / f"{index}.wav", speech_wave(voice, index), 11025)
    for threads in ("1", "3"):
        made = sepclip(
            "prepare", "speakers", tmp_path / "voices", tmp_path / threads, "--tr", 4, "--cv", 3, "--tt", 3, OMP_NUM_THREADS=threads
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_more_mixtures_are_the_same_and_then_others(corpus, mixtures, tmp_path):
    more = prepare(corpus, tmp_path / "more", tr=60, cv=6, tt=4, mode="max", audio=False)
    assert more.recipes("tr")[:20] == mixtures.recipes("tr")
    assert len(more.recipes("tr")) == 60
    assert more.recipes("cv") == mixtures.recipes("cv")


def test_from_twelve_voices_on_the_split_is_by_voices(tmp_path):
    for half in range(3):
        make_corpus(tmp_path / "voices", f"{{voice}}{half}/{{index}}.flac", VOICES[:4], files=2, first=2 * half)
    by_voices = prepare(tmp_path / "voices", tmp_path / "auto")
    voices = [heard(by_voices.recipes(split), "voice") for split in SPLITS]
    assert len(set.union(*voices)) == sum(map(len, voices)) == 12
    assert [{recipe.group for recipe in by_voices.recipes(split)} for split in SPLITS] == [
        {"seen"},
        {"unseen"},
        {"unseen"},
    ]
    within = prepare(tmp_path / "voices", tmp_path / "within", split="within", max_seconds=2, unseen="en-f0,it-f1")
    seen = [heard((r for r in within.recipes(split) if r.group == "seen"), "voice") for split in SPLITS]
    assert all(len(voices & {"en-f0", "it-f1"}) == 0 for voices in seen)
    assert heard((r for r in within.recipes("tt") if r.group == "unseen"), "voice") == {"en-f0", "it-f1"}


def test_within_voices_no_file_is_in_two_splits(mixtures):
    paths = [heard(mixtures.recipes(split), "path") for split in SPLITS]
    assert len(set.union(*paths)) == sum(map(len, paths))
    assert heard(mixtures.recipes("tr"), "voice") == heard(mixtures.recipes("cv"), "voice") == set(VOICES)


def test_three_sources(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", sources=3)
    for split, recipe in every_recipe(made):
        mix, *sources = made.waves(split, recipe).astype(int)
        assert len({source.voice for source in recipe.sources}) == len(sources) == 3
        assert np.array_equal(mix, sum(sources))
        assert soundfile.info(made.wave_path(split, "s3", recipe.name)).frames == recipe.length
    assert made.source_count == 3


def test_shortest_or_longest(corpus, tmp_path):
    shortest, longest = (prepare(corpus, tmp_path / mode, mode=mode) for mode in ("min", "max"))
    for (split, cut), (_, padded) in zip(every_recipe(shortest), every_recipe(longest), strict=True):
        assert cut.sources == padded.sources
        assert (cut.length, padded.length) == tuple(pick(s.length for s in cut.sources) for pick in (min, max))
        assert np.array_equal(longest.waves(split, padded)[1:, : cut.length], shortest.waves(split, cut)[1:])


@pytest.mark.parametrize(("rate_hz", "channels"), [(16000, 1), (44100, 2)])
def test_recordings_of_another_rate_give_the_mixtures_of_the_originals(tmp_path, rate_hz, channels):
    for voice in VOICES[:3]:
        for index in range(3):
            high = resample(torch.from_numpy(speech_wave(voice, index) / 32768), 8000, rate_hz).numpy()
            stereo = np.stack([high * 1.2, high * 0.8][:channels], 1) / (1.2 if channels == 1 else 1)
            write_wave(tmp_path / "voices" / voice / f"{index}.wav", stereo, rate_hz, subtype="FLOAT")
    made = prepare(tmp_path / "voices", tmp_path / "out", tr=4, cv=2, tt=2, max_seconds=3)
    assert {source.rate_hz for _, recipe in every_recipe(made) for source in recipe.sources} == {rate_hz}
    assert any(source.offset for _, recipe in every_recipe(made) for source in recipe.sources)
    for split, recipe in every_recipe(made):
        for wave, source in zip(made.waves(split, recipe)[1:], recipe.sources, strict=True):
            voice, name = source.path.split("/")
            start = source.offset * 8000 // rate_hz
            want = source.gain * speech_wave(voice, int(name[0]))[start : start + recipe.length]
            error = (wave[: len(want)] - want)[400:-400]  # the filter rings at the cuts
            assert np.square(error).sum() < 1e-3 * np.square(want).sum()


def test_what_is_left_out_is_told_and_recorded(tmp_path, capsys):
    root = make_corpus(tmp_path / "voices")
    (root / "en-f" / "bad.wav").write_text("no sound")
    (root / "en-f" / "._0.flac").write_text("")
    write_wave(root / "fr-m" / "short.wav", speech_wave("fr-m")[:4000])
    made = prepare(root, tmp_path / "out")
    left_out = json.loads((made.path / "set.json").read_text())["left_out"]
    told = capsys.readouterr().err
    assert sorted(left_out) == ["en-f/._0.flac", "en-f/bad.wav", "fr-m/short.wav"]
    assert "left out 3 files:" in told
    assert all(f"  {name}: {reason}\n" in told for name, reason in left_out.items())
    assert not set(left_out) & heard((recipe for _, recipe in every_recipe(made)), "path")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "half"], "--split half: choose auto, voices or within"),
        (["--mode", "mid"], "--mode mid: choose min or max"),
        (["--split", "voices"], "a split by voices needs 6 voices or more"),
        (["--split", "voices", "--sources", 3], "a split by voices needs 9 voices or more"),
        (["--unseen", "en-f,xx"], "--unseen xx: no such voice; there are ca-m, en-f, fr-m, it-f, ru-m"),
        (["--unseen", "en-f"], "--unseen needs 2 voices or more"),
        (["--unseen", "en-f,en-f"], "--unseen needs 2 voices or more"),
        (["--unseen", "ca-m,en-f,fr-m,it-f"], "Name fewer voices in --unseen"),
        (["--fractions", "0.8,0.2"], "--fractions 0.8,0.2: give three positive numbers that sum to 1"),
        (["--fractions", "1,0,0"], "give three positive numbers"),
        (["--fractions", "a,b,c"], "give three positive numbers"),
        (["--fractions", "nan,nan,nan"], "give three positive numbers"),
        (["--fractions", "0.8,0.1,0.2"], "give three positive numbers"),
        (["--speaker-from", "("], "is no regular expression"),
        (["--speaker-from", "xyz"], "Every file was left out"),
        (["--rate", 16000], "Every file was left out"),
        (["--min-seconds", 60, "--max-seconds", 90], "Every file was left out"),
        (["--min-seconds", 3, "--max-seconds", 2], "--max-seconds 2: give a number of seconds from --min-seconds 3 on"),
        (["--max-seconds", "inf"], "--max-seconds inf: give a number of seconds"),
    ],
)
def test_settings_that_cannot_be_are_told(corpus, tmp_path, capsys, options, words):
    code, stdout, stderr = told_by_the_command_line(capsys, corpus, tmp_path / "out", *options)
    assert (code, stdout) == (1, "")
    error = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert words in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.touch(), "is a file, not a folder of voices"),
        (lambda root: root.mkdir(), "holds no sound files"),
        (
            lambda root: make_corpus(root, voices=["en-f"]),
            "found 1: en-f. Each sub-folder of ROOT is taken as one voice",
        ),
        (lambda root: make_corpus(root, "{voice}-{index}.flac"), "Put each voice into a sub-folder of its own"),
        (lambda root: make_corpus(root, files=2), "Add recordings"),
    ],
)
def test_what_is_no_corpus_is_told(tmp_path, make, words):
    make(tmp_path / "voices")
    told = sepclip("prepare", "speakers", tmp_path / "voices", tmp_path / "out")
    assert told.returncode == 1
    assert words in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


def test_mixtures_inside_the_corpus_would_become_a_voice(corpus, tmp_path):
    for out in (corpus / "out", corpus / "en-f" / "out"):
        with pytest.raises(UserError, match="where its waves would be taken for a voice"):
            prepare(corpus, out)
        assert not out.exists()
    with pytest.raises(UserError, match="already holds something else"):
        prepare(corpus, corpus)


def test_a_place_that_cannot_be_written_is_told(corpus, tmp_path):
    (tmp_path / "file").touch()
    assert_told(sepclip("prepare", "speakers", corpus, tmp_path / "file" / "out"), "cannot be written: Not a directory")


def test_long_names_of_any_script_can_be_written(tmp_path):
    root = make_corpus(tmp_path / "voices", "{voice}/" + "語" * 75 + "{index}.flac")
    made = prepare(root, tmp_path / "out", sources=3)
    assert len(list(made.path.glob("tr/mix/*.wav"))) == 6


def test_a_line_break_in_a_name_is_none_in_the_recipes(tmp_path):
    made = prepare(make_corpus(tmp_path / "voices", "{voice}/a\u2028{index}.flac"), tmp_path / "out", audio=False)
    assert len(made.recipes("tr")) == 6
    assert made.waves("tr", made.recipes("tr")[0]).any()

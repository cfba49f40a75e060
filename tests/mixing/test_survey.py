import os
import shutil

import numpy as np
import pytest
import soundfile

from sepclip.errors import UserError
from sepclip.mixing.mixture import Recipe, Source, render
from sepclip.mixing.survey import in_threads, sex_of, survey_voices
from tests.mixing.conftest import VOICES, make_corpus, speech_files, speech_wave, write_wave


def survey(root, rate_hz=8000, speaker_from=None, min_seconds=1.0, max_seconds=15.0):
    return survey_voices(
        root, rate_hz=rate_hz, speaker_from=speaker_from, min_seconds=min_seconds, max_seconds=max_seconds
    )


def tone(seconds=2.0, amplitude=0.5, rate_hz=8000, hertz=440):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize(
    ("voice", "sex"),
    [
        ("en-f", "f"),
        ("ru-m", "m"),
        ("f10", "f"),
        ("M3", "m"),
        ("speaker_male_3", "m"),
        ("Female 2", "f"),
        ("man", "m"),
        ("p225", None),
        ("fred", None),
        ("tom-smith", None),
        ("19", None),
    ],
)
def test_sex_is_read_from_names_that_tell_it(voice, sex):
    assert sex_of(voice) == sex


def test_voices_are_the_folders_right_below_the_root(corpus, tmp_path):
    nested = make_corpus(tmp_path, "{voice}/chapter {index}/deep/er/{index}.flac")
    for root, depth in ((corpus, 2), (nested, 5)):
        found = survey(root)
        assert sorted(found.voices) == sorted(VOICES)
        assert found.left_out == {}
        for voice, utterances in found.voices.items():
            assert [u.samples for u in utterances] == [len(speech_wave(voice, index)) for index in range(4)]
            assert {(u.voice, len(u.path.split("/"))) for u in utterances} == {(voice, depth)}
    assert survey(nested).seconds == pytest.approx(survey(corpus).seconds)


def test_level_and_peak_of_a_tone(tmp_path):
    write_wave(tmp_path / "a" / "1.wav", tone(amplitude=0.5))
    (utterance,) = survey(tmp_path).voices["a"]
    assert utterance.rms == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert utterance.peak == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("regex", "voices"),
    [
        (r"(?P<take>\d)_(?P<speaker>[a-z]{2})", {"ca", "en"}),
        (r"([a-z]{2}-[mf])\.", {"ca-m", "en-f"}),
        (r"[mf](?=\.flac)", {"m", "f"}),
    ],
)
def test_voices_in_file_names(tmp_path, regex, voices):
    make_corpus(tmp_path, "{index}_{voice}.flac", ("ca-m", "en-f"), files=3)
    write_wave(tmp_path / "noise.wav", tone())
    found = survey(tmp_path, speaker_from=regex)
    assert {voice: len(utterances) for voice, utterances in found.voices.items()} == dict.fromkeys(voices, 3)
    assert found.left_out == {"noise.wav": f"--speaker-from {regex} does not match"}


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "WAV"])
def test_formats(tmp_path, name):
    options = {"format": "OGG", "subtype": "OPUS"} if name == "opus" else {}
    wave = speech_wave("en-f")
    path = write_wave(tmp_path / "a" / f"1.{name}", wave, **options)
    found = survey(tmp_path)
    assert found.left_out == {}
    (utterance,) = found.voices["a"]
    assert utterance.samples == len(wave)
    assert utterance.rms == pytest.approx(np.sqrt(np.square(wave / 32768).mean()), rel=0.03)
    rendered = render(
        Recipe("n", "seen", len(wave), (Source(f"a/{path.name}", "a", None, 0, len(wave), 8000, 0, 1),)), tmp_path, 8000
    )
    assert np.corrcoef(rendered[0], wave)[0, 1] > (0.95 if name in ("ogg", "opus", "mp3") else 0.999999)


def test_what_cannot_be_used_is_left_out_by_name_and_reason(tmp_path):
    wave = speech_wave("en-f")
    good = write_wave(tmp_path / "a" / "good.wav", wave)
    write_wave(tmp_path / "loose.wav", wave)
    write_wave(tmp_path / "a" / "short.wav", wave[:7999])
    write_wave(tmp_path / "a" / "empty.wav", wave[:0])
    write_wave(tmp_path / "a" / "silent.wav", tone(amplitude=0.001))
    write_wave(tmp_path / "a" / "low.wav", tone(4, rate_hz=4000), 4000)
    write_wave(tmp_path / "a" / "nan.wav", np.where(np.arange(9000) == 5000, np.nan, 0.1), subtype="FLOAT")
    (tmp_path / "a" / "text.wav").write_text("these are words\n" * 1000)
    (tmp_path / "a" / "notes.txt").write_text("no sound by its name, so not of interest")
    (tmp_path / "a" / "truncated.wav").write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "a" / "truncated.flac").write_bytes(speech_files("en-f")[1].read_bytes()[:20000])
    shutil.copy(good, tmp_path / "a" / "._good.wav")
    write_wave(tmp_path / ".trash" / "old.wav", wave)
    write_wave(tmp_path / "b" / "again.flac", wave)  # the same samples in another format
    found = survey(tmp_path)
    assert {voice: [u.path for u in utterances] for voice, utterances in found.voices.items()} == {"a": ["a/good.wav"]}
    words = {
        "loose.wav": "not in a voice's folder",
        "a/short.wav": "short: 1.00 s, below --min-seconds 1",
        "a/empty.wav": "short: 0.00 s",
        "a/silent.wav": "silent: below -60 dBFS",
        "a/low.wav": "its rate of 4000 Hz is below --rate 8000",
        "a/nan.wav": "NaN or infinite",
        "a/text.wav": "not readable as sound",
        "a/truncated.wav": "truncated",
        "a/truncated.flac": "",  # which of two reasons depends on where it ends
        "a/._good.wav": "hidden",
        ".trash/old.wav": "hidden",
        "b/again.flac": "duplicate of a/good.wav",
    }
    assert sorted(found.left_out) == sorted(words)
    for name, reason in words.items():
        assert reason in found.left_out[name]


def test_a_name_that_no_recipe_can_hold_is_left_out(tmp_path):
    write_wave(tmp_path / "a" / "good.wav", speech_wave("en-f"))
    try:
        (tmp_path / "a" / "good.wav").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9.wav"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert survey(tmp_path).left_out == {"a/caf\\udce9.wav": "its name is not UTF-8, so no recipe can hold it"}


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (16000, 1), (44100, 2)])
def test_long_files_are_cut_into_equal_pieces(tmp_path, rate_hz, channels):
    # the pitch tells the place: each second has its own
    wave = np.concatenate([tone(1, hertz=300 + 100 * second, rate_hz=rate_hz) for second in range(10)])
    write_wave(tmp_path / "a" / "1.wav", np.stack([wave] * channels, 1), rate_hz)
    pieces = survey(tmp_path, max_seconds=2.5).voices["a"]
    assert [(p.offset, p.length, p.samples) for p in pieces] == [
        (index * 5 * rate_hz // 2, 5 * rate_hz // 2, 20000) for index in range(4)
    ]
    for piece in pieces:
        source = Source(piece.path, "a", None, piece.offset, piece.length, rate_hz, 0, 1)
        (rendered,) = render(Recipe("n", "seen", piece.samples, (source,)), tmp_path, 8000) / 32768
        start = piece.offset / rate_hz
        truth = np.concatenate([tone(1, hertz=300 + 100 * second) for second in range(10)])
        truth = truth[int(start * 8000) :][:20000]
        assert np.abs(rendered - truth)[100:-100].mean() < 0.002
        assert piece.rms == pytest.approx(np.sqrt(np.square(rendered).mean()), rel=1e-3)


def test_a_file_as_long_as_a_piece_stays_whole(tmp_path):
    write_wave(tmp_path / "a" / "1.wav", tone(3))
    write_wave(tmp_path / "a" / "2.wav", tone(3 + 1 / 8000))
    assert [u.samples for u in survey(tmp_path, max_seconds=3).voices["a"]] == [24000, 12000, 12001]


def test_silent_pieces_are_not_used(tmp_path):
    write_wave(tmp_path / "a" / "1.wav", np.concatenate([tone(2), np.zeros(16000), tone(2)]))
    assert [u.offset for u in survey(tmp_path, max_seconds=2).voices["a"]] == [0, 32000]


def test_digest_is_of_the_samples_and_the_paths_below_the_root(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    assert survey(copy).digest == survey(corpus).digest
    path = copy / "en-f" / "0.flac"
    wave, rate_hz = soundfile.read(path, dtype="int16")
    wave[1000] += 1
    soundfile.write(path, wave, rate_hz)
    assert survey(copy).digest != survey(corpus).digest


@pytest.mark.parametrize(
    ("root", "regex", "words"),
    [
        ("missing", None, "missing: no such folder"),
        ("file", None, "is a file, not a folder of voices"),
        ("empty", None, "holds no sound files"),
        ("empty", "(", r"--speaker-from '\(' is no regular expression: missing \)"),
    ],
)
def test_what_is_no_corpus_is_told(tmp_path, root, regex, words):
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=words):
        survey(tmp_path / root, speaker_from=regex)


def test_threads_keep_the_order_and_hand_errors_on():
    assert list(in_threads(lambda number: number**2, range(200), "")) == [number**2 for number in range(200)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (number - 50), range(100), ""))

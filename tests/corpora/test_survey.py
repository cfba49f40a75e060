import os
import shutil

import numpy as np
import pytest

from sepclip.audio.active_level import active_level
from sepclip.corpora.speakers.presets import sex_of
from sepclip.corpora.speakers.survey import survey_voices
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.mixing.recipe import Recipe, Source
from sepclip.mixing.render import SetFolders, render_scene
from tests.mixing.conftest import VOICES, make_corpus, samples, sentence, write_wave


def survey(root, speaker_from=None, max_seconds=15.0):
    return survey_voices(root, VoiceSettings({}, {}, speaker_from=speaker_from, max_seconds=max_seconds))


def rendered(utterance, root):
    source = Source(utterance.path, "a", None, utterance.offset, utterance.length, utterance.rate_hz, 0, 1)
    return render_scene(Recipe("n", "seen", utterance.samples, (source,)), SetFolders(root), 8000)[1]


def tone(seconds=2.0, amplitude=0.5, rate_hz=8000, hertz=440):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize(
    ("sex", "voices"),
    [
        ("f", ["en-f", "f10", "F3", "Female 2", "speaker_woman_3"]),
        ("m", ["ru-m", "m1", "M_2", "speaker_male_3", "man"]),
        (None, ["p225", "fred", "tom-smith", "19", "ümf"]),
    ],
)
def test_sex_is_read_from_names_that_tell_it(sex, voices):
    assert [sex_of(voice) for voice in voices] == [sex] * len(voices)


def test_voices_are_the_folders_right_below_the_root(corpus, tmp_path):
    nested = make_corpus(tmp_path, "{voice}/chapter {index}/deep/er/{index}.flac")
    for root, depth in ((corpus, 2), (nested, 5)):
        found = survey(root)
        assert sorted(found.voices) == sorted(VOICES)
        assert found.left_out == {}
        for voice, utterances in found.voices.items():
            assert [u.samples for u in utterances] == [len(samples(sentence(voice, index))) for index in range(4)]
            assert {(u.voice, len(u.path.split("/"))) for u in utterances} == {(voice, depth)}


@pytest.mark.parametrize(
    ("regex", "voices"),
    [
        (r"(?P<take>\d)_(?P<speaker>[a-z]{2})", ["ca", "en"]),
        (r"([a-z]{2}-[mf])\.", ["ca-m", "en-f"]),
        (r"[mf](?=\.flac)", ["m", "f"]),
    ],
)
def test_voices_in_file_names(tmp_path, regex, voices):
    make_corpus(tmp_path, "{index}_{voice}.flac", ("ca-m", "en-f"), files=3)
    write_wave(tmp_path / "noise.wav", tone())
    found = survey(tmp_path, regex)
    assert {voice: len(utterances) for voice, utterances in found.voices.items()} == dict.fromkeys(voices, 3)
    assert found.left_out == {"noise.wav": f"--speaker-from {regex} does not match"}


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "WAV"])
def test_formats(tmp_path, name):
    wave = samples(sentence("en-f"))
    options = {"format": "OGG", "subtype": "OPUS"} if name == "opus" else {}
    write_wave(tmp_path / "a" / f"1.{name}", wave, **options)
    (utterance,) = survey(tmp_path).voices["a"]
    assert utterance.samples == len(wave)
    assert utterance.level == pytest.approx(np.sqrt(np.square(wave / 32768).mean()), rel=0.03)
    assert utterance.peak == pytest.approx(np.abs(wave).max() / 32768, rel=0.2)
    least = 0.95 if name in ("ogg", "opus", "mp3") else 0.999999
    assert np.corrcoef(rendered(utterance, tmp_path), wave)[0, 1] > least


def test_what_cannot_be_used_is_left_out_by_name_and_reason(tmp_path):
    wave, a = samples(sentence("en-f")), tmp_path / "a"
    good = write_wave(a / "good.wav", wave)
    write_wave(tmp_path / "loose.wav", wave)
    write_wave(a / "short.wav", wave[:7999])
    write_wave(a / "empty.wav", wave[:0])
    write_wave(a / "silent.wav", tone(amplitude=0.001))
    write_wave(a / "low.wav", tone(4, rate_hz=4000), 4000)
    write_wave(a / "nan.wav", np.where(np.arange(9000) == 5000, np.nan, 0.1), subtype="FLOAT")
    (a / "text.wav").write_text("these are words\n" * 1000)
    (a / "notes.txt").write_text("no sound by its name, so of no interest")
    (a / "truncated.wav").write_bytes(good.read_bytes()[:-2000])
    (a / "truncated.flac").write_bytes(sentence("en-f", 1).read_bytes()[:20000])
    shutil.copy(good, a / "._good.wav")
    (a / "phone.m4a").touch()
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
        "a/truncated.flac": "",  # damaged or truncated: the decoder's word
        "a/._good.wav": "hidden",
        "a/phone.m4a": "not read by libsndfile (.m4a)",
        ".trash/old.wav": "hidden",
        "b/again.flac": "duplicate of a/good.wav",
    }
    assert sorted(found.left_out) == sorted(words)
    assert [name for name, reason in words.items() if reason not in found.left_out[name]] == []
    assert "2 hidden" in found.reasons()
    assert "1 duplicate" in found.reasons()


def test_files_with_any_name_that_begin_as_sound_are_read_and_others_counted(tmp_path):
    good = write_wave(tmp_path / "a" / "1.wav", tone(hertz=300)).read_bytes()
    for index, name in enumerate(("2", "3.bwf", "4.part")):
        write_wave(tmp_path / "a" / "new.wav", tone(hertz=400 + index)).rename(tmp_path / "a" / name)
    (tmp_path / "a" / "5.mpga").write_bytes(write_wave(tmp_path / "a" / "new.mp3", tone(hertz=500)).read_bytes())
    (tmp_path / "a" / "new.mp3").unlink()
    for name in ("a/list.pdf", "a/b/list.PDF", "notes.txt", "README", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(good[4:])  # without the mark of a sound file
    found = survey(tmp_path)
    assert [u.path for u in found.voices["a"]] == ["a/1.wav", "a/2", "a/3.bwf", "a/4.part", "a/5.mpga"]
    assert found.left_out == {}
    assert found.others == "2 .pdf, 1 .txt, 1 without extension"


def test_a_name_that_no_recipe_can_hold_is_left_out(tmp_path):
    path = write_wave(tmp_path / "a" / "1.wav", tone())
    try:
        path.rename(path.with_name(os.fsdecode(b"caf\xe9.wav")))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert survey(tmp_path).left_out == {"a/caf\\udce9.wav": "its name is not UTF-8, so no recipe can hold it"}


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (16000, 1), (44100, 2)])
def test_long_files_are_cut_in_their_pauses(tmp_path, rate_hz, channels):
    def talk(rate_hz):  # every second another pitch and level, which tell the place; pauses around 2.3, 4.6 and 6.9 s
        wave = np.concatenate([tone(1, 0.05 * (i + 1), rate_hz, 300 + 100 * i) for i in range(8)])
        for pause in (2.3, 4.6, 6.9):
            wave[int((pause - 0.15) * rate_hz) : int((pause + 0.15) * rate_hz)] *= 0.01
        return wave

    write_wave(tmp_path / "a" / "1.wav", np.stack([talk(rate_hz)] * channels, 1), rate_hz)
    pieces = survey(tmp_path, max_seconds=3).voices["a"]
    assert [p.offset / rate_hz for p in pieces] == pytest.approx([0, 2.3, 4.6, 6.9], abs=0.06)
    assert [p.offset + p.length for p in pieces] == [*(p.offset for p in pieces[1:]), 8 * rate_hz]
    for piece in pieces:
        truth = talk(8000)[round(piece.offset * 8000 / rate_hz) :][: piece.samples]
        wave = rendered(piece, tmp_path) / 32768
        assert np.abs(wave - truth)[100:-100].mean() < 0.002
        assert piece.level == pytest.approx(np.sqrt(np.square(truth).mean()), rel=0.01)
        assert piece.peak == pytest.approx(np.abs(truth).max(), rel=0.05)


def test_silent_pieces_are_not_used(tmp_path):
    write_wave(tmp_path / "a" / "1.wav", np.concatenate([tone(2), np.zeros(16000), tone(2)]))
    pieces = survey(tmp_path, max_seconds=2).voices["a"]
    heard = {second for u in pieces for second in range(u.offset // 8000, -(-(u.offset + u.length) // 8000))}
    assert {0, 1, 4, 5} <= heard < {0, 1, 2, 3, 4, 5}
    assert [u.offset for u in survey(tmp_path, max_seconds=6).voices["a"]] == [0]


def test_utterances_are_measured_by_the_law_asked_for(corpus):
    found = survey_voices(corpus, VoiceSettings({}, {}, level="p56")).voices["en-f"]
    levels = [active_level(samples(corpus / utterance.path) / 32768, 8000) for utterance in found]
    assert [utterance.level**2 for utterance in found] == pytest.approx(levels, rel=1e-5)


def test_digest_is_of_the_samples_and_the_paths_below_the_root(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    assert survey(copy).digest == survey(corpus).digest
    wave = samples(copy / "en-f" / "0.flac")
    wave[1000] += 1
    write_wave(copy / "en-f" / "0.flac", wave)
    assert survey(copy).digest != survey(corpus).digest


def test_a_corpus_of_unread_formats_says_what_it_holds(tmp_path):
    for name in ("a/1.m4a", "b/2.m4a", "b/.hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"no sound files .*left out: 2 not read by libsndfile, 1 hidden"):
        survey(tmp_path)

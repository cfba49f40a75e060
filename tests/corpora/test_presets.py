import shutil
from pathlib import Path

import pytest

from sepclip.corpora.speakers import command
from sepclip.corpora.speakers.presets import PRESETS, Voice, VoiceFinder
from sepclip.corpora.speakers.survey import survey_voices
from sepclip.corpora.speakers.voice_settings import VoiceSettings
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from tests.mixing.conftest import VOICES, sentence

LIBRISPEECH_TABLE = """\
;ID  |SEX| SUBSET           |MINUTES| NAME
14   | F | train-clean-360  | 25.03 | Kristin LeMoine
103  | F | train-clean-100  | 30.07 | Karen Savage
1034 | M | train-clean-100  | 25.09 | Kevin O'Coin
"""
VCTK_TABLE = """\
ID  AGE  GENDER  ACCENTS  REGION COMMENTS
p225  23  F    English    Southern  England
p226  22  M    English    Surrey
s5  18  F    British
"""
# for each preset: its table, the files it takes with voice and sex, and the files that it passes over
TREES = {
    "vctk": (
        ("VCTK/speaker-info.txt", VCTK_TABLE),
        {
            "VCTK/wav48_silence_trimmed/p225/p225_001_mic1.flac": ("p225", "f"),
            "VCTK/wav48_silence_trimmed/p226/p226_001_mic1.flac": ("p226", "m"),
            "VCTK/wav48_silence_trimmed/s5/s5_001_mic1.flac": ("s5", "f"),
            "VCTK/wav48/p280/p280_002.wav": ("p280", None),  # version 0.80; in no table
        },
        ["VCTK/wav48_silence_trimmed/p225/p225_001_mic2.flac", "VCTK/wav48/log.wav", "VCTK/wav48/p225/p226_001.wav"],
    ),
    "librispeech": (
        ("LibriSpeech/SPEAKERS.TXT", LIBRISPEECH_TABLE),
        {
            "LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac": ("103", "f"),
            "LibriSpeech/train-clean-100/1034/121119/1034-121119-0001.flac": ("1034", "m"),
            "LibriSpeech/test-clean/61/70968/61-70968-0000.flac": ("61", None),
        },
        ["LibriSpeech/mp3/103/1240/1240.mp3", "LibriSpeech/train-clean-100/103/1240/104-1240-0000.flac"],
    ),
    "daps": (
        None,
        {"daps/clean/f1_script1_clean.wav": ("f1", "f"), "daps/clean/m10_script5_clean.wav": ("m10", "m")},
        [
            "daps/cleanraw/f1_script1_cleanraw.wav",
            "daps/ipad_office1/f1_script1_ipad_office1.wav",
            "daps/produced/m10_script5_produced.wav",
            "daps/supplementary/clean.wav",
        ],
    ),
    "timit": (
        None,
        {
            "TIMIT/TRAIN/DR1/FCJF0/SA1.WAV": ("FCJF0", "f"),
            "TIMIT/TEST/DR8/MSLB0/SI1193.WAV.wav": ("MSLB0", "m"),
            "timit/train/dr2/marc0/sx108.wav": ("marc0", "m"),
        },
        ["TIMIT/DOC/TEST.WAV", "TIMIT/TRAIN/DR9/FCJF0/SA1.WAV", "TIMIT/CONVERT/SPHERE.WAV"],
    ),
}


def plant(root, preset):
    """Build a look-alike tree of a corpus, in which no two files have the same samples."""
    table, taken, passed_over = TREES[preset]
    sources = [sentence(voice, index) for index in range(4) for voice in VOICES]
    for name, source in zip((*taken, *passed_over), sources, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)  # as the format is found by the content, the name may be any
    if table:
        (root / table[0]).write_text(table[1])
    return root


@pytest.mark.parametrize("preset", TREES)
def test_a_preset_takes_the_right_files_and_tells_voice_and_sex(tmp_path, preset):
    root = plant(tmp_path, preset)
    top = root / next(iter(TREES[preset][1])).split("/")[0]  # where a table lies
    finder = VoiceFinder(top, preset=preset)
    _, taken, passed_over = TREES[preset]
    for name, (voice, sex) in taken.items():
        assert finder.find(Path(name)) == Voice(voice, sex)
    for name in passed_over:
        assert finder.find(Path(name)) == f"passed over by --preset {preset}: it takes {PRESETS[preset].takes}"
    found = survey_voices(root, VoiceSettings({}, {}, preset=preset))
    assert sorted(found.voices) == sorted({voice for voice, _ in taken.values()})
    assert sorted(found.left_out) == sorted(passed_over)
    assert found.reasons() == f"{len(passed_over)} passed over by --preset {preset}"


def test_every_preset_has_its_tree():
    assert sorted(TREES) == sorted(PRESETS)


def test_the_table_of_sexes_may_lie_above_the_root_or_be_missing(tmp_path, capsys):
    root = plant(tmp_path, "librispeech") / "LibriSpeech"
    inner = root / "train-clean-100"
    assert VoiceFinder(inner, preset="librispeech").find(Path("103/1240/103-1240-0000.flac")) == Voice("103", "f")
    (root / "SPEAKERS.TXT").unlink()
    capsys.readouterr()
    assert VoiceFinder(inner, preset="librispeech").find(Path("103/1240/103-1240-0000.flac")) == Voice("103", None)
    assert "SPEAKERS.TXT is neither in" in capsys.readouterr().err


def test_a_table_of_version_080_has_numbers_alone(tmp_path):
    (tmp_path / "speaker-info.txt").write_text("ID  AGE  GENDER\n225  23  F    English\n226  22  M    English\n")
    finder = VoiceFinder(tmp_path, preset="vctk")
    assert finder.find(Path("wav48/p226/p226_003.wav")) == Voice("p226", "m")


def test_a_set_by_preset_knows_the_sexes_and_the_preset(tmp_path):
    for index, voice in enumerate(VOICES[:3]):
        for script in range(1, 4):
            target = tmp_path / "daps" / "clean" / f"{'fmf'[index]}{index + 1}_script{script}_clean.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sentence(voice, script), target)
    command.prepare(tmp_path / "daps", tmp_path / "out", tr=6, cv=1, tt=1, preset="daps", audio=False)
    made = MixtureSet.open(tmp_path / "out")
    assert made.about["settings"]["preset"] == "daps"
    assert {recipe.sexes for recipe in made.recipes("tr")} == {"ff", "fm"}


def test_a_preset_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="--preset vtck: choose one of vctk, librispeech, daps, timit, or --sp"):
        VoiceFinder(tmp_path, preset="vtck")
    with pytest.raises(UserError, match="leave --speaker-from out"):
        VoiceFinder(tmp_path, preset="vctk", speaker_from="x")

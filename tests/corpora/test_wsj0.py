import json
import os
import random
import re
import shutil
import stat
import time

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from sepclip.audio.active_level import active_level
from sepclip.audio.sphere import read_speech
from sepclip.corpora import corpora
from sepclip.corpora.preflight import Preflight
from sepclip.corpora.wsj0 import plan
from sepclip.corpora.wsj0.lists import read_lists
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.mixing.render import read_source
from tests.audio.shorten import write_compressed
from tests.conftest import sepclip, train_tiny
from tests.mixing.conftest import every_recipe, samples, tree, write_wave

# utterance: seconds
UTTERANCES = {
    "si_tr_s/40n/40na010x": 1.0,
    "si_tr_s/01x/01xo031a": 0.8,
    "si_tr_s/02a/02aa0101": 0.9501,
    "si_dt_05/050/050a0501": 0.7,
    "si_et_05/440/440c0201": 1.1,
    "si_et_05/441/441o030b": 0.6,
}
PAIRS = {
    "tr": [("40na010x", 1.9857, "01xo031a", -1.9857), ("02aa0101", 0.043645, "40na010x", -0.043645)],
    "cv": [("01xo031a", 2.5, "02aa0101", -2.5)],
    "tt": [("050a0501", 0.12345678, "440c0201", -0.12345678)],
}
TRIPLES = {
    "tr": [("40na010x", 1.5, "01xo031a", -1.5, "02aa0101", 0)],
    "cv": [("01xo031a", 2.5, "40na010x", -2.5, "02aa0101", 0)],
    "tt": [("050a0501", 1, "440c0201", -1, "441o030b", 0)],
}
PLACES = {utterance.rsplit("/", 1)[1]: utterance for utterance in UTTERANCES}
LEVELS = {name: 1e-3 * (index + 1) for index, name in enumerate(PLACES)}


def speech(name):
    """Return something like speech: noise in syllables, as int16 at 16 kHz."""
    chance = np.random.default_rng(sum(name.encode()))
    length = round(UTTERANCES[PLACES[name]] * 16000)
    syllables = np.sin(np.pi * np.arange(length) / 3200 + chance.uniform(0, 3)) ** 2
    return np.rint(6000 * syllables * chance.standard_normal(length).clip(-3, 3)).astype(np.int16)


def make_wsj0(root, name="wsj0/{}.wav", only=tuple(PLACES), **options):
    for utterance in only:
        write_wave(root / name.format(PLACES[utterance]), speech(utterance), 16000, **options)
    return root


def make_lists(folder, mixtures=PAIRS):
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in mixtures.items():
        lines = [" ".join(f"wsj0/{PLACES[f]}.wav" if isinstance(f, str) else str(f) for f in row) for row in rows]
        (folder / f"mix_{len(rows[0]) // 2}_spk_{split}.txt").write_text("".join(f"{line} \n" for line in lines))
    return folder


def make_table(path):
    path.write_text("".join(f"{name} {level:.16e}\n" for name, level in LEVELS.items()))
    return path


def prepare(root, lists, out, speakers=2, **options):
    corpora()[f"wsj0-{speakers}mix"].prepare(root, out, lists=lists, **options)
    return MixtureSet.open(out)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a look-alike of WSJ0 and its lists; not to be changed."""
    folder = tmp_path_factory.mktemp("wsj0")
    make_lists(folder / "lists", TRIPLES)
    return make_wsj0(folder / "discs"), make_lists(folder / "lists")


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    return prepare(*corpus, tmp_path_factory.mktemp("made") / "set")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("mixtures", [PAIRS, TRIPLES])
def test_every_value_is_as_worked_out_by_hand(corpus, tmp_path, rate, mode, mixtures):
    count = len(mixtures["tr"][0]) // 2
    table = make_table(tmp_path / "levels.txt")
    made = prepare(*corpus, tmp_path / "out", count, rate=rate, mode=mode, active_levels=table)
    for split, rows in mixtures.items():
        wanted_names = []
        for row in rows:
            wanted_names.append("_".join(field if isinstance(field, str) else f"{field:g}" for field in row) + ".wav")
            if 0.12345678 in row:
                wanted_names[-1] = "050a0501_0.12345678_440c0201_-0.12345678.wav"
            waves = []
            for name, decibels in zip(row[::2], row[1::2], strict=True):
                wave = resample_poly(speech(name) / 32768, rate, 16000) if rate == 8000 else speech(name) / 32768
                waves.append(wave / np.sqrt(LEVELS[name]) * 10 ** (decibels / 20))
            length = (min if mode == "min" else max)(map(len, waves))
            sources = np.stack([np.pad(wave, (0, 99999))[:length] for wave in waves])
            together = np.concatenate([sources.sum(0, keepdims=True), sources])
            scaled = together * 0.9 / max(1, np.abs(together).max())
            for part, wave in zip(("mix", "s1", "s2", "s3"), scaled, strict=False):
                path = tmp_path / "out" / split / part / wanted_names[-1]
                assert np.array_equal(samples(path), np.rint(wave * 32768)), path
                assert soundfile.info(path).samplerate == rate
        for part in ("mix", "s1", "s2", "s3")[: count + 1]:
            assert sorted(path.name for path in (tmp_path / "out" / split / part).iterdir()) == sorted(wanted_names)
    for split, recipe in every_recipe(made):
        mix, *sources = made.waves(split, recipe).astype(int)
        assert np.abs(mix - sum(sources)).max() <= count
        assert max(np.abs(wave).max() for wave in (mix, *sources)) == round(0.9 * 32768)


def test_names_are_those_of_the_lists(made):
    assert [recipe.name for recipe in made.recipes("tr")] == [
        "40na010x_1.9857_01xo031a_-1.9857",
        "02aa0101_0.043645_40na010x_-0.043645",
    ]
    assert [(recipe.group, [source.voice for source in recipe.sources]) for recipe in made.recipes("tt")] == [
        ("unseen", ["050", "440"])
    ]


def test_levels_are_measured_at_8_khz_for_both_rates_and_kept(corpus, made, tmp_path):
    levels = {name: active_level(resample_poly(speech(name) / 32768, 1, 2), 8000) for name in PLACES}
    kept = dict(line.split() for line in (made.path / "levels.txt").read_text().splitlines())
    assert {name: float(level) for name, level in kept.items()} == pytest.approx(
        {name: level for name, level in levels.items() if name != "441o030b"}, rel=1e-12
    )
    for recipe, row in zip(made.recipes("tr"), PAIRS["tr"], strict=True):
        assert recipe.sources[1].gain == pytest.approx(10 ** (row[3] / 20) / levels[row[2]] ** 0.5)
    other = prepare(*corpus, tmp_path / "out", rate=16000, mode="max")
    assert (other.path / "levels.txt").read_bytes() == (made.path / "levels.txt").read_bytes()
    again = prepare(*corpus, tmp_path / "again", active_levels=made.path / "levels.txt")
    known, measured = tree(again.path), tree(made.path)
    assert "levels.txt" not in known  # none was measured
    assert {name: known[name] for name in known if name != "set.json"} == {
        name: measured[name] for name in measured if name not in ("set.json", "levels.txt")
    }


def test_no_level_is_measured_twice(corpus, made, tmp_path, monkeypatch):
    measured = []
    from sepclip.audio import active_level

    real = active_level.active_level

    def failing(wave, rate):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(len(wave))
        return real(wave, rate)

    monkeypatch.setattr(active_level, "active_level", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(*corpus, tmp_path / "out", jobs=1)
    monkeypatch.setattr(active_level, "active_level", lambda wave, rate: measured.append(len(wave)) or real(wave, rate))
    prepare(*corpus, tmp_path / "out", jobs=1)
    assert len(measured) == 5  # different utterances
    assert tree(tmp_path / "out") == tree(made.path)


@pytest.mark.parametrize("jobs", [1, 5])
def test_the_number_of_jobs_and_an_interruption_change_nothing(corpus, made, tmp_path, jobs):
    out = prepare(*corpus, tmp_path / "out", jobs=jobs).path
    assert tree(out) == tree(made.path)
    (out / "set.json").rename(out / "unfinished.json")
    (out / "tr" / "mix" / f"{made.recipes('tr')[0].name}.wav").write_bytes(b"half")
    (out / "tt" / "s1" / f"{made.recipes('tt')[0].name}.wav").unlink()
    assert tree(prepare(*corpus, out, jobs=jobs).path) == tree(made.path)


def test_all_rates_and_lengths_from_one_pass(corpus, tmp_path, monkeypatch, capsys):
    read = []
    real = plan.read_speech
    monkeypatch.setattr(plan, "read_speech", lambda path: read.append(path.name) or real(path))
    out = tmp_path / "out"
    (command := corpora()["wsj0-2mix"].prepare)(corpus[0], out, lists=corpus[1], rate="8000,16000", mode="min,max")
    assert len(read) == 5 + 2 * 4  # for their levels, and once for each mixture
    told = capsys.readouterr().out
    for rate in (8000, 16000):
        for mode in ("min", "max"):
            place = out / f"wav{rate // 1000}k" / mode
            assert f"wrote mixtures to {place}: tr " in told
            alone = prepare(*corpus, tmp_path / f"{rate} {mode}", rate=rate, mode=mode)
            one, other = tree(alone.path), tree(place)
            one.pop("levels.txt")
            assert one == other
    (out / "wav8k" / "max" / "set.json").rename(out / "wav8k" / "max" / "unfinished.json")
    (lost := next((out / "wav8k" / "max" / "tt" / "s1").iterdir())).unlink()
    read.clear()
    command(corpus[0], out, lists=corpus[1], rate="8000,16000", mode="min,max", as_json=True)
    assert len(read) == 2
    assert lost.is_file()
    sets = json.loads(capsys.readouterr().out.split("\n", 4)[4])["sets"]
    assert sorted(one["already"] for one in sets) == [False, True, True, True]
    command(corpus[0], out, lists=corpus[1], rate="16000,8000", mode="max,min")
    assert capsys.readouterr().out.count("is already prepared") == 4
    made = make_wsj0_tree_of(out, tmp_path / "tree")
    with pytest.raises(UserError, match="for one --rate and --mode at a time"):
        command(made, tmp_path / "other", rate="8000", mode="min,max")
    with pytest.raises(UserError, match="--mode mid: choose min or max"):
        command(corpus[0], tmp_path / "other", lists=corpus[1], mode="min,mid")


def make_wsj0_tree_of(out, tree):
    """Copy the waves of one set as a tree that others made."""
    for split in SPLITS:
        for part in ("mix", "s1", "s2"):
            shutil.copytree(out / "wav8k" / "min" / split / part, tree / split / part)
    return tree


def test_capitals_discs_and_the_far_microphone(corpus, made, tmp_path):
    root = tmp_path / "discs"
    for index, (name, place) in enumerate(PLACES.items()):
        path = root / f"11-{index}.1" / "WSJ0" / f"{place.upper()}.WV1"
        write_wave(path, speech(name), 16000, format="NIST", subtype="PCM_16")
        write_wave(path.with_suffix(".WV2"), speech(name)[::-1], 16000, format="NIST", subtype="PCM_16")
    again = prepare(root, corpus[1], tmp_path / "out")
    for split, recipe in every_recipe(made):
        assert np.array_equal(again.waves(split, recipe), made.waves(split, recipe))
    for path in root.rglob("*.WV1"):
        path.unlink()
    (root / "11-0.1/WSJ0" / f"{PLACES['40na010x'].upper()}.WV2").unlink()
    told = sepclip("prepare", "wsj0-2mix", root, tmp_path / "other", "--lists", corpus[1], "--check")
    assert told.returncode == 1
    assert re.search(r"file missing \(as .*\) \(1\): copy.*\n  wsj0/si_tr_s/40n \(1\): 40na010x.wav", told.stdout)
    assert re.search(r"only the file of the far microphone \(.wv2, not .wv1\) \(4\): copy", told.stdout)


def test_files_of_the_same_name_are_told_unless_they_are_the_same(corpus, made, tmp_path):
    root = make_wsj0(tmp_path / "discs", "one/wsj0/{}.wav")
    make_wsj0(tmp_path / "discs", "two/wsj0/{}.wav")
    make_wsj0(tmp_path / "discs", "three/wsj0/{}.flac", only=["40na010x"])  # a wav is preferred
    again = prepare(root, corpus[1], tmp_path / "out")
    for split, recipe in every_recipe(made):
        assert np.array_equal(again.waves(split, recipe), made.waves(split, recipe))
    write_wave(root / "two/wsj0" / f"{PLACES['40na010x']}.wav", speech("40na010x") // 2, 16000)
    with pytest.raises(UserError) as told:
        prepare(root, corpus[1], tmp_path / "other")
    assert str(told.value).splitlines() == [
        "file of the same name as another, with other bytes (2): leave one of them below ROOT",
        "  one/wsj0/si_tr_s/40n (1): 40na010x.wav",
        "  two/wsj0/si_tr_s/40n (1): 40na010x.wav",
    ]


def shorten(path, wave):
    """Write what begins as the LDC's compressed files do; the rest only the stand-in for ffmpeg below can read."""
    fields = f"NIST_1A\n   1024\nsample_rate -i 16000\nchannel_count -i 1\nsample_count -i {len(wave)}\n"
    fields += "sample_n_bytes -i 2\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fields.encode().ljust(1024) + wave.tobytes())
    return path


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Put a stand-in for ffmpeg on the path that decodes what ``shorten`` writes and checks how it is called."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$1 $2 $3 $4" = "-v error -nostdin -i" ] || exit 3\n'
        '[ "$6 $7 $8 $9" = "-f s16le -c:a pcm_s16le" ] || exit 4\n'
        'case "$5" in file:*) tail -c +1025 "${5#file:}";; *) exit 5;; esac\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_compressed_files_are_decoded_where_ffmpeg_is(corpus, made, ffmpeg, tmp_path):
    root = tmp_path / "discs"
    for name, place in PLACES.items():
        shorten(root / f"wsj0/{place}.wv1", speech(name))
    again = prepare(root, corpus[1], tmp_path / "out")
    for split, recipe in every_recipe(made):
        assert np.array_equal(again.waves(split, recipe), made.waves(split, recipe))
    sound = read_speech(root / "wsj0/si_tr_s/40n/40na010x.wv1", start=100, frames=50)
    assert np.array_equal(sound.samples[0] * 32768, speech("40na010x")[100:150])
    run = train_tiny(tmp_path / "out", tmp_path / "run", "--steps", 2, "--dynamic")
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_discs_as_delivered_are_read_by_the_real_ffmpeg(corpus, made, tmp_path):
    for name, place in PLACES.items():
        write_compressed(tmp_path / "discs" / "11-1.1" / "wsj0" / f"{place}.wv1", speech(name), "v1.09")
    again = prepare(tmp_path / "discs", corpus[1], tmp_path / "out")
    for split, recipe in every_recipe(made):
        assert np.array_equal(again.waves(split, recipe), made.waves(split, recipe))


@pytest.mark.parametrize("change", [100, -100])
def test_a_compressed_file_of_another_length_than_promised_is_told(ffmpeg, tmp_path, change):
    wave = np.arange(1000, dtype=np.int16)
    path = shorten(tmp_path / "a.wv1", wave)
    path.write_bytes(path.read_bytes().replace(b"count -i 1000", f"count -i {1000 + change}".encode()))
    with pytest.raises(UserError, match="promises another number of samples"):
        read_speech(path)


def test_compressed_files_are_seen_before_any_work_and_the_command_is_told(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    root = make_wsj0(tmp_path / "discs", only=list(PLACES)[1:])
    shorten(root / "wsj0/si_tr_s/40n/40na010x.wv1", speech("40na010x"))
    with pytest.raises(UserError, match=r"compressed by shorten \(1\): install ffmpeg, or convert them: find ROOT"):
        prepare(root, corpus[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="compressed by shorten: install ffmpeg"):
        read_speech(root / "wsj0/si_tr_s/40n/40na010x.wv1")


def official_lists(folder, places):
    """Write lists of the official size: 101 speakers of 87 utterances, and 18 of 99."""
    chance = random.Random(1)
    folder.mkdir()
    for split, count, speakers in (("tr", 20000, 101), ("cv", 5000, 101), ("tt", 3000, 18)):
        where = "si_et_05" if split == "tt" else "si_tr_s"
        voices = [f"{index:03d}" for index in range(speakers)]
        lines, names = [], set()
        while len(lines) < count:
            one, two = (f"{voice}/{voice}a{chance.randrange(90):04d}" for voice in chance.sample(voices, 2))
            if (one, two) in names:
                continue
            names.add((one, two))
            snr = f"{chance.uniform(0, 2.5):.5g}"
            lines.append(f"wsj0/{where}/{one}.wav {snr} wsj0/{where}/{two}.wav -{snr} \n")
            places |= {f"wsj0/{where}/{one}.wav", f"wsj0/{where}/{two}.wav"}
        (folder / f"mix_2_spk_{split}.txt").write_text("".join(lines))
    return folder


def test_lists_of_the_official_size_are_read_in_a_moment_and_every_missing_file_is_named_once(tmp_path):
    places = set()
    lists = official_lists(tmp_path / "lists", places)
    preflight = Preflight(tmp_path)
    began = time.perf_counter()
    found = read_lists(lists, 2, preflight)
    assert time.perf_counter() - began < 2
    assert [len(found.lines[split]) for split in SPLITS] == [20000, 5000, 3000]
    assert preflight.is_ready
    there = sorted(places)[::50]
    for place in there:
        write_wave(tmp_path / "root" / place, np.ones(10, np.int16), 16000)
    told = sepclip("prepare", "wsj0-2mix", tmp_path / "root", tmp_path / "out", "--lists", lists, "--check", "--json")
    assert told.returncode == 1
    document = json.loads(told.stdout)
    (problem,) = document["problems"]
    named = [f"{folder}/{name}" for folder, names in problem["files"].items() for name in names]
    assert sorted(named) == sorted(places - set(there))
    assert document["facts"][0].startswith("tr: 20000 mixtures (official 20000) of ")
    assert document["facts"][0].endswith("there, official 8769)")
    short = sepclip("prepare", "wsj0-2mix", tmp_path / "root", tmp_path / "out", "--lists", lists)
    assert short.returncode == 1
    assert "--check lists all" in short.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("wsj0/si_tr_s/../../../etc/40na010x.wav 1 wsj0/si_tr_s/01x/01xo031a.wav -1", "not a path such as"),
        ("/wsj0/si_tr_s/40n/40na010x.wav 1 wsj0/si_tr_s/01x/01xo031a.wav -1", "not a path such as"),
        ("wsj0/si_tr_s/40n/40n..0x.wav 1 wsj0/si_tr_s/01x/01xo031a.wav -1", "not a path such as"),
        ("wsj0/si_tr_s/40n/40na010x.wav 1", "not 2 pairs"),
        ("wsj0/si_tr_s/40n/40na010x.wav x wsj0/si_tr_s/01x/01xo031a.wav -1", "a level is not a number"),
        ("wsj0/si_tr_s/40n/40na010x.wav nan wsj0/si_tr_s/01x/01xo031a.wav 1", "a level is not a number"),
    ],
)
def test_lists_are_not_trusted(corpus, tmp_path, line, words):
    lists = make_lists(tmp_path / "lists")
    with (lists / "mix_2_spk_cv.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=rf"line of a list: {words}.*\n.*mix_2_spk_cv.txt \(1\): line 2"):
        prepare(corpus[0], lists, tmp_path / "out")


def test_everything_wrong_is_told_at_once(corpus, tmp_path):
    root = make_wsj0(tmp_path / "discs", only=["40na010x", "01xo031a"])
    write_wave(root / "wsj0/si_tr_s/02a/02aa0101.wav", speech("02aa0101"), 8000)
    (root / "wsj0/si_dt_05/050").mkdir(parents=True)
    (root / "wsj0/si_dt_05/050/050a0501.wav").write_text("no sound")
    lists = make_lists(tmp_path / "lists")
    (lists / "mix_2_spk_cv.txt").unlink()
    told = sepclip("prepare", "wsj0-2mix", root, tmp_path / "out", "--lists", lists, "--check")
    assert told.returncode == 1
    for words in (
        "list missing (1)", "mix_2_spk_cv.txt", "create-speaker-mixtures.zip", "not 1 at 16000 Hz (1)",
        "wsj0/si_tr_s/02a (1): 02aa0101.wav", "no readable sound (1)", "wsj0/si_et_05/440 (1): 440c0201.wav",
    ):  # fmt: skip
        assert words in told.stdout


def make_csv_lists(folder, mixtures=PAIRS, more=""):
    """Write the lists as WHAM! has them, with levels of at most five digits in the names alone, and a column more."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in mixtures.items():
        lines = [
            f"{one}_{level:.5g}_{two}_{other:.5g}.wav,0,wsj0/{PLACES[one]}.wav,wsj0/{PLACES[two]}.wav\n"
            for one, level, two, other in rows
        ]
        text = "".join(["output_filename,noise,s1_path,s2_path\n", *lines, more])
        (folder / f"mix_2_spk_filenames_{split}.csv").write_text(text)
    return folder


def test_the_csv_lists_of_wham_give_the_same_set(corpus, made, tmp_path):
    again = prepare(corpus[0], make_csv_lists(tmp_path / "lists"), tmp_path / "out")
    for split, recipe in every_recipe(made):
        (same,) = [
            one for one in again.recipes(split) if [s.path for s in one.sources] == [s.path for s in recipe.sources]
        ]
        apart = np.abs(again.waves(split, same).astype(int) - made.waves(split, recipe).astype(int)).max()
        assert same.name == recipe.name.replace("0.12345678", "0.12346")
        assert apart <= (1 if "0.12345678" in recipe.name else 0)


@pytest.mark.parametrize(
    "line",
    [
        "40na010x_1_02aa0101_-1.wav,0,wsj0/si_tr_s/40n/40na010x.wav,wsj0/si_tr_s/01x/01xo031a.wav",
        "40na010x_1_01xo031a_-1.wav,0,wsj0/si_tr_s/40n/40na010x.wav",
        "40na010x_1_01xo031a.wav,0,wsj0/si_tr_s/40n/40na010x.wav,wsj0/si_tr_s/01x/01xo031a.wav",
        "x" * 200_000,
        "",
    ],
)
def test_csv_lists_are_not_trusted(corpus, tmp_path, line):
    lists = make_csv_lists(tmp_path / "lists", more=line + "\n")
    for split in ("tr", "tt"):
        make_csv_lists(lists, {split: PAIRS[split]})
    with pytest.raises(UserError, match=r"not 2 pairs of file and level.*\n.*mix_2_spk_filenames_cv.csv \(1\): line 3"):
        prepare(corpus[0], lists, tmp_path / "out")
    (lists / "mix_2_spk_filenames_cv.csv").write_text("output_filename,s1_path\n")
    with pytest.raises(UserError, match=r"not 2 pairs of file and level.*\n.*mix_2_spk_filenames_cv.csv \(1\): line 1"):
        prepare(corpus[0], lists, tmp_path / "out")


def test_a_set_of_other_lists_or_levels_is_stale(corpus, made, tmp_path):
    with pytest.raises(UserError, match="other settings \\(lists was"):
        prepare(corpus[0], make_lists(tmp_path / "lists", PAIRS | {"tr": PAIRS["tr"][:1]}), made.path)
    with pytest.raises(UserError, match="other settings \\(active_levels was"):
        prepare(*corpus, made.path, active_levels=make_table(tmp_path / "levels.txt"))


@pytest.mark.parametrize("text", ["", "40na010x", "40na010x 0", "40na010x x", "40na010x 1 2", "40na010x inf"])
def test_a_bad_table_of_levels_is_told(corpus, tmp_path, text):
    (tmp_path / "levels.txt").write_text(text)
    with pytest.raises(UserError, match="UTTERANCE POWER, such as"):
        prepare(*corpus, tmp_path / "out", active_levels=tmp_path / "levels.txt")


def test_silence_and_a_header_that_lies_are_told(corpus, tmp_path):
    root = make_wsj0(tmp_path / "discs")
    path = root / "wsj0/si_tr_s/40n/40na010x.wav"
    write_wave(path, np.zeros(16000, np.int16), 16000)
    with pytest.raises(UserError, match=r"40na010x\.wav: is silent"):
        prepare(root, corpus[1], tmp_path / "out")
    path.unlink()
    lying = shorten(path.with_suffix(".wv1"), speech("40na010x"))
    lying.write_bytes(lying.read_bytes().replace(b"count -i 16000", b"count -i 99999999999"))
    with pytest.raises(UserError, match=r"a length of 6250000\.0 s, more than 600 s"):
        prepare(root, corpus[1], tmp_path / "other")


def test_wrong_options_are_told(corpus, tmp_path):
    for options, words in (({"rate": 44100}, "choose 8000 or 16000"), ({"mode": "mid"}, "choose min or max")):
        with pytest.raises(UserError, match=words):
            prepare(*corpus, tmp_path / "out", **options)


@pytest.mark.parametrize("speakers", [2, 3])
def test_a_run_trains_on_it(corpus, tmp_path, speakers):
    lists, out = corpus[1], tmp_path / "out"
    told = sepclip("prepare", f"wsj0-{speakers}mix", corpus[0], out, "--lists", lists)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"wrote mixtures to {out}")
    run = train_tiny(out, tmp_path / "run", "--steps", 2)
    assert run.returncode == 0, run.stderr
    scored = sepclip("eval", tmp_path / "run", out, "--jobs", 1)
    assert scored.returncode == 0, scored.stderr


def test_dynamic_mixtures_keep_the_active_levels_and_the_peak_of_the_lists(corpus, tmp_path):
    table = make_table(tmp_path / "levels.txt")
    made = prepare(*corpus, tmp_path / "out", active_levels=table)
    batch = training_data(made, segment=8000, batch_size=12, dynamic=True, seed=0, memory_gib=1).batch(0)
    known = {}
    for source in (source for recipe in made.recipes("tr") for source in recipe.sources):
        known[source.path.rsplit("/", 1)[1].removesuffix(".wav")] = read_source(
            source, made.root, 8000, by_scripts=True
        )
    apart = []
    for mixture, sources in zip(batch.mixture.numpy(), batch.sources.numpy(), strict=True):
        levels = []
        for row in sources:
            fits = [
                20 * np.log10(row[: len(wave)] @ wave / (wave @ wave) * np.sqrt(LEVELS[name]))
                for name, wave in known.items()
                if row[: len(wave)] @ wave > 0.99 * np.linalg.norm(row) * np.linalg.norm(wave)
            ]
            assert len(fits) == 1
            levels += fits
        apart.append(abs(levels[0] - levels[1]))
        assert max(np.abs(mixture).max(), np.abs(sources).max()) == pytest.approx(0.9)
    assert max(apart) <= 5.01
    assert np.ptp(apart) > 2
    assert len(list((made.path / "resampled").iterdir())) == len(known) == 3

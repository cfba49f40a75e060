"""Libri2Mix and Libri3Mix: made from LibriSpeech, and made trees read in place."""

import io
import random
import shutil

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from sepclip.config.load import load_config
from sepclip.corpora import corpora
from sepclip.corpora.existing_mixtures import TASKS
from sepclip.corpora.librimix import plan
from sepclip.corpora.librimix.lists import read_tables, subsets_of
from sepclip.corpora.librimix.plan import floor_to_int16, prolong
from sepclip.corpora.preflight import Preflight
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.mixing.validation_crops import ValidationCrops
from sepclip.training.state import TrainingState, build_separator
from sepclip.training.step import take_step
from sepclip.training.validation import validate
from tests.conftest import TINY, assert_told, sepclip, train_tiny
from tests.mixing.conftest import every_recipe, samples, tree, write_wave

# the utterances of each mixture with their gains, and a noise with its gain
ROWS = {
    "train-clean-100": [
        (("100-1-0000", 0.9), ("101-2-0003", 1.3), ("102-1-0001", 0.4), ("20lo010l_0.06_015o030q_-0.06", 0.5)),
        (("101-2-0003", 0.7), ("102-1-0001", 1.1), ("100-1-0000", 0.5), ("20no0106_2.2_20lo010k_-2.2", 0.3)),
    ],
    "train-clean-360": [
        (("200-1-0000", 1.2), ("201-1-0000", 0.8), ("202-1-0000", 1), ("20no0106_2.2_20lo010k_-2.2sp08", 1.1)),
    ],
    "dev-clean": [(("300-1-0000", 1), ("301-1-0000", 0.6), ("302-1-0000", 0.9), ("01xo031a_2.5_02aa0101_-2.5", 0.8))],
    "test-clean": [(("400-1-0000", 3), ("401-1-0000", 2.9), ("402-1-0000", 2.8), ("445c0204_1.7_442c020t_-1.7", 2))],
}
SPLIT_OF = {"train-clean-100": "tr", "train-clean-360": "tr", "dev-clean": "cv", "test-clean": "tt"}
SUBSET_OF = {"tr": "train-100", "cv": "dev", "tt": "test"}


def speech(name, channels=1):
    """Return something like speech, of 0.8 to 1.4 s at 16 kHz, as int16."""
    chance = np.random.default_rng(sum(name.encode()))
    length = 12800 + 7 * int(chance.integers(1400))
    return np.rint(5000 * chance.standard_normal((length, channels)).clip(-3, 3)).astype(np.int16).squeeze()


def speech_path(subset, name):
    speaker, chapter, _ = name.split("-")
    return f"{subset}/{speaker}/{chapter}/{name}.flac"


def make_corpora(folder):
    """Write look-alikes of LibriSpeech, WHAM!'s noise (two channels, some too short) and LibriMix's tables."""
    sexes = "".join(f"{number} | {'FM'[number % 2]} | dev-clean | 25.0 | Some One\n" for number in range(100, 500))
    for subset, rows in ROWS.items():
        for *speakers, (noise, _) in rows:
            for name, _ in speakers:
                write_wave(folder / "LibriSpeech" / speech_path(subset, name), speech(name), 16000)
            write_wave(folder / "wham_noise" / SPLIT_OF[subset] / f"{noise}.wav", speech(noise, 2), 16000)
        for count in (2, 3):
            write_table(folder, subset, rows, count)
    (folder / "LibriSpeech" / "SPEAKERS.TXT").write_text(f";ID |SEX| SUBSET |MINUTES| NAME\n{sexes}")
    return folder


def write_table(folder, subset, rows, count, extra=()):
    header = [f"source_{i + 1}_{what}" for i in range(count) for what in ("path", "gain")]
    lines = [["mixture_ID", *header, "noise_path", "noise_gain"]]
    for *speakers, (noise, noise_gain) in rows:
        fields = [part for name, gain in speakers[:count] for part in (speech_path(subset, name), gain)]
        name = "_".join(name for name, _ in speakers[:count])
        lines.append([name, *fields, f"{SPLIT_OF[subset]}/{noise}.wav", noise_gain])
    path = folder / "metadata" / f"Libri{count}Mix" / f"libri{count}mix_{subset}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in [*lines, *extra]))


def make_tree(folder, root, count, rate, mode):
    """Make the mixtures as METHOD.md tells of the authors' script, with soundfile's own rounding."""
    for subset, rows in ROWS.items():
        for *speakers, (noise, noise_gain) in rows:
            waves = [
                soundfile.read(root / "LibriSpeech" / speech_path(subset, name), dtype="float32")[0]
                for name, _ in speakers[:count]
            ]
            longest = max(map(len, waves))
            wave = soundfile.read(
                root / "wham_noise" / SPLIT_OF[subset] / f"{noise}.wav", dtype="float32", frames=longest
            )[0][:, 0]
            window = np.hanning(16001)
            piece = wave
            while len(wave) < longest:
                seam = wave[-8001:] * window[8000:] + piece[:8001] * window[:8001]
                wave = np.concatenate([wave[:-8001], seam, piece[8001:]])
            waves.append(wave[:longest])
            gains = [*(gain for _, gain in speakers[:count]), noise_gain]
            waves = [resample_poly(w * float(gain), rate, 16000) for w, gain in zip(waves, gains, strict=True)]
            length = (min if mode == "min" else max)(map(len, waves))
            waves = [np.pad(wave[:length], (0, max(0, length - len(wave)))) for wave in waves]
            parts = {f"s{index + 1}": wave for index, wave in enumerate(waves[:-1])} | {"noise": waves[-1]}
            for part, which in (("mix_clean", waves[:-1]), ("mix_both", waves), ("mix_single", [waves[0], waves[-1]])):
                parts[part] = np.zeros_like(waves[0])
                for wave in which:
                    parts[part] += wave
            name = "_".join(name for name, _ in speakers[:count])
            for part, wave in parts.items():
                path = folder / subset.replace("-clean", "") / part / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, rate)
    return folder


def prepare(root, out, speakers=2, **options):
    corpora()["librimix" if speakers == 2 else "libri3mix"].prepare(root, out, **{"train": "train-100"} | options)
    return MixtureSet.open(out)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a look-alike of all that LibriMix is made from; not to be changed."""
    return make_corpora(tmp_path_factory.mktemp("libri"))


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    return prepare(corpus, tmp_path_factory.mktemp("made") / "set", task="sep_noisy")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("speakers", "rate"), [(2, 8000), (3, 16000)])
def test_every_sample_is_that_of_the_authors_script(corpus, tmp_path, speakers, rate, mode):
    place = tmp_path / f"Libri{speakers}Mix" / f"wav{rate // 1000}k" / mode
    make_tree(place, corpus, speakers, rate, mode)
    for task in TASKS:
        options = {"task": task, "rate": rate, "mode": mode, "train": "train-360,train-100"}
        made = prepare(corpus, tmp_path / task, speakers, **options)
        there = prepare(tmp_path, tmp_path / f"{task} in place", speakers, **options)
        assert (made.audio, there.audio, there.root) == (True, False, place)
        assert (made.source_count, made.additive) == (there.source_count, there.additive)
        assert [len(made.recipes(split)) for split in SPLITS] == [3, 1, 1]
        for split, recipe in every_recipe(made):
            (same,) = [one for one in there.recipes(split) if one.name == recipe.name]
            assert [one.voice for one in same.sources] == [one.voice for one in recipe.sources]
            assert same.group == recipe.group == ("seen" if split == "tr" else "unseen")
            found, wanted = made.waves(split, recipe), there.waves(split, same)
            assert found.dtype == wanted.dtype == np.int16
            assert np.array_equal(found, wanted), (task, recipe.name)
            assert soundfile.info(made.wave_path(split, "mix", recipe.name)).samplerate == rate


def losses(mixtures):
    """Train the tiny network for three steps, and return the losses with the last validation."""
    config = load_config(None, [*TINY, "data.batch_size=2"])
    state = TrainingState.start(config, build_separator(config, mixtures.layout), torch.device("cpu"), 3)
    data = training_data(mixtures, segment=3000, batch_size=2, dynamic=False, seed=0, memory_gib=1)
    trained = [take_step(state, data.batch(step), config).losses for step in range(3)]
    return [*trained, validate(state.separator, ValidationCrops(mixtures, 3000, 2), config, torch.device("cpu"))]


@pytest.mark.parametrize("task", TASKS)
def test_training_gives_the_same_loss_on_a_prepared_set_and_on_one_read_in_place(corpus, tmp_path, task):
    make_tree(tmp_path / "tree", corpus, 2, 8000, "min")
    prepared, in_place = (
        prepare(corpus, tmp_path / "a", task=task),
        prepare(tmp_path / "tree", tmp_path / "b", task=task),
    )
    assert losses(prepared) == losses(in_place)


def test_rounding_is_down_as_soundfile_rounds_floats():
    steps = np.array([0, 0.5, -0.5, 1.5, -1.5, 0.99, -0.01, 32766.9, 40000, -40000, 3 - 2**-22, 3 - 2**-15], np.float32)
    wanted = [0, 0, -1, 1, -2, 0, -1, 32766, 32767, -32768, 3, 2]
    assert floor_to_int16(steps / 32768).tolist() == wanted
    written = io.BytesIO()
    soundfile.write(written, steps / 32768, 8000, format="WAV")
    written.seek(0)
    assert soundfile.read(written, dtype="int16")[0].tolist() == wanted


def test_a_short_noise_goes_on_without_a_seam():
    assert np.allclose(prolong(np.ones(9000, np.float32), 40000), 1, atol=1e-6)
    noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    long = prolong(noise, 45000)
    assert np.array_equal(long[:11999], noise[:11999])
    assert np.array_equal(long[20000:23998], noise[8001:11999])
    assert np.array_equal(prolong(noise, 300), noise[:300])


def test_recipes_tell_of_speakers_and_gains(made):
    first = made.recipes("tr")[0]
    assert first.name == "100-1-0000_101-2-0003"
    assert [(s.path, s.voice, s.sex, s.gain) for s in first.sources] == [
        ("train-clean-100/100/1/100-1-0000.flac", "100", "f", 0.9),
        ("train-clean-100/101/2/101-2-0003.flac", "101", "m", 1.3),
    ]
    assert made.about["task"] == "sep_noisy"


def test_clean_mixtures_need_no_noise_and_can_be_mixed_anew(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "root", ignore=shutil.ignore_patterns("wham_noise"))
    made = prepare(tmp_path / "root", tmp_path / "out")
    for split in ("tr", "cv"):  # the sums of tt are too loud for 16 bits, as no official ones are
        for recipe in made.recipes(split):
            mix, *sources = made.waves(split, recipe).astype(int)
            assert np.abs(mix - sum(sources)).max() <= 1
    batch = training_data(made, segment=3000, batch_size=4, dynamic=True, seed=0, memory_gib=1).batch(0)
    assert torch.equal(batch.mixture, batch.sources.sum(1))
    assert batch.sources.abs().amax(-1).min() > 0
    with pytest.raises(UserError, match=r"folder missing \(3\): unpack it there, from wham.whisper.ai"):
        prepare(tmp_path / "root", tmp_path / "noisy", task="enh_single")


def test_all_rates_and_lengths_from_one_pass(corpus, tmp_path, monkeypatch):
    read = []
    real = plan.read_sound
    monkeypatch.setattr(plan, "read_sound", lambda path, **more: read.append(path) or real(path, **more))
    options = {"task": "sep_noisy", "train": "train-100"}
    corpora()["librimix"].prepare(corpus, tmp_path / "out", rate="8000,16000", mode="min,max", **options)
    assert len(read) == 3 * 4  # two speakers and a noise for each mixture
    for rate in (8000, 16000):
        for mode in ("min", "max"):
            alone = prepare(corpus, tmp_path / f"{rate} {mode}", rate=rate, mode=mode, **options)
            assert tree(alone.path) == tree(tmp_path / "out" / f"wav{rate // 1000}k" / mode)


def test_the_number_of_jobs_and_an_interruption_change_nothing(corpus, made, tmp_path):
    before = tree(made.path)
    for jobs in (1, 5):
        out = prepare(corpus, tmp_path / f"{jobs}", task="sep_noisy", jobs=jobs).path
        assert tree(out) == before
    (out / "set.json").rename(out / "unfinished.json")
    (out / "tr" / "mix" / f"{made.recipes('tr')[0].name}.wav").write_bytes(b"half")
    (out / "tt" / "s1" / f"{made.recipes('tt')[0].name}.wav").unlink()
    assert tree(prepare(corpus, out, task="sep_noisy").path) == before
    with pytest.raises(UserError, match="other settings"):
        prepare(corpus, out, task="sep_noisy", mode="max")


def test_a_run_is_trained_and_scored_by_the_command_line(corpus, tmp_path):
    out = tmp_path / "out"
    line = ("prepare", "librimix", corpus, out, "--train", "train-100", "--task", "enh_both")
    checked = sepclip(*line, "--check")
    assert checked.returncode == 0, checked.stderr
    assert "tr: 2 mixtures (official 13900), 2 of them with all files" in checked.stdout
    assert not out.exists()
    told = sepclip(*line)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"wrote mixtures to {out}: tr ")
    run = train_tiny(out, tmp_path / "run", "--steps", 2)
    assert run.returncode == 0, run.stderr
    scored = sepclip("eval", tmp_path / "run", out, "--jobs", 1)
    assert scored.returncode == 0, scored.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1-1-1_2-2-2,../../etc/passwd,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "not a path such as test-clean"),
        ("1-1-1_2-2-2,/etc/passwd,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "not a path such as test-clean"),
        ("1-1-1_2-2-2,dev-clean/.ssh/a,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "not a path such as test-clean"),
        ("1-1-1_2-2-2,dev-clean/1/1/1-1-1.flac,1,dev-clean/2/2/2-2-2.flac,1,cv/../../a.wav,1", "not a path of noise"),
        ("../1-1-1,dev-clean/1/1/1-1-1.flac,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "not a mixture_ID"),
        ("1-1-1_2-2-2,dev-clean/1/1/1-1-1.flac,x,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "a gain is not a number"),
        ("1-1-1_2-2-2,dev-clean/1/1/1-1-1.flac,nan,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "not a positive number"),
        ("1-1-1_2-2-2,dev-clean/1/1/1-1-1.flac,1,dev-clean/2/2/2-2-2.flac,-1,cv/a.wav,1", "not a positive number"),
        ("1-1-1_2-2-2,dev-clean/1/1/1-1-1.flac,1", "too short"),
        ("1-1-1_2-2-2," + "x" * 200_000 + ",1,a/b,1,cv/a.wav,1", "field larger than field limit"),
        ("300-1-0000_301-1-0000,dev-clean/1/1/1-1-1.flac,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "mixture twice"),
        ("100-1-0000_101-2-0003,dev-clean/1/1/1-1-1.flac,1,dev-clean/2/2/2-2-2.flac,1,cv/a.wav,1", "mixture twice"),
    ],
)
def test_tables_are_not_trusted(corpus, tmp_path, line, words):
    shutil.copytree(corpus / "metadata", tmp_path / "metadata")
    write_table(tmp_path, "dev-clean", ROWS["dev-clean"], 2, [[line]])
    with pytest.raises(UserError, match=rf"{words}.*\n.*libri2mix_dev-clean.csv \(1\): line 3"):
        prepare(corpus, tmp_path / "out", task="sep_noisy", metadata=tmp_path)


def test_everything_missing_or_wrong_is_told_at_once(tmp_path):
    root = make_corpora(tmp_path / "root")
    (root / "metadata" / "Libri2Mix" / "libri2mix_dev-clean.csv").write_text("mixture_ID,source_1_path\n")
    (root / "LibriSpeech" / speech_path("train-clean-360", "200-1-0000")).write_text("no sound")
    write_wave(root / "LibriSpeech" / speech_path("train-clean-100", "100-1-0000"), speech("a"), 8000)
    (root / "wham_noise" / "tr" / "20no0106_2.2_20lo010k_-2.2sp08.wav").unlink()
    write_wave(root / "wham_noise" / "tr" / "20no0106_2.2_20lo010k_-2.2.wav", np.zeros(300), 16000)
    shutil.rmtree(root / "LibriSpeech" / "test-clean")
    line = ("prepare", "librimix", root, tmp_path / "out", "--train", "train-100,train-360", "--task", "sep_noisy")
    told = sepclip(*line, "--check")
    assert told.returncode == 1
    for words in (
        "table without source_2_path, source_1_gain, source_2_gain, noise_path, noise_gain (1)",
        "file with no readable sound (1)",
        "file with 1 channel at 8000 Hz, not 1 at 16000 Hz (1)",
        "train-clean-100 (1): 100/1/100-1-0000.flac",
        "noise of another speed missing (1): make it from the others with scripts/augment_train_noise.py",
        "file with less than half a second (1)",
        "folder missing (1): unpack it there, from openslr.org/12",
        "tr: 3 mixtures (official 64700), 0 of them with all files",
    ):  # fmt: skip
        assert words in told.stdout
    (root / "metadata" / "Libri2Mix" / "libri2mix_dev-clean.csv").unlink()
    (root / "LibriSpeech" / speech_path("train-clean-360", "200-1-0000")).unlink()
    assert_told(sepclip(*line[:-2], "--metadata", root), "table missing", "file missing")
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_told(corpus, tmp_path):
    for options, words in (
        ({"rate": 44100}, "choose 8000 or 16000"),
        ({"mode": "mid"}, "choose min or max"),
        ({"task": "sep"}, "choose sep_clean, sep_noisy, enh_single or enh_both"),
        ({"train": "train-500"}, "choose train-100 or train-360"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(corpus, tmp_path / "out", **options)
    place = tmp_path / "tree" / "train-100"
    write_wave(place / "mix_clean" / "a.wav", np.zeros(9))
    with pytest.raises(UserError, match="has no mix_both, only mix_clean: choose another --task"):
        prepare(tmp_path / "tree", tmp_path / "out", task="sep_noisy")
    with pytest.raises(UserError, match="need no --metadata and no --noise"):
        prepare(tmp_path / "tree", tmp_path / "out", metadata=corpus)


def test_a_file_that_changed_since_the_look_is_told(corpus, tmp_path):
    root = make_corpora(tmp_path / "root")
    out = tmp_path / "out"
    from sepclip.corpora.librimix.plan import LibriSettings, plan_librimix

    plan = plan_librimix(root, out, {out: LibriSettings(2, train="train-100")}, corpus="librimix", jobs=1)
    write_wave(root / "LibriSpeech" / speech_path("dev-clean", "300-1-0000"), speech("a")[:10000], 16000)
    with pytest.raises(UserError, match=r"300-1-0000\.flac: is not as long as it was"):
        plan.prepare()
    with pytest.raises(UserError, match="is unfinished"):
        MixtureSet.open(out)


def test_file_whose_header_promises_too_much_is_used_whole_with_a_warning(tmp_path, capsys):
    root = make_corpora(tmp_path / "root")
    path = root / "LibriSpeech" / speech_path("dev-clean", "300-1-0000")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the upper bits of the number of samples in STREAMINFO
    data[22:26] = b"\xff" * 4
    prepare(root, tmp_path / "right")
    path.write_bytes(bytes(data))
    prepare(root, tmp_path / "out")
    assert capsys.readouterr().err.count(f"{path}: its header promises 68,719,476,735 samples and the file holds") == 1
    files = list((tmp_path / "right").glob("*/*/*.wav"))
    assert files
    for file in files:
        assert file.read_bytes() == (tmp_path / "out" / file.relative_to(tmp_path / "right")).read_bytes()


def test_tables_of_the_official_size_are_read(tmp_path):
    chance = random.Random(1)
    for subset, count in (("train-clean-360", 50800), ("dev-clean", 3000), ("test-clean", 3000)):
        rows = [
            (*((f"{chance.randrange(9999)}-{index}-{place:04}", chance.random() + 0.1) for place in range(2)),
             ("445c0204_1.7_442c020t_-1.7", 1))
            for index in range(count)
        ]  # fmt: skip
        write_table(tmp_path, subset, rows, 2)
    preflight = Preflight(tmp_path)
    tables = read_tables(tmp_path, 2, subsets_of("train-360"), preflight, noise=True)
    assert preflight.is_ready
    assert [len(tables.rows[split]) for split in SPLITS] == [50800, 3000, 3000]


def test_names_and_samples_of_the_waves(made):
    for split, recipe in every_recipe(made):
        for part in ("mix", "s1", "s2"):
            wave = samples(made.wave_path(split, part, recipe.name))
            assert wave.shape == (recipe.length,)

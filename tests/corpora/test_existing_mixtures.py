"""Corpora that come as mixtures: wsj0-2mix, WHAM! and WHAMR! trees read in place."""

import json
import shutil

import numpy as np
import pytest

from sepclip.cli import main
from sepclip.corpora import corpora
from sepclip.corpora.existing_mixtures import TASKS
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from sepclip.mixing.validation_crops import ValidationCrops
from tests.conftest import sepclip, train_tiny
from tests.mixing.conftest import every_recipe, tree, write_wave

NAMES = {
    "tr": ["40na010x_1.9857_01xo031a_-1.9857", "02aa0101_0.5_40na010x_-0.5"],
    "cv": ["01xo031a_2.5_02aa0101_-2.5"],
    "tt": ["050a0501_0_440c0201_0"],
}
ROOMS = {"": 1.0, "_anechoic": 0.9, "_reverb": 0.7}


def waves(name, length=4000):
    """Return s1, s2 and noise, in multiples of 2^-15, so that 16 bits hold them."""
    chance = np.random.default_rng(sum(name.encode()))
    return np.rint(chance.normal(0, 1500, (3, length)).clip(-6000, 6000)) / 32768


def make_wham(root, suffixes=("",), subtype="FLOAT", rate=8000):
    for split, names in NAMES.items():
        for name in names:
            for suffix in suffixes:
                one, two, noise = waves(name) * np.float32(ROOMS[suffix])
                parts = {"s1": one, "s2": two, "mix_clean": one + two, "mix_both": one + two + noise,
                         "mix_single": one + noise}  # fmt: skip
                for part, wave in parts.items():
                    write_wave(root / split / f"{part}{suffix}" / f"{name}.wav", wave, rate, subtype=subtype)
    return root


def make_wsj0_tree(root, speakers=2):
    for split, names in NAMES.items():
        for name in names:
            sources = waves(name)[:speakers] * 0.77
            for part, wave in zip(("mix", "s1", "s2", "s3"), [sources.sum(0), *sources], strict=False):
                write_wave(root / split / part / f"{name}.wav", np.rint(wave * 32768).astype(np.int16))
    return root


def prepare(root, out, corpus="wham", **options):
    corpora()[corpus].prepare(root, out, **options)
    return MixtureSet.open(out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_wham(tmp_path_factory.mktemp("wham") / "wav8k" / "min")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_the_mixtures_and_targets_of_its_name(plain, tmp_path, task):
    made = prepare(plain, tmp_path / "out", task=task)
    assert sorted(path.name for path in made.path.iterdir()) == ["cv.jsonl", "set.json", "tr.jsonl", "tt.jsonl"]
    assert [len(made.recipes(split)) for split in SPLITS] == [2, 1, 1]
    for split, recipe in every_recipe(made):
        one, two, noise = waves(recipe.name)
        want = {
            "sep_clean": (one + two, one, two),
            "sep_noisy": (one + two + noise, one, two),
            "enh_single": (one + noise, one),
            "enh_both": (one + two + noise, one + two),
        }[task]
        found = made.waves(split, recipe)
        assert found.dtype == np.float32
        assert np.abs(found / 32768 - np.stack(want)).max() < 1e-7
    assert made.source_count == len(want) - 1
    assert made.additive == (task == "sep_clean")
    (tested,) = made.recipes("tt")
    assert [source.voice for source in tested.sources] == (["050+440"] if task == "enh_both" else ["050", "440"])[
        : made.source_count
    ]
    assert (tested.group, made.recipes("tr")[0].group) == ("unseen", "seen")
    assert made.recipes("tr")[0].sources[0].level_db == (0 if task == "enh_both" else 0.5)


@pytest.mark.parametrize("place", ["", "wav8k/min", "min"])
def test_the_tree_is_found_and_may_move(tmp_path, place):
    make_wham(tmp_path / "here" / place)
    root = tmp_path / "here"
    made = prepare(root, tmp_path / "out")
    recipe = made.recipes("tr")[0]
    want = made.waves("tr", recipe)
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(UserError, match="say with --root where"):
        made.waves("tr", recipe)
    moved = MixtureSet.open(made.path, tmp_path / "there" / place)
    assert np.array_equal(moved.waves("tr", recipe), want)


@pytest.mark.parametrize(
    ("room", "target", "task", "additive"),
    [
        ("anechoic", None, "sep_clean", True),
        ("reverb", None, "sep_clean", False),
        ("reverb", "reverb", "sep_clean", True),
        ("reverb", "anechoic", "sep_noisy", False),
        ("reverb", "reverb", "enh_both", False),
    ],
)
def test_whamr_says_which_room(tmp_path, room, target, task, additive):
    root = make_wham(tmp_path / "whamr", ("_anechoic", "_reverb"))
    made = prepare(root, tmp_path / "out", room=room, target=target, task=task)
    recipe = made.recipes("cv")[0]
    one, two, noise = waves(recipe.name)
    mixed, echo = ROOMS[f"_{room}"], ROOMS[f"_{target or 'anechoic'}"]
    mixture = mixed * (one + two + (0 if task == "sep_clean" else noise))
    targets = [echo * (one + two)] if task == "enh_both" else [echo * one, echo * two]
    assert np.abs(made.waves("cv", recipe) / 32768 - np.stack([mixture, *targets])).max() < 1e-6
    assert made.additive == additive
    with pytest.raises(UserError, match="choose another --task; --room selects those of WHAMR!"):
        prepare(root, tmp_path / "other")


@pytest.mark.parametrize("task", TASKS)
def test_training_and_validation_use_the_mixture_itself(plain, tmp_path, task):
    made = prepare(plain, tmp_path / "out", task=task)
    batches = training_data(made, segment=4000, batch_size=2, dynamic=False, seed=0, memory_gib=1)
    (valid,) = ValidationCrops(made, 4000, 2)
    by_start = {tuple(made.waves(*pair)[0, :5]): made.waves(*pair) for pair in every_recipe(made)}
    for batch in (batches.batch(0), valid):
        for mixture, sources in zip(batch.mixture.numpy() * 32768, batch.sources.numpy() * 32768, strict=True):
            assert np.array_equal(by_start[tuple(mixture[:5])], np.stack([mixture, *sources]))
    if task == "sep_clean":
        training_data(made, segment=4000, batch_size=2, dynamic=True, seed=0, memory_gib=1).batch(0)
    else:
        with pytest.raises(UserError, match="which dynamic mixing would leave out: prepare them again"):
            training_data(made, segment=4000, batch_size=2, dynamic=True, seed=0, memory_gib=1)


@pytest.mark.parametrize("task", ["sep_noisy", "enh_single"])
def test_a_run_trains_and_is_scored_on_it(plain, tmp_path, task):
    told = sepclip("prepare", "wham", plain.parents[1], tmp_path / "out", "--task", task)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(
        f"wrote recipes (the audio stays in {plain}) to {tmp_path / 'out'}: tr 0.0 min (2 seen)"
    )
    run = train_tiny(tmp_path / "out", tmp_path / "run", "--steps", 2)
    assert run.returncode == 0, run.stderr
    scored = sepclip("eval", tmp_path / "run", tmp_path / "out", "--jobs", 1, "--json")
    assert scored.returncode == 0, scored.stderr
    row = json.loads(scored.stdout)["rows"][0]
    one, two, noise = waves(NAMES["tt"][0])
    mixture = one + noise + (two if task == "sep_noisy" else 0)
    mixture, one = mixture - mixture.mean(), one - one.mean()
    target = one * (mixture @ one) / (one @ one)
    before = 10 * np.log10((target @ target) / ((mixture - target) @ (mixture - target)))
    assert row["si_sdr"] - row["si_sdr_improvement"] == pytest.approx(before, abs=0.05)


@pytest.mark.parametrize("speakers", [2, 3])
def test_made_wsj0_trees_are_read_in_place(tmp_path, speakers):
    root = make_wsj0_tree(tmp_path / f"{speakers}speakers" / "wav8k" / "min", speakers)
    made = prepare(tmp_path, tmp_path / "out", f"wsj0-{speakers}mix")
    assert (made.source_count, made.rate_hz, made.additive, made.audio) == (speakers, 8000, True, False)
    assert made.root == root
    for split, recipe in every_recipe(made):
        found = made.waves(split, recipe)
        assert found.dtype == np.int16
        mix, *sources = found.astype(int)
        assert np.abs(mix - sum(sources)).max() <= 2
        assert np.array_equal(mix, np.rint((waves(recipe.name)[:speakers] * 0.77).sum(0) * 32768))
    run = train_tiny(made.path, tmp_path / "run", "--steps", 2)
    assert run.returncode == 0, run.stderr
    with pytest.raises(UserError, match="need no --lists"):
        prepare(tmp_path, tmp_path / "other", f"wsj0-{speakers}mix", lists=tmp_path)


def test_everything_missing_or_wrong_is_told_at_once_and_nothing_is_written(tmp_path, capsys):
    root = make_wham(tmp_path / "wham")
    first, second = NAMES["tr"]
    (root / "tr" / "s1" / f"{first}.wav").unlink()
    (root / "tr" / "mix_clean" / f"{second}.wav").unlink()
    write_wave(root / "cv" / "s2" / f"{NAMES['cv'][0]}.wav", np.zeros(3999, np.float32))
    (root / "tt" / "s1" / f"{NAMES['tt'][0]}.wav").write_text("no sound")
    write_wave(root / "tt" / "s2" / f"{NAMES['tt'][0]}.wav", np.zeros((4000, 2), np.float32))
    shutil.rmtree(root / "cv" / "s1")
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "wham", str(root), str(tmp_path / "out"), "--check"])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    for words in (
        "tr: 0 mixtures (official 20000)", "folder missing (1)", "cv/s1", "file missing (2)", f"tr/s1 (1): {first}.wav",
        f"tr/mix_clean (1): {second}.wav", "no readable sound (1)", "2 channels at 8000 Hz, not 1 at 8000 Hz (1)",
    ):  # fmt: skip
        assert words in told
    make_wham(root)
    write_wave(root / "cv" / "s2" / f"{NAMES['cv'][0]}.wav", np.zeros(3999, np.float32))
    with pytest.raises(UserError, match=r"another length than its mixture \(1\)"):
        prepare(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_options_and_trees_are_told(plain, tmp_path):
    for options, words in (
        ({"task": "sep"}, "choose sep_clean, sep_noisy, enh_single or enh_both"),
        ({"target": "reverb"}, "--target goes with --room"),
        ({"room": "bath"}, "choose anechoic or reverb"),
        ({"room": "reverb"}, "has no mix_clean_reverb, only mix_both, mix_clean, mix_single"),
        ({"rate": 44100}, "choose 8000 or 16000"),
        ({"mode": "mid"}, "choose min or max"),
        ({"rate": 16000}, "not 1 at 16000 Hz"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(plain, tmp_path / "out", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no mixtures of 8000 Hz, min"):
        prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="is the tree itself"):
        prepare(plain, plain)


def test_a_second_run_and_other_settings(plain, tmp_path, capsys):
    made = prepare(plain, tmp_path / "out", jobs=2)
    before = tree(made.path)
    prepare(plain, tmp_path / "out", jobs=1)
    assert "is already prepared" in capsys.readouterr().out
    with pytest.raises(UserError, match="other settings"):
        prepare(plain, tmp_path / "out", task="sep_noisy")
    assert tree(made.path) == before


def test_a_file_that_changed_is_told(tmp_path):
    root = make_wham(tmp_path / "wham")
    made = prepare(root, tmp_path / "out")
    recipe = made.recipes("tr")[0]
    write_wave(root / recipe.sources[0].path, np.zeros(3000, np.float32))
    with pytest.raises(UserError, match="is not 4000 samples of 1 channel at 8000 Hz"):
        made.waves("tr", recipe)

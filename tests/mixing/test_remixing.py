"""One recipe gives one mixture: prepared, read in place, and mixed anew with the choices of the recipe."""

import json
import shutil

import numpy as np
import pytest
import torch

from sepclip.config.load import load_config
from sepclip.corpora.existing_mixtures import TASKS
from sepclip.errors import UserError
from sepclip.mixing.batches import training_data
from sepclip.mixing.dynamic_voices import NO_AUGMENTATION, Augmentation, VoiceMixer
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training.state import TrainingState, build_separator
from sepclip.training.step import take_step
from tests.conftest import TINY, assert_told, sepclip, train_tiny
from tests.corpora import test_existing_mixtures, test_librimix, test_wsj0
from tests.mixing.conftest import every_recipe, prepare, write_wave

SEGMENT = 3000


class Told:
    """Chooses what a recipe says, where a generator would draw."""

    def __init__(self, mixer, recipe):
        self._sounds, self._recipe = mixer._sounds, recipe

    def sample(self, names, count):
        assert {source.voice for source in self._recipe.sources} <= set(names)
        return [source.voice for source in self._recipe.sources]

    def choice(self, options):
        if not isinstance(options[0], int):
            return tuple(source.rir for source in self._recipe.sources)
        paths = [source.path for source in self._recipe.sources]
        (found,) = [one for one in options if self._sounds.voices[one].path in paths]
        return found

    def randrange(self, _):
        (found,) = [i for i, one in enumerate(self._sounds.noises) if one.path == self._recipe.noise.path]
        return found

    def uniform(self, low, high):
        assert (low, high) == (0, 5)
        return 2 * self._recipe.sources[0].level_db

    def random(self):
        return 0.0

    def shuffle(self, _):
        pass


def mixer(mixtures, augmentation=NO_AUGMENTATION):
    kept = {}

    def keep(load, count):
        class Kept:
            def __getitem__(self, index):
                assert 0 <= index < count
                if index not in kept:
                    kept[index] = load(index)
                return kept[index]

        return Kept()

    return VoiceMixer(mixtures, augmentation, keep)


def anew(mixtures):
    """Return the training mixtures with their sources (1 + S, T), mixed anew as their recipes say, by name."""
    mixing = mixer(mixtures)
    made = {recipe.name: mixing.mix(Told(mixing, recipe), SEGMENT) for recipe in mixtures.recipes("tr")}
    return {name: np.stack([mixture, *sources]) * 32768 for name, (mixture, sources) in made.items()}


def assert_same(mixtures, steps):
    """Assert that mixing anew gives the mixtures of the set to so many steps of 16 bits."""
    found = anew(mixtures)
    assert found
    for recipe in mixtures.recipes("tr"):
        want = mixtures.waves("tr", recipe, samples=SEGMENT).astype(float)
        assert np.abs(want).max() > 1000
        assert np.abs(found[recipe.name][:, : want.shape[1]] - want).max() <= steps, recipe.name
    return found


def loss(mixtures, waves):
    """Return the loss of the first step of a tiny network on these mixtures."""
    from sepclip.mixing.batches import to_batch

    config = load_config(None, list(TINY))
    state = TrainingState.start(config, build_separator(config, mixtures.layout), torch.device("cpu"), 1)
    return take_step(state, to_batch([waves[name].astype(np.float32) for name in sorted(waves)]), config).losses


@pytest.fixture(scope="module")
def libri(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libri")
    root = test_librimix.make_corpora(folder / "root")
    return root, test_librimix.make_tree(folder / "tree", root, 2, 8000, "min")


@pytest.mark.parametrize("task", TASKS)
def test_librimix_prepared_in_place_and_anew(libri, tmp_path, task):
    root, tree = libri
    options = {"task": task, "train": "train-360"}
    made = test_librimix.prepare(root, tmp_path / "made", **options)
    there = test_librimix.prepare(tree, tmp_path / "there", **options)
    one, two = assert_same(made, 3), assert_same(there, 3)
    fixed = {recipe.name: made.waves("tr", recipe, samples=SEGMENT) for recipe in made.recipes("tr")}
    want = loss(made, fixed)
    assert loss(made, one) == pytest.approx(want, rel=2e-3)
    assert loss(there, two) == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize(("rate", "steps"), [(8000, 100), (16000, 300)])
def test_wsj0_prepared_in_place_and_anew(tmp_path, rate, steps):
    root, lists = test_wsj0.make_wsj0(tmp_path / "discs"), test_wsj0.make_lists(tmp_path / "lists")
    made = test_wsj0.prepare(root, lists, tmp_path / "made", rate=rate, mode="max")
    there = test_existing_mixtures.prepare(made.path, tmp_path / "there", "wsj0-2mix", rate=rate, mode="max")
    found, in_place = anew(made), anew(there)
    for recipe in made.recipes("tr"):
        want = made.waves("tr", recipe, samples=SEGMENT)
        # the loudest sample of the whole mixture, or of the excerpt, has 0.9
        gain = np.vdot(want, found[recipe.name]) / np.vdot(found[recipe.name], found[recipe.name])
        assert 0.3 < gain <= 1.001
        assert np.abs(gain * found[recipe.name] - want).max() <= 3
        # of a tree the active levels are measured anew, at its own rate and with the silence at the end: 0.03 to 0.1 dB
        assert np.abs(in_place[recipe.name] - found[recipe.name]).max() <= steps


@pytest.mark.parametrize(
    ("suffixes", "options"),
    [
        (("",), {"task": "sep_noisy"}),
        (("",), {"task": "enh_single"}),
        (("",), {"task": "enh_both"}),
        (("_anechoic", "_reverb"), {"task": "sep_noisy", "room": "reverb"}),
        (("_anechoic", "_reverb"), {"task": "sep_clean", "room": "reverb"}),
        (("_anechoic", "_reverb"), {"task": "enh_both", "room": "reverb"}),
        (("_anechoic", "_reverb"), {"task": "sep_noisy", "room": "reverb", "target": "reverb"}),
        (("_anechoic", "_reverb"), {"task": "enh_single", "room": "anechoic", "target": "reverb"}),
    ],
)
def test_trees_of_wham_and_whamr_with_their_noise_and_echo(tmp_path, suffixes, options):
    tree = test_existing_mixtures.make_wham(tmp_path / "tree", suffixes)
    for split, names in test_existing_mixtures.NAMES.items():
        for name in names:
            level = test_existing_mixtures.ROOMS[(options.get("room") and f"_{options['room']}") or ""]
            write_wave(
                tree / split / "noise" / f"{name}.wav", test_existing_mixtures.waves(name)[2] * level, subtype="FLOAT"
            )
    made = test_existing_mixtures.prepare(tree, tmp_path / "out", **options)
    assert_same(made, 4)
    tree.rename(tmp_path / "moved")  # noise and all
    assert_same(MixtureSet.open(made.path, tmp_path / "moved"), 4)
    batches = training_data(made_at(made, tmp_path), segment=SEGMENT, batch_size=4, dynamic=True, seed=0, memory_gib=1)
    beside = batches.batch(0).mixture - batches.batch(0).sources.sum(1)
    assert beside.abs().amax(1).min() > 0.01


def made_at(made, tmp_path):
    return MixtureSet.open(made.path, tmp_path / "moved")


def test_a_tree_without_its_noise_is_told_before_and_refused(tmp_path, capsys):
    tree = test_existing_mixtures.make_wham(tmp_path / "tree")
    from sepclip.cli import main

    with pytest.raises(SystemExit):
        main(["prepare", "wham", str(tree), str(tmp_path / "out"), "--task", "sep_noisy", "--check"])
    assert "noise not there: no --dynamic mixing with this set, all else works" in capsys.readouterr().out
    made = test_existing_mixtures.prepare(tree, tmp_path / "out", task="sep_noisy")
    with pytest.raises(UserError, match="contain what would be in noise that their recipes do not name"):
        mixer(made)


def test_a_set_of_a_version_that_named_no_noise_is_refused(libri, tmp_path):
    made = test_librimix.prepare(libri[0], tmp_path / "made", task="sep_noisy")
    lines = [json.loads(line) for line in (made.path / "tr.jsonl").read_text().splitlines()]
    assert all(line.pop("noise") for line in lines)
    (made.path / "tr.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(UserError, match=r"contain noise or echo that their recipes do not name.*prepare them again"):
        mixer(made)


def test_noise_keeps_its_distance_to_other_voices(libri, tmp_path):
    made = test_librimix.prepare(libri[0], tmp_path / "made", task="sep_noisy", train="train-100,train-360")
    _, one, two = made.recipes("tr")
    mixing = mixer(made)

    class Crossed(Told):
        def __init__(self, mixer, voices, noise):
            super().__init__(mixer, voices)
            self._noise_of = noise

        def randrange(self, _):
            (found,) = [i for i, one in enumerate(self._sounds.noises) if one.path == self._noise_of.noise.path]
            return found

    def snr(recipe, noise):
        mixture, sources = mixing.mix(Crossed(mixing, recipe, noise), SEGMENT)
        return (sources**2).mean(1).max() ** 0.5 / ((mixture - sources.sum(0)) ** 2).mean() ** 0.5

    # the look-alikes of speech have no pauses, so that an excerpt is as loud as the whole
    assert snr(two, one) == pytest.approx(snr(one, one), rel=0.05)
    assert snr(one, two) == pytest.approx(snr(two, two), rel=0.05)
    assert snr(one, one) != pytest.approx(snr(two, two), rel=0.2)
    varied = mixer(made, Augmentation(noise_snr_db=(-6.0, -6.0)))

    class Louder(Crossed):
        def uniform(self, low, high):
            return low if low == high else super().uniform(low, high)

    mixture, sources = varied.mix(Louder(varied, one, one), SEGMENT)
    noise = mixture - sources.sum(0)
    assert 20 * np.log10((sources**2).mean(1).max() ** 0.5 / (noise**2).mean() ** 0.5) == pytest.approx(-6, abs=0.5)


@pytest.mark.parametrize("option", ["noise", "rirs"])
def test_moved_noise_and_rooms_are_found_again(corpus, tmp_path, option):
    chance = np.random.default_rng(0)
    folder = tmp_path / "here"
    for index in range(3):
        wave = chance.normal(0, 0.05, 24000 if option == "noise" else 300)
        write_wave(folder / f"{index}.wav", wave / (1 if option == "noise" else np.arange(1, 301)), 8000)
    made = prepare(corpus, tmp_path / "set", audio=False, **{option: folder})
    recipe = made.recipes("tr")[0]
    want = made.waves("tr", recipe)
    batch = training_data(made, segment=SEGMENT, batch_size=2, dynamic=True, seed=0, memory_gib=1).batch(0)
    folder.rename(tmp_path / "there")
    told = f"{folder}, which is not there: say with --{option}-root where the folder is now"
    with pytest.raises(UserError, match=told):
        made.waves("tr", recipe)
    with pytest.raises(UserError, match=told):
        training_data(made, segment=SEGMENT, batch_size=2, dynamic=True, seed=0, memory_gib=1)
    moved = MixtureSet.open(made.path, **{option: tmp_path / "there"})
    assert np.array_equal(moved.waves("tr", recipe), want)
    again = training_data(moved, segment=SEGMENT, batch_size=2, dynamic=True, seed=0, memory_gib=1).batch(0)
    assert torch.equal(again.mixture, batch.mixture)
    other = {"noise": "rirs", "rirs": "noise"}[option]
    with pytest.raises(UserError, match=f"--{other}-root {tmp_path}: the recipes of {made.path} name none of these"):
        MixtureSet.open(made.path, **{other: tmp_path})


def test_the_command_line_is_told_where_moved_noise_lies(corpus, tmp_path):
    folder = tmp_path / "here"
    for index in range(3):
        write_wave(folder / f"{index}.wav", np.random.default_rng(index).normal(0, 0.05, 24000), 8000)
    made = prepare(corpus, tmp_path / "set", audio=False, noise=folder)
    folder.rename(tmp_path / "there")
    told = train_tiny(made.path, tmp_path / "run", "--steps", 2, "--dynamic")
    assert_told(told, "not there: say with --noise-root")
    moved = ("--noise-root", tmp_path / "there")
    trained = train_tiny(made.path, tmp_path / "run", "--steps", 2, "--dynamic", *moved)
    assert trained.returncode == 0, trained.stderr
    assert_told(sepclip("eval", tmp_path / "run", made.path, "--jobs", 1), "not there: say with --noise-root")
    scored = sepclip("eval", tmp_path / "run", made.path, "--jobs", 1, "--metrics", "si_sdr", *moved)
    assert scored.returncode == 0, scored.stderr


def test_sets_of_voices_prepared_and_anew(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "voices")
    made = prepare(tmp_path / "voices", tmp_path / "set", mode="max")
    mixing = mixer(made)
    for _, recipe in every_recipe(made)[:6]:
        mixture, sources = mixing.mix(Told(mixing, recipe), SEGMENT)
        want = made.waves("tr", recipe, samples=SEGMENT)
        found = np.stack([mixture, *sources]) * 32768
        gain = np.vdot(want, found) / np.vdot(found, found)  # which keeps whole mixtures from clipping
        assert np.abs(gain * found - want).max() <= 3

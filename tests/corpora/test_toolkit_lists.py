"""Lists of the waves for other toolkits; with the real ones where they are installed."""

import csv
import json
from types import ModuleType

import numpy as np
import pytest
import soundfile

from sepclip.audio.resample import load_torchaudio
from sepclip.corpora.existing_mixtures import TASKS
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from tests.corpora import test_librimix, test_wsj0
from tests.mixing.conftest import every_recipe, prepare

TABLES = {  # of each task
    "sep_clean": {"mix_clean": ["source_1_path", "source_2_path"]},
    "sep_noisy": {"mix_both": ["source_1_path", "source_2_path"]},
    "enh_single": {"mix_single": ["source_1_path"]},
    "enh_both": {"mix_both": ["source_1_path"], "mix_clean": []},
}


@pytest.fixture(scope="module")
def libri(tmp_path_factory):
    """Return a set of each task, made of a look-alike of LibriMix."""
    folder = tmp_path_factory.mktemp("libri")
    root = test_librimix.make_corpora(folder / "root")
    return {task: test_librimix.prepare(root, folder / task, task=task) for task in TASKS}


@pytest.fixture(scope="module")
def wsj0(tmp_path_factory):
    """Return wsj0-2mix and wsj0-3mix, made of a look-alike."""
    folder = tmp_path_factory.mktemp("wsj0")
    root = test_wsj0.make_wsj0(folder / "discs")
    lists = test_wsj0.make_lists(folder / "lists")
    test_wsj0.make_lists(lists, test_wsj0.TRIPLES)
    return {count: test_wsj0.prepare(root, lists, folder / f"{count}", count) for count in (2, 3)}


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def right(made):
    """Tell whether every list of a set names its waves, in the order of the recipes."""
    for split in SPLITS:
        recipes = made.recipes(split)
        folder = made.path / split
        table = rows(folder / "speechbrain.csv")
        assert [float(row["duration"]) for row in table] == [recipe.length / made.rate_hz for recipe in recipes]
        for part in ("mix", "s1", "s2", "s3")[: made.source_count + 1]:
            paths = [str(folder.resolve() / part / f"{recipe.name}.wav") for recipe in recipes]
            assert [row[f"{part}_wav"] for row in table] == paths
            pairs = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
            assert pairs == [[path, soundfile.info(path).frames] for path in paths]
    return True


@pytest.mark.parametrize("speakers", [2, 3])
def test_a_set_of_wsj0_has_its_lists(wsj0, speakers):
    assert right(wsj0[speakers])


@pytest.mark.parametrize("task", TASKS)
def test_a_set_of_librimix_has_its_tables(libri, task):
    made = libri[task]
    assert right(made)
    for split, recipe in every_recipe(made):
        names = {path.name for path in (made.path / split).glob("*.csv")}
        assert names == {"speechbrain.csv", *(f"mixture_{split}_{mixture}.csv" for mixture in TABLES[task])}
        for mixture, columns in TABLES[task].items():
            table = rows(made.path / split / f"mixture_{split}_{mixture}.csv")
            assert list(table[0]) == ["mixture_ID", "mixture_path", *columns, "length"]
            (row,) = [row for row in table if row["mixture_ID"] == recipe.name]
            part = "s1" if (task, mixture) == ("enh_both", "mix_clean") else "mix"
            paths = [row["mixture_path"], *(row[column] for column in columns)]
            assert [path.split("/")[-2] for path in paths] == [part, "s1", "s2"][: len(paths)]
            assert {soundfile.info(path).frames for path in paths} == {int(row["length"])}


@pytest.mark.parametrize("task", TASKS)
def test_noise_is_listed_for_speechbrain(libri, task):
    made = libri[task]
    for split in SPLITS:
        table = rows(made.path / split / "speechbrain.csv")
        assert ("noise_wav" in table[0]) == (task != "sep_clean")
        assert (made.path / split / "noise").is_dir() == (task != "sep_clean")
        for row in table if task != "sep_clean" else ():
            parts = [part for part in ("mix", "s1", "s2", "noise") if f"{part}_wav" in row]
            mix, *others = (soundfile.read(row[f"{part}_wav"], dtype="int16")[0].astype(int) for part in parts)
            np.testing.assert_array_equal(mix, sum(others))
            assert row["noise_wav_format"] == "wav"


def test_a_set_that_moved_gets_its_lists_anew(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "here")
    assert right(made)
    times = {path: path.stat().st_mtime_ns for path in made.path.rglob("*.json")}
    prepare(corpus, tmp_path / "here")
    assert {path: path.stat().st_mtime_ns for path in made.path.rglob("*.json")} == times
    (tmp_path / "here").rename(tmp_path / "there")
    prepare(corpus, tmp_path / "there")
    assert right(MixtureSet.open(tmp_path / "there"))
    recipes_only = prepare(corpus, tmp_path / "recipes", audio=False)
    assert not (recipes_only.path / "tr").exists()


@pytest.fixture(scope="session")
def asteroid() -> ModuleType:
    """Return asteroid's datasets; the test is skipped where it is not installed."""
    load_torchaudio()  # which asteroid imports, and which may lack its compiled part
    return pytest.importorskip("asteroid.data", reason="asteroid is not installed: python -m pip install asteroid")


def same(loaded, made, split):
    """Assert that what asteroid loads is the mixtures and sources of a split, sample for sample."""
    recipes = made.recipes(split)
    assert len(loaded) == len(recipes)
    for (mixture, sources), recipe in zip((loaded[index] for index in range(len(loaded))), recipes, strict=True):
        found = np.concatenate([mixture.numpy()[None], sources.numpy()]) * 32768
        assert np.array_equal(found, made.waves(split, recipe))


@pytest.mark.parametrize("speakers", [2, 3])
def test_asteroid_reads_wsj0(asteroid, wsj0, speakers):
    for split in SPLITS:
        loaded = asteroid.Wsj0mixDataset(str(wsj0[speakers].path / split), n_src=speakers, segment=None)
        same(loaded, wsj0[speakers], split)
    excerpts = asteroid.Wsj0mixDataset(str(wsj0[2].path / "tr"), segment=0.5)
    assert [tuple(wave.shape) for wave in excerpts[0]] == [(4000,), (2, 4000)]


@pytest.mark.parametrize("task", TASKS)
def test_asteroid_reads_librimix(asteroid, libri, task):
    made = libri[task]
    for split in SPLITS:
        folder = str(made.path / split)
        same(asteroid.LibriMix(folder, task, 8000, made.source_count, segment=None), made, split)


def test_speechbrain_reads_both(libri, wsj0):
    load_torchaudio()
    dataset = pytest.importorskip("speechbrain.dataio.dataset", reason="speechbrain is not installed")
    for made in (libri["sep_noisy"], wsj0[3]):
        table = dataset.DynamicItemDataset.from_csv(str(made.path / "tr" / "speechbrain.csv"))
        parts = [f"{part}_wav" for part in ("mix", "s1", "s2", "s3")[: made.source_count + 1]]
        table.set_output_keys(parts)
        for item, recipe in zip(table, made.recipes("tr"), strict=True):
            waves = [soundfile.read(item[part], dtype="int16")[0] for part in parts]
            assert np.array_equal(waves, made.waves("tr", recipe))

"""Corpora from the field that gave bad training data without a word, made by a script beside the repository."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from sepclip.mixing.recipe import SPLITS
from tests.conftest import REPOSITORY
from tests.corpora.tracks import stems
from tests.mixing.conftest import every_recipe, prepare

SCRIPT = next((path for up in REPOSITORY.parents if (path := up / "shared" / "cases" / "corpora.py").is_file()), None)
pytestmark = pytest.mark.skipif(SCRIPT is None, reason="the script that makes the corpora is not there")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(SCRIPT)], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("name", ["anti", "anti_noise", "dc", "lead"])
def test_every_voice_is_in_the_mixtures_at_its_level(cases, tmp_path, name):
    made = prepare(cases / name, tmp_path / "out", tr=60)
    assert made.about["left_out"] == {}
    assert ("corrected" in made.about and len(made.about["corrected"]) == 12) == (name != "lead")
    levels: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for split, recipe in every_recipe(made):
        for source, wave in zip(recipe.sources, made.waves(split, recipe)[1:] / 32768, strict=True):
            assert 20 * np.log10(wave.std()) > -25 + source.level_db - 6  # no voice is silent, or nearly so
            assert abs(wave.mean()) < 2e-3
            levels[source.voice].append(20 * np.log10(wave.std()) - source.level_db)
    # of "lead", the level includes the silence, which the mixtures leave out: 1.8 dB
    assert {voice: np.median(values) for voice, values in levels.items()} == pytest.approx(
        {"a": -25, "b": -25, "c": -25}, abs=2 if name == "lead" else 0.3
    )


@pytest.mark.parametrize(("name", "unseen"), [("nfd", ["José,b"]), ("comma", ["Smith, John", "Doe, Jane"])])
def test_names_are_found_as_typed(cases, tmp_path, name, unseen):
    made = prepare(cases / name, tmp_path / "out", unseen=unseen, audio=False)
    names = {source.voice for recipe in made.recipes("tt") if recipe.group == "unseen" for source in recipe.sources}
    assert names == ({"José", "b"} if name == "nfd" else set(unseen))


def test_stems_of_different_tracks_are_the_same_in_any_spelling(cases, tmp_path):
    made = stems(cases / "songs", tmp_path / "out")
    assert made.layout.names == ("batería", "voz")
    assert sum(len(made.recipes(split)) for split in SPLITS) == 5
    chosen = stems(cases / "songs", tmp_path / "two", stems=unicodedata.normalize("NFD", "voz,batería"))
    assert chosen.layout.names == ("voz", "batería")

"""A tiny corpus of real voices, and what the tests of mixing measure with."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.mixing.corpora import speakers
from sepclip.mixing.mixture import SPLITS, MixtureSet
from tests.conftest import SPEECH

VOICES = ("ca-m", "en-f", "fr-m", "it-f", "ru-m")


def speech_files(voice):
    return sorted((SPEECH / voice).glob("*.flac"))


def speech_wave(voice, index=0):
    """Return one real sentence as int16 at 8 kHz (T,)."""
    return soundfile.read(speech_files(voice)[index], dtype="int16")[0]


def make_corpus(root, name="{voice}/{index}.flac", voices=VOICES, files=4, first=0):
    """Copy real sentences to where ``name`` says."""
    for voice in voices:
        for index in range(first, first + files):
            target = root / name.format(voice=voice, index=index)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(speech_files(voice)[index], target)
    return root


def write_wave(path, samples, rate_hz=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **options)
    return path


def prepare(root: Path, out: Path, tr=6, cv=3, tt=2, **options) -> MixtureSet:
    """Prepare a small set as `sepclip prepare speakers` does."""
    speakers.prepare(root, out, tr=tr, cv=cv, tt=tt, **options)
    return MixtureSet.open(out)


def tree(folder):
    """Return every file below ``folder`` with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def every_recipe(mixtures):
    return [(split, recipe) for split in SPLITS for recipe in mixtures.recipes(split)]


def heard(recipes, attribute):
    """Return the voices, or the paths, in ``recipes``."""
    return {getattr(source, attribute) for recipe in recipes for source in recipe.sources}


def level_db(wave):
    return 10 * np.log10(np.square(np.asarray(wave, np.float64) / 32768).mean())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Return a corpus of five real voices with four sentences each; not to be changed."""
    return make_corpus(tmp_path_factory.mktemp("corpus") / "voices")


@pytest.fixture(scope="session")
def mixtures(corpus, tmp_path_factory):
    """Return a set made of ``corpus``: whole sentences, filled up with silence; not to be changed."""
    return prepare(corpus, tmp_path_factory.mktemp("sets") / "whole", tr=20, cv=6, tt=4, mode="max")

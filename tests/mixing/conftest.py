"""A small corpus of real voices, a set made of it, and what the tests of mixing measure with."""

import shutil

import pytest
import soundfile

from sepclip.corpora.speakers import command
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import SPLITS
from tests.conftest import SPEECH

VOICES = ("ca-m", "en-f", "fr-m", "it-f", "ru-m")
WHOLE = {"tr": 20, "cv": 6, "tt": 4, "mode": "max"}  # what the fixture `mixtures` is made with


def sentence(voice, index=0):
    """Return the file of one real sentence, 8 kHz."""
    return sorted((SPEECH / voice).glob("*.flac"))[index]


def samples(path):
    return soundfile.read(path, dtype="int16")[0]


def make_corpus(root, name="{voice}/{index}.flac", voices=VOICES, files=4, first=0):
    """Copy real sentences to where ``name`` says."""
    for voice in voices:
        for index in range(first, first + files):
            target = root / name.format(voice=voice, index=index)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sentence(voice, index), target)
    return root


def write_wave(path, wave, rate_hz=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate_hz, **options)
    return path


def prepare(root, out, tr=6, cv=3, tt=2, **options):
    """Make a set as `sepclip prepare speakers` does."""
    command.prepare(root, out, tr=tr, cv=cv, tt=tt, **options)
    return MixtureSet.open(out)


def tree(folder):
    """Return every file below ``folder`` with its bytes; the folder itself is OUT in them."""
    here = str(folder.resolve()).encode()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes().replace(here, b"OUT") for path in files}


def every_recipe(mixtures):
    return [(split, recipe) for split in SPLITS for recipe in mixtures.recipes(split)]


def used(recipes, attribute):
    """Return the voices, or the paths, of ``recipes``."""
    return {getattr(source, attribute) for recipe in recipes for source in recipe.sources}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Return five real voices of four sentences each; not to be changed."""
    return make_corpus(tmp_path_factory.mktemp("corpus") / "voices")


@pytest.fixture(scope="session")
def mixtures(corpus, tmp_path_factory):
    """Return a set made of ``corpus`` with whole sentences, filled up with silence; not to be changed."""
    return prepare(corpus, tmp_path_factory.mktemp("sets") / "whole", **WHOLE)

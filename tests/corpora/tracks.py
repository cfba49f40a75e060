"""Look-alikes of MUSDB18-HQ: short noise for stems, which no two of are alike."""

import numpy as np
import soundfile

from sepclip.corpora.stems import command as corpus
from sepclip.mixing.mixture_set import MixtureSet

FOUR = ("vocals", "drums", "bass", "other")
TRACKS = {"train": ("A & B - It's", "C - D.e", "F - G", "H - I"), "test": ("X - Y", "Z - Ü")}


def noise(*what, samples=4410, channels=2):
    """Return noise (T, C) of its own for ``what`` names it, whole in 16 bits."""
    chance = np.random.default_rng(list("/".join(map(str, what)).encode()))
    return np.round(chance.uniform(-0.2, 0.2, (samples, channels)) * 32768) / 32768


def write(path, wave, rate_hz=44100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate_hz, **options)


def make_tracks(root, tracks=TRACKS, stems=FOUR, samples=4410, channels=2, rate_hz=44100, mixture="mixture"):
    """Make a tree ROOT/SPLIT/TRACK/STEM.wav; ``tracks`` without splits are given as {"": names}."""
    for split, names in tracks.items():
        for name in names:
            waves = {stem: noise(name, stem, samples=samples, channels=channels) for stem in stems}
            if mixture:
                waves[mixture] = sum(waves.values())
            for stem, wave in waves.items():
                write(root / split / name / f"{stem}.wav", wave, rate_hz)
    return root


def stems(root, out, **options):
    """Make a set as `sepclip prepare stems` does."""
    corpus.prepare_stems(root, out, **options)
    return MixtureSet.open(out)


def musdb18(root, out, **options):
    corpus.prepare_musdb18(root, out, **options)
    return MixtureSet.open(out)


def names(mixtures):
    return {split: [recipe.name for recipe in mixtures.recipes(split)] for split in ("tr", "cv", "tt")}

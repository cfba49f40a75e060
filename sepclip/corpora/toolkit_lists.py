"""Lists of the waves of a set in the formats of other toolkits, written beside the waves of each split.

asteroid's Wsj0mixDataset reads ``mix.json``, ``s1.json``, ...; ``mixture_SPLIT_mix_clean.csv`` (or mix_both,
mix_single) is LibriMix's own table, which asteroid's LibriMix reads; ``speechbrain.csv`` has the columns of
speechbrain's recipes for both. All of them name files by whole paths, so they are written again if a set has moved.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sepclip.audio.files import write_text
from sepclip.audio.layout import Layout
from sepclip.mixing.mixture_set import SetDocument
from sepclip.mixing.recipe import Recipe

SPEECHBRAIN_FILE = "speechbrain.csv"
NOISE = "noise"  # folder of what noisy mixtures have beside their sources


def write_lists(out: Path, recipes: Mapping[str, Sequence[Recipe]], layout: Layout, about: SetDocument) -> None:
    """Write the lists of every split of a set with audio in ``out``; those that are right stay as they are."""
    for split, mixtures in recipes.items():
        folder = (out / split).resolve()
        parts = ("mix", *layout.names)
        waves = {part: [f"{folder}/{part}/{recipe.name}.wav" for recipe in mixtures] for part in parts}
        texts = {}
        for part, paths in waves.items():
            pairs = [[path, recipe.length] for path, recipe in zip(paths, mixtures, strict=True)]
            texts[f"{part}.json"] = json.dumps(pairs, indent=0, ensure_ascii=False) + "\n"
        for mixture, columns in _librimix_columns(waves, about).items():
            header = ["mixture_ID", *columns, "length"]
            names, lengths = (recipe.name for recipe in mixtures), (recipe.length for recipe in mixtures)
            rows = zip(names, *columns.values(), lengths, strict=True)
            texts[f"mixture_{split}_{mixture}.csv"] = _csv(header, rows)
        if mixtures and all((folder / NOISE / f"{recipe.name}.wav").is_file() for recipe in mixtures):
            waves[NOISE] = [f"{folder}/{NOISE}/{recipe.name}.wav" for recipe in mixtures]
        texts[SPEECHBRAIN_FILE] = _speechbrain(mixtures, waves, layout.rate_hz)
        for name, text in texts.items():
            if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode():
                write_text(folder / name, text)


def _librimix_columns(waves: Mapping[str, list[str]], about: SetDocument) -> dict[str, dict[str, list[str]]]:
    """Return the columns of LibriMix's tables by the kind of mixture."""
    mixture, *sources = waves.values()
    table = {"mixture_path": mixture} | {f"source_{index + 1}_path": wave for index, wave in enumerate(sources)}
    if about["task"] == "enh_both":  # the clean mixture is the target
        return {"mix_both": table, "mix_clean": {"mixture_path": sources[0]}}
    if about["additive"]:
        return {"mix_clean": table}
    return {"mix_both" if len(sources) > 1 else "mix_single": table}


def _speechbrain(recipes: Sequence[Recipe], waves: Mapping[str, list[str]], rate_hz: int) -> str:
    fields = ("wav", "wav_format", "wav_opts")
    header = ["ID", "duration", *(f"{part}_{field}" for part in waves for field in fields)]
    rows = [
        [index, recipe.length / rate_hz, *(value for part in waves for value in (waves[part][index], "wav", ""))]
        for index, recipe in enumerate(recipes)
    ]
    return _csv(header, rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()

"""From a run and a mixture set, or from two folders, to a table of scores: what to score, and the summary."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from sepclip.audio.files import BadSound, find_sounds, name_below, read_sound, write_text
from sepclip.audio.layout import part_names
from sepclip.errors import UserError, counted
from sepclip.mixing.mixture import FULL_SCALE, MixtureSet
from sepclip.model.separator import Separator
from sepclip.scoring import Item, Row, Waves, default_stft
from sepclip.terminal import out, say, say_some

SCHEMA_VERSION = 1
METRICS = {  # name: (title, definition)
    "si_sdr": ("SI-SDR", "scale-invariant SDR of the whole file (Le Roux et al. 2019)"),
    "si_sdr_improvement": ("SI-SDRi", "SI-SDR minus that of the mixture"),
    "sdr": ("SDR", "source to distortion ratio: BSSEval v4 by museval, windows of 1 s, median over windows"),
    "sdr_improvement": ("SDRi", "SDR minus that of the mixture"),
    "isr": ("ISR", "image to spatial distortion ratio, as SDR"),
    "sir": ("SIR", "source to interference ratio, as SDR"),
    "sar": ("SAR", "source to artefacts ratio, as SDR"),
    "ibm_si_sdr_improvement": ("IBM SI-SDRi", "SI-SDR improvement of the ideal binary mask"),
    "ibm_sdr_improvement": ("IBM SDRi", "SDR improvement of the ideal binary mask"),
}


def set_items(
    separator: Separator,
    data: MixtureSet,
    split: str,
    *,
    device: torch.device,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> tuple[Iterator[Item], int]:
    """Return the separated mixtures of a split, made one by one, and their number; ``only`` those of some names.

    Raises UserError where the data is not what the separator learned to separate.
    """
    if separator.layout != data.layout:
        raise UserError(f"the run separates {separator.layout}; {data.path} has {data.layout}")
    recipes = [recipe for recipe in data.recipes(split)[:limit] if only is None or recipe.name in only]
    if not recipes:
        raise UserError(f"{data.path} has no mixtures in {split}")
    if not data.audio:
        data.require_root()

    def items() -> Iterator[Item]:
        for recipe in recipes:
            rows = [
                Row(recipe.name, part, recipe.group, source.voice, recipe.sexes)
                for part, source in zip(data.layout.names, recipe.sources, strict=True)
            ]
            try:
                waves = data.waves(split, recipe).astype(np.float32) / FULL_SCALE  # (1 + S, T) or (1 + S, C, T)
            except BadSound as error:
                yield Item(rows, f"{error.reason} ({error.path})")
                continue
            waves = waves.reshape(len(waves), -1, waves.shape[-1])  # (1 + S, C, T)
            estimates = separator.separate(torch.from_numpy(waves[0]).to(device)).cpu().numpy()  # (S, C, T)
            exact = waves.transpose(0, 2, 1).astype(np.float64)  # (1 + S, T, C)
            est = estimates.transpose(0, 2, 1).astype(np.float64)  # (S, T, C)
            fixed = data.layout.fixed_order
            yield Item(rows, Waves(data.rate_hz, est=est, ref=exact[1:], mixture=exact[0], fixed_order=fixed))

    return items(), len(recipes)


def folder_items(
    estimates: Path,
    references: Path,
    mixtures: Path | None,
    limit: int | None = None,
    *,
    only: Collection[str] | None = None,
) -> tuple[Iterator[Item], int]:
    """Return the pairs of two folders, read one by one, and their number; ``only`` those of some names.

    Each folder holds ``s1/NAME.wav``, ``s2/NAME.wav``, ... or ``NAME_s1.wav``, ``NAME_s2.wav``, ...; the mixture is
    looked for as ``mix/NAME.wav`` in ``references``, or as ``NAME.wav`` in ``mixtures``, and is the sum of the
    references where there is none.
    """
    true, found = find_sources(references), find_sources(estimates)
    if not true:
        raise UserError(
            f"{references} holds no references: neither s1/NAME.wav, s2/NAME.wav nor NAME_s1.wav, NAME_s2.wav"
        )
    if not set(true) & set(found):
        raise UserError(
            f"{estimates} holds no estimate of any of the {counted(len(true), 'reference')} in {references}, "
            f"such as {min(true)!r}"
        )
    mixture_folder = mixtures or references / "mix"
    mixed = {_name(path, mixture_folder): path for path in find_sounds(mixture_folder)[0]}
    if mixtures is not None and not mixed:
        raise UserError(f"{mixtures}: no such folder, or one without mixtures")
    names = [name for name in sorted({*true, *found})[:limit] if only is None or name in only]

    def items() -> Iterator[Item]:
        for name in names:
            count = len(true.get(name) or found[name])
            rows = [Row(name, part) for part in part_names(count)]
            try:
                yield Item(rows, _read_waves(found.get(name), true.get(name), mixed.get(name)))
            except BadSound as error:
                yield Item(rows, f"{error.reason} ({error.path})")

    return items(), len(names)


def _name(path: Path, folder: Path) -> str:
    return name_below(path.with_suffix(""), folder)


def find_sources(folder: Path) -> dict[str, list[Path]]:
    """Return the sources of every name below ``folder``, in their order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    pattern = r"s(?P<number>\d+)/(?P<name>.+)" if (folder / "s1").is_dir() else r"(?P<name>.+)_s(?P<number>\d+)"
    numbered: dict[str, dict[int, Path]] = {}
    for path in find_sounds(folder)[0]:
        match = re.fullmatch(pattern, _name(path, folder))
        if match:
            other = numbered.setdefault(match["name"], {}).setdefault(int(match["number"]), path)
            if other != path:
                raise UserError(f"{other} and {path} are both source {match['number']} of one file: remove one of them")
    return {name: [paths[key] for key in sorted(paths)] for name, paths in numbered.items()}


def _read_waves(estimates: list[Path] | None, references: list[Path] | None, mixture: Path | None) -> Waves | str:
    """Read what one file is scored from, or return why it cannot be scored."""
    if estimates is None:
        return "no estimate"
    if references is None:
        return "no reference"
    if len(estimates) != len(references):
        return f"{counted(len(estimates), 'estimate')} for {counted(len(references), 'reference')}"
    sounds = [read_sound(path) for path in (*references, *estimates, *([mixture] if mixture else []))]
    rates = sorted({sound.rate_hz for sound in sounds})
    if len(rates) > 1:
        return f"different rates: {', '.join(f'{rate} Hz' for rate in rates)}"
    if len({sound.samples.shape[0] for sound in sounds}) > 1:
        return "different numbers of channels"
    lengths = [sound.samples.shape[1] for sound in sounds]
    if min(lengths) == 0:
        return "0 samples"
    if max(lengths) - min(lengths) > default_stft(rates[0]).hop_length:  # a hop more or less is only padding
        return f"different lengths: {min(lengths)} to {max(lengths)} samples"
    waves = np.stack([sound.samples[:, : min(lengths)].T for sound in sounds]).astype(np.float64)  # (*, T, C)
    count = len(references)
    ref, est = waves[:count], waves[count : 2 * count]
    return Waves(rates[0], est=est, ref=ref, mixture=waves[-1] if mixture else ref.sum(0))


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return mean, median and count of every metric, and how many rows lack scores for which reason."""
    values = {name: [value for row in rows if (value := getattr(row, name)) is not None] for name in METRICS}
    return {
        "mean": {name: fmean(found) if found else None for name, found in values.items()},
        "median": {name: median(found) if found else None for name, found in values.items()},
        "count": {
            "files": len({row.name for row in rows}),
            "rows": len(rows),
            "perfect": sum(row.status == "perfect" for row in rows),
            **{name: len(found) for name, found in values.items()},
        },
        "excluded": dict(Counter(_kind(row.reason) for row in rows if row.reason)),
    }


def _kind(reason: str) -> str:
    """Return a reason without its figures and paths, so that like ones are counted together."""
    return re.sub(r" \(.*\)$|: \d.*", "", reason)


def document(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """Return the whole result as what ``scores.json`` holds."""
    groups = sorted({row.group for row in rows if row.group})
    by_group = {group: summarise([row for row in rows if row.group == group]) for group in groups}
    return {
        "schema_version": SCHEMA_VERSION,
        "metrics": {name: definition for name, (_, definition) in METRICS.items()},
        **about,
        "summary": {**summarise(rows), "groups": by_group},
        "rows": [asdict(row) for row in rows],
    }


def write_scores(folder: Path, result: dict[str, Any]) -> None:
    """Write ``scores.csv`` and ``scores.json``, the latter last."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [column.name for column in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["rows"])
    write_text(folder / "scores.csv", table.getvalue())
    write_text(folder / "scores.json", json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def score_table(result: dict[str, Any]) -> Table:
    """Return the summary as a table for the terminal: a column a group, mean and median of each metric."""
    summary = result["summary"]
    parts = {**({"all": summary} if len(summary["groups"]) != 1 else {}), **summary["groups"]}
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("mean (median), dB")
    for name, part in parts.items():
        table.add_column(f"{name}, {counted(part['count']['files'], 'file')}", justify="right")
    for metric, (title, _) in METRICS.items():
        cells = [
            "-" if part["mean"][metric] is None else f"{part['mean'][metric]:.2f} ({part['median'][metric]:.2f})"
            for part in parts.values()
        ]
        table.add_row(title, *cells)
    return table


def show(result: dict[str, Any]) -> None:
    """Print the table of a result, and what was left out of it and why."""
    out.print(score_table(result))
    left_out = {row["name"]: row["reason"] for row in result["rows"] if row["reason"]}
    if left_out:
        say_some(
            f"{counted(len(left_out), 'file')} without some or all scores:",
            [f"{name}: {reason}" for name, reason in left_out.items()],
        )
    perfect = result["summary"]["count"]["perfect"]
    if perfect:
        say(f"{counted(perfect, 'source')} perfect: infinite scores are in no mean")

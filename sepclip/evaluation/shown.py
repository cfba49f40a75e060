"""Scores in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from sepclip.errors import counted
from sepclip.scoring.table import METRICS, ORACLES
from sepclip.terminal import out, say, say_some

# what one who sees such scores for the first time asks for
BRIEF = ("si_sdr_improvement", "sdr_improvement", "ibm_si_sdr_improvement", "ibm_sdr_improvement")

_KINDS = {"sexes": "voices", "input_snr": "input SNR"}
_LOWEST = 2  # files that a terminal has room for


def score_table(result: dict[str, Any], columns: Sequence[str] | None = None) -> Table:
    """Return the summary as a table: a column a group (a source in fixed order), a line a score.

    ``columns`` are the scores that it has, as ``scores.json`` names them, by default all for which there is room.
    All columns and figures are in ``scores.md`` and ``scores.json``.
    """
    summary = result["summary"]
    sources = summary.get("sources", {})
    groups = sources or summary["groups"]
    parts = {**({"all": summary} if len(groups) != 1 else {}), **groups}
    first, second = ("median", "mean") if sources else ("mean", "median")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{first} ({second}), dB" + (" over files" if sources else ""))
    for name, part in parts.items():
        table.add_column(f"{name}, {counted(part['count']['files'], 'file')}", justify="right")
    for column in _shown(result) if columns is None else columns:
        title, unit = result["titles"][column], result["units"][column]
        cells = []
        for part in parts.values():
            values = [part[stat][column] for stat in (first, second)]
            cells.append("-" if values[0] is None else f"{values[0]:.2f} ({values[1]:.2f})")
        table.add_row(title if unit == "dB" else f"{title}, {unit}", *cells)
    for oracle, (title, _) in ORACLES.items() if columns is None else ():
        name = f"{oracle}_si_sdr_improvement"
        if any(share is not None for share in (part["oracle_share"].get(oracle) for part in parts.values())):
            table.add_row(f"{title} SI-SDRi, reached", *(_reached(part, oracle, name) for part in parts.values()))
    return table


def _reached(part: dict[str, Any], oracle: str, name: str) -> str:
    """Return the mean improvement by an oracle, and which share of it was reached."""
    share = part["oracle_share"].get(oracle)
    return "-" if share is None else f"{part['mean'][name]:.2f}, {share:.0%}"


def _shown(result: dict[str, Any]) -> list[str]:
    """Return the columns with any score that a terminal has room for."""
    wanted = [
        name for metric in METRICS for name in (metric, f"{metric}_improvement")
        if not name.endswith("_improvement") or METRICS[metric].distortion or METRICS[metric].family == "perceptual"
    ]  # fmt: skip
    if "si_sdr" not in result["titles"]:  # else the oracles have lines of their own
        wanted += [f"{oracle}_sdr_improvement" for oracle in ORACLES]
    return [name for name in wanted if name in result["titles"] and result["summary"]["count"][name]]


def _by_kind(result: dict[str, Any]) -> list[str]:
    """Return the main score by kinds of files, and the files with the lowest: a line each."""
    summary = result["summary"]
    by, worst = summary["worst"]["by"], summary["worst"]["files"]
    if by is None:
        return []
    lines = []
    for part in ("sexes", "input_snr"):
        means = [(name, one["mean"][by], one["count"]["files"]) for name, one in summary[part].items()]
        told = [f"{name} {mean:.2f} ({counted(files, 'file')})" for name, mean, files in means if mean is not None]
        if len(told) > 1:
            lines.append(f"mean {result['titles'][by]} by {_KINDS[part]}: {', '.join(told)}")
    if len(worst) > _LOWEST:
        told = [f"{one['name']} {one['mean']:.2f}" for one in worst[:_LOWEST]]
        lines.append(f"lowest {result['titles'][by]}: {', '.join(told)}; more in scores.md")
    return lines


def show(result: dict[str, Any], columns: Sequence[str] | None = None) -> None:
    """Print the table of a result, and what was left out of it and why."""
    out.print(score_table(result, columns))
    for line in _by_kind(result) if columns is None else ():
        out.print(line, markup=False, soft_wrap=True)
    left_out = {row["name"]: row["reason"] for row in result["rows"] if row["reason"]}
    if left_out:
        say_some(
            f"{counted(len(left_out), 'file')} without some or all scores:",
            [f"{name}: {reason}" for name, reason in left_out.items()],
        )
    for note, count in result["summary"]["notes"].items():
        say(f"{counted(count, 'source')}: {note}")
    perfect = result["summary"]["count"]["perfect"]
    if perfect:
        say(f"{counted(perfect, 'source')} perfect: infinite scores are in no mean")

"""Scores as tables and lines for the terminal."""

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.table import Table

from sepclip.errors import counted
from sepclip.evaluation.document import ColumnStatistics, ScoreDocument
from sepclip.evaluation.leakage import leakage_lines
from sepclip.scoring.table import METRICS, ORACLES
from sepclip.terminal import out, say, say_some

# The columns of a short table, for readers who are new to such scores
BRIEF_COLUMNS = ("si_sdr_improvement", "sdr_improvement", "ibm_si_sdr_improvement", "ibm_sdr_improvement")

_PARTS: dict[Literal["sexes", "input_snr"], str] = {"sexes": "voices", "input_snr": "input SNR"}
_LOWEST = 2  # files with the lowest scores to print
_STATISTICS: tuple[Literal["mean", "median"], Literal["mean", "median"]] = ("mean", "median")


def score_table(document: ScoreDocument, columns: Sequence[str] | None = None) -> Table:
    """Return the summary as a table: a column for each group (or source in fixed order), a line for each score.

    ``columns`` are the scores to include, as ``scores.json`` names them, by default all for which there is room.
    All columns and figures are in ``scores.md`` and ``scores.json``.
    """
    summary = document["summary"]
    sources = summary.get("sources", {})
    groups = sources or summary["groups"]
    parts: dict[str, ColumnStatistics] = {**({"all": summary} if len(groups) != 1 else {}), **groups}
    # stems are reported by medians, as in SiSEC; voices by means
    first, second = _STATISTICS[::-1] if sources else _STATISTICS
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{first} ({second}), dB" + (" over files" if sources else ""))
    for name, part in parts.items():
        table.add_column(f"{name}, {counted(part['count']['files'], 'file')}", justify="right")
    # one line for each score
    for column in _columns_with_scores(document) if columns is None else columns:
        title, unit = document["titles"][column], document["units"][column]
        cells = []
        for part in parts.values():
            values = [part[statistic][column] for statistic in (first, second)]
            cells.append("-" if values[0] is None else f"{values[0]:.2f} ({values[1]:.2f})")
        table.add_row(title if unit == "dB" else f"{title}, {unit}", *cells)
    # one line for each oracle
    for oracle, (title, _) in ORACLES.items() if columns is None else ():
        name = f"{oracle}_si_sdr_improvement"
        if any(share is not None for share in (part["oracle_share"].get(oracle) for part in parts.values())):
            table.add_row(f"{title} SI-SDRi, reached", *(_reached(part, oracle, name) for part in parts.values()))
    return table


def _reached(part: ColumnStatistics, oracle: str, name: str) -> str:
    """Return the mean improvement by an oracle, and which share of it was reached."""
    share = part["oracle_share"].get(oracle)
    return "-" if share is None else f"{part['mean'][name]:.2f}, {share:.0%}"


def _columns_with_scores(document: ScoreDocument) -> list[str]:
    """Return the columns that have any score and for which a terminal has room."""
    names = [
        name for metric in METRICS for name in (metric, f"{metric}_improvement")
        if not name.endswith("_improvement")
        or METRICS[metric].infinite_is_perfect or METRICS[metric].family == "perceptual"
    ]  # fmt: skip
    if "si_sdr" not in document["titles"]:  # with it, the oracles have lines of their own
        names += [f"{oracle}_sdr_improvement" for oracle in ORACLES]
    return [name for name in names if name in document["titles"] and document["summary"]["count"][name]]


def _part_lines(document: ScoreDocument) -> list[str]:
    """Return the main score of each part, a line for each kind of part, and a line with the lowest files."""
    summary = document["summary"]
    by, worst = summary["worst"]["by"], summary["worst"]["files"]
    if by is None:
        return []
    title, lines = document["titles"][by], []
    for kind, words in _PARTS.items():
        means = [(name, part["mean"][by], part["count"]["files"]) for name, part in summary[kind].items()]
        parts = [f"{name} {mean:.2f} ({counted(files, 'file')})" for name, mean, files in means if mean is not None]
        if len(parts) > 1:
            lines.append(f"mean {title} by {words}: {', '.join(parts)}")
    if len(worst) > _LOWEST:
        lowest = ", ".join(f"{file['name']} {file['mean']:.2f}" for file in worst[:_LOWEST])
        lines.append(f"lowest {title}: {lowest}; more in scores.md")
    return lines


def print_scores(document: ScoreDocument, columns: Sequence[str] | None = None) -> None:
    """Print the table of an evaluation, and which scores are missing and why.

    ``columns`` as in :func:`score_table`; with it, only the table is printed and not the lines on parts of the files.
    """
    out.print(score_table(document, columns))
    for line in _part_lines(document) if columns is None else ():
        out.print(line, markup=False, soft_wrap=True)
    leakage = document["summary"].get("leakage")
    for line in leakage_lines(leakage) if leakage else ():
        out.print(line, markup=False, soft_wrap=True)
    reasons = {row["name"]: row["reason"] for row in document["rows"] if row["reason"]}
    if reasons:
        say_some(
            f"{counted(len(reasons), 'file')} without some or all scores:",
            [f"{name}: {reason}" for name, reason in reasons.items()],
        )
    for note, count in document["summary"]["notes"].items():
        say(f"{counted(count, 'source')}: {note}")
    perfect = document["summary"]["count"]["perfect"]
    if perfect:
        say(f"{counted(perfect, 'source')} perfect: infinite scores are excluded from means")

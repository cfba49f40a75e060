"""Scores as Markdown tables."""

from collections.abc import Iterable
from typing import Literal

from sepclip.evaluation.document import Interval, ScoreDocument
from sepclip.evaluation.leakage import leakage_lines
from sepclip.scoring.table import ORACLES

_Part = Literal["groups", "sexes", "input_snr", "sources"]
_PARTS: dict[_Part, str] = {"groups": "group", "sexes": "voices", "input_snr": "input SNR", "sources": "source"}


def to_markdown(document: ScoreDocument) -> str:
    """Return ``scores.md``: all columns, the parts, the worst files, missing scores, and the definitions."""
    summary, titles = document["summary"], document["titles"]
    lines = ["# Scores", "", *_summary_table(document), ""]
    leakage = document["summary"].get("leakage")
    for line in leakage_lines(leakage) if leakage else ():
        lines += [f"{line[0].upper()}{line[1:]}.", ""]
    shares = {name: share for name, share in summary["oracle_share"].items() if share is not None}
    if shares:
        reached = ", ".join(f"{ORACLES[name][0]} {share:.0%}" for name, share in shares.items())
        lines += [f"Share of the oracle's SI-SDR improvement that was reached: {reached}.", ""]
    for part, head in _PARTS.items():
        if len(summary.get(part, ())) > 1:
            lines += _part_tables(document, part, head)
    worst = summary["worst"]
    if worst["by"] is not None and worst["files"]:
        lines += [f"## Lowest {titles[worst['by']]}", ""]
        rows = ([f"`{file['name']}`", _two_decimals(file["mean"])] for file in worst["files"])
        lines += table(["file", "mean over sources"], rows)
    reasons = {**summary["excluded"], **summary["notes"]}
    if reasons:
        lines += ["## Without some or all scores, or scored otherwise", ""]
        lines += table(["why", "sources"], ([reason, str(count)] for reason, count in reasons.items()))
    lines += ["## Definitions", ""]
    lines += definition_table(titles, document["metrics"])
    return "\n".join(lines)


def _summary_table(document: ScoreDocument) -> list[str]:
    """Return one line for each column that has scores, over all files."""
    summary = document["summary"]
    rows = []
    for name, title in document["titles"].items():
        if summary["count"][name]:
            rows.append(
                [
                    title,
                    document["units"][name],
                    str(summary["count"][name]),
                    _two_decimals(summary["mean"][name]),
                    _range(summary["interval"][name]),
                    _two_decimals(summary["median"][name]),
                    _range(summary["quartiles"][name]),
                ]
            )
    heads = ["score", "unit", "sources", "mean", "95 % over files", "median", "quartiles"]
    files = f"{summary['count']['files']} files, {summary['count']['rows']} sources, {document['sources']}."
    return [files, "", *table(heads, rows)]


def _part_tables(document: ScoreDocument, part: _Part, head: str) -> list[str]:
    """Return a table with one line per part and its means; for sources also one with medians, as in SiSEC."""
    summary, titles = document["summary"], document["titles"]
    oracles = tuple(f"{oracle}_s" for oracle in ORACLES)
    columns = [name for name in titles if summary["count"][name] and not name.startswith(oracles)]
    statistics: list[tuple[Literal["mean", "median"], str]] = [("mean", "mean over files")]
    if part == "sources":
        statistics.append(("median", "median over files of the median over windows, as SiSEC"))
    lines = []
    for statistic, words in statistics:
        lines += [f"## By {head}: {words}", ""]
        rows = (
            [name, str(values["count"]["files"]), *(_two_decimals(values[statistic][column]) for column in columns)]
            for name, values in summary[part].items()
        )
        lines += table([head, "files", *(titles[name] for name in columns)], rows)
    return lines


def definition_table(titles: dict[str, str], definitions: dict[str, str]) -> list[str]:
    """Return a table with the definition of each column."""
    return table(["score", "what it is"], ([titles[name], words] for name, words in definitions.items()))


def table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, and an empty one."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def _two_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _range(limits: Interval | None) -> str:
    return "-" if limits is None else f"{limits[0]:.2f} to {limits[1]:.2f}"

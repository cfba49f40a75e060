"""The summary of scores as Markdown tables."""

from collections.abc import Iterable
from typing import Any

from sepclip.scoring.table import ORACLES

_PARTS = {"groups": "group", "sexes": "voices", "input_snr": "input SNR", "sources": "source"}


def to_markdown(result: dict[str, Any]) -> str:
    """Return ``scores.md``: all columns, the parts, the worst files, what was left out, and the definitions."""
    summary, titles = result["summary"], result["titles"]
    lines = ["# Scores", "", *_whole(result), ""]
    shares = {name: share for name, share in summary["oracle_share"].items() if share is not None}
    if shares:
        reached = ", ".join(f"{ORACLES[name][0]} {share:.0%}" for name, share in shares.items())
        lines += [f"Share of the oracle's SI-SDR improvement that was reached: {reached}.", ""]
    for part, head in _PARTS.items():
        if len(summary.get(part, ())) > 1:
            lines += _part(result, part, head)
    worst = summary["worst"]
    if worst["files"]:
        lines += [f"## Lowest {titles[worst['by']]}", ""]
        rows = ([_code(one["name"]), _two(one["mean"])] for one in worst["files"])
        lines += table(["file", "mean over sources"], rows)
    told = {**summary["excluded"], **summary["notes"]}
    if told:
        lines += ["## Without some or all scores, or scored otherwise", ""]
        lines += table(["why", "sources"], ([why, str(count)] for why, count in told.items()))
    lines += ["## Definitions", ""]
    lines += table(["score", "what it is"], ([titles[name], words] for name, words in result["metrics"].items()))
    return "\n".join(lines)


def _whole(result: dict[str, Any]) -> list[str]:
    summary = result["summary"]
    rows = []
    for name, title in result["titles"].items():
        if summary["count"][name]:
            interval, quartiles = summary["interval"][name], summary["quartiles"][name]
            rows.append(
                [
                    title,
                    result["units"][name],
                    str(summary["count"][name]),
                    _two(summary["mean"][name]),
                    "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
                    _two(summary["median"][name]),
                    f"{quartiles[0]:.2f} to {quartiles[1]:.2f}",
                ]
            )
    heads = ["score", "unit", "sources", "mean", "95 % over files", "median", "quartiles"]
    files = f"{summary['count']['files']} files, {summary['count']['rows']} sources, {result['sources']}."
    return [files, "", *table(heads, rows)]


def _part(result: dict[str, Any], part: str, head: str) -> list[str]:
    """Return one line a part, with the means; for sources the medians too, as SiSEC has them."""
    oracles = tuple(f"{oracle}_s" for oracle in ORACLES)
    names = [name for name in result["titles"] if result["summary"]["count"][name] and not name.startswith(oracles)]
    lines = []
    stats = ("mean", "median") if part == "sources" else ("mean",)
    for stat in stats:
        told = "median over files of the median over windows, as SiSEC" if stat == "median" else "mean over files"
        lines += [f"## By {head}: {told}", ""]
        rows = (
            [name, str(found["count"]["files"]), *(_two(found[stat][metric]) for metric in names)]
            for name, found in result["summary"][part].items()
        )
        lines += table([head, "files", *(result["titles"][name] for name in names)], rows)
    return lines


def table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, and an empty one."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _code(name: str) -> str:
    return f"`{name}`"

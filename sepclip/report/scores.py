"""What ``scores.json`` holds, for the page: the one place that knows how it is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from sepclip import evaluation
from sepclip.errors import UserError
from sepclip.report.markup import minus

FILE = "scores.json"
GAIN = "si_sdr_improvement"  # what the page's headline and the choice of examples go by
_ABOUT = ("name", "source", "group", "voice", "sexes", "status", "reason")


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation. ``rows``: one a file and source; ``titles``: the metrics that have any value."""

    folder: Path
    about: dict[str, Any]
    titles: dict[str, str]
    definitions: dict[str, str]
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Scores":
        """Read the scores in a folder; UserError where they are missing or damaged."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            rows = list(document["rows"])
            definitions = {name: _definition(told) for name, told in document["metrics"].items()}
            _ = [(row["name"], row["source"], row["status"]) for row in rows]
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; `sepclip eval` writes it") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): score anew with `sepclip eval`") from error
        known = [name for name in definitions if any(_is_number(row.get(name)) for row in rows)]
        about = {key: value for key, value in document.items() if key not in ("rows", "metrics", "summary")}
        return cls(folder, about, {name: _title(name) for name in known}, definitions, rows)

    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of ``all`` and of each group; without groups, or with one only, of all alone."""
        names = list(dict.fromkeys(row["group"] for row in self.rows if row.get("group")))
        parts = {"all": self.rows}
        if len(names) > 1:
            parts |= {name: [row for row in self.rows if row.get("group") == name] for name in names}
        return parts

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of every file, in their order."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row["name"], []).append(row)
        return found

    def by_file(self, metric: str) -> dict[str, float]:
        """Return the mean over its sources for every file all sources of which have a score."""
        means = {}
        for name, rows in self.files().items():
            values = values_of(rows, metric)
            if len(values) == len(rows):
                means[name] = fmean(values)
        return means

    def best_metric(self) -> str | None:
        """Return the metric of the headline: the SI-SDR improvement, or the first that there is."""
        return GAIN if GAIN in self.titles else next(iter(self.titles), None)


def values_of(rows: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """Return the numbers of one metric, without what has none."""
    return [float(row[metric]) for row in rows if _is_number(row.get(metric))]


def mean_and_median(values: Sequence[float]) -> str:
    """Return ``"6.55 (6.60)"``, or a dash without values."""
    return minus(f"{fmean(values):.2f} ({median(values):.2f})") if values else "–"


def evaluations(run: Path) -> list[Scores]:
    """Return the evaluations of a run, the newest first."""
    found = (run / "eval").glob(f"*/{FILE}")
    return [Scores.read(path.parent) for path in sorted(found, key=lambda path: (-path.stat().st_mtime, str(path)))]


def _title(metric: str) -> str:
    known = evaluation.METRICS.get(metric)
    return known[0] if known else metric.replace("_", " ")


def _definition(told: Any) -> str:
    return str(told.get("definition", "")) if isinstance(told, dict) else str(told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

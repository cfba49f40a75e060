"""Reads ``scores.json`` for the page; the rest of the report does not depend on the format of that file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, cast

from sepclip.errors import UserError
from sepclip.evaluation.document import Leakage, Provenance
from sepclip.report.markup import minus

FILE = "scores.json"
GAIN = "si_sdr_improvement"  # the metric of the headline, and the one that selects the examples
MAIN = ("si_sdr", GAIN, "sdr", "sdr_improvement", "isr", "sir", "sar", "pesq", "estoi", "stoi")
_ORACLES = ("ibm_", "irm_", "wiener_", "psm_", "tpsm_")
_FIXED_ORDER = "in their own order"  # the value of ``sources`` in scores.json if sources have fixed roles, as stems do
_DEFAULT_TITLES = {  # for files of the first schema version, which have no titles
    "si_sdr": "SI-SDR",
    "si_sdr_improvement": "SI-SDRi",
    "sdr": "SDR",
    "sdr_improvement": "SDRi",
    "isr": "ISR",
    "sir": "SIR",
    "sar": "SAR",
    "ibm_si_sdr_improvement": "IBM SI-SDRi",
    "ibm_sdr_improvement": "IBM SDRi",
}


@dataclass(frozen=True)
class SourceScores:
    """One row of ``scores.json``: one source of one file. ``values`` has the metrics with a finite score."""

    name: str  # of the file
    source: str
    group: str | None  # of the mixture, such as seen or unseen
    voice: str | None
    reason: str | None  # why a score is missing
    values: dict[str, float]

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "SourceScores":
        """Return a row of the file. Raises KeyError or TypeError if it is not one."""
        values = {key: float(value) for key, value in row.items() if _is_number(value)}
        optional = {key: str(row[key]) if row.get(key) else None for key in ("group", "voice", "reason")}
        _ = row["status"]
        return cls(str(row["name"]), str(row["source"]), values=values, **optional)


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation.

    ``titles`` has the metrics with at least one value; ``grouping`` is the field of a row by which the page groups
    them: ``source`` if sources have fixed roles, otherwise ``group``.
    """

    folder: Path
    origin: Provenance
    titles: dict[str, str]
    definitions: dict[str, str]
    rows: list[SourceScores]
    grouping: Literal["group", "source"]
    leakage: Leakage | None = None

    @classmethod
    def read(cls, folder: Path) -> "Scores":
        """Read the scores in a folder. Raises UserError if they are missing or damaged."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            rows = [SourceScores.from_json(row) for row in document["rows"]]
            definitions = {name: _definition(metric) for name, metric in document["metrics"].items()}
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; `sepclip eval` writes it") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): score again with `sepclip eval`") from error
        # titles, with the unit if it is not dB, for the metrics that any row has
        units, titles = document.get("units", {}), document.get("titles", {})
        scored = [name for name in definitions if any(name in row.values for row in rows)]
        titles_with_units = {
            name: _title(titles.get(name, _DEFAULT_TITLES.get(name, name)), units.get(name, "dB")) for name in scored
        }
        origin = {key: document[key] for key in Provenance.__annotations__ if key in document}
        return cls(
            folder,
            cast(Provenance, origin),
            titles_with_units,
            definitions,
            rows,
            leakage=document.get("summary", {}).get("leakage"),
            grouping="source" if document.get("sources") == _FIXED_ORDER else "group",
        )

    def main_metrics(self) -> list[str]:
        """Return the metrics that tables show first: the common ones, and the improvements of the oracles."""
        metrics = [name for name in self.titles if name in MAIN or name.startswith(_ORACLES)]
        return metrics or list(self.titles)

    def groups(self) -> dict[str, list[SourceScores]]:
        """Return the rows of ``all`` and of each group; only ``all`` if there are fewer than two groups."""
        labels = [row.source if self.grouping == "source" else row.group for row in self.rows]
        names = [label for label in dict.fromkeys(labels) if label]
        groups = {"all": self.rows}
        if len(names) > 1:
            for name in names:
                groups[name] = [row for row, label in zip(self.rows, labels, strict=True) if label == name]
        return groups

    def files(self) -> dict[str, list[SourceScores]]:
        """Return the rows of each file, in the order of the files."""
        files: dict[str, list[SourceScores]] = {}
        for row in self.rows:
            files.setdefault(row.name, []).append(row)
        return files

    def by_file(self, metric: str) -> dict[str, float]:
        """Return the mean over the sources of each file; files with a source without a score are left out."""
        means = {}
        for name, rows in self.files().items():
            values = values_of(rows, metric)
            if len(values) == len(rows):
                means[name] = fmean(values)
        return means

    def headline_metric(self) -> str | None:
        """Return the metric of the headline: the SI-SDR improvement if there is one, otherwise the first metric."""
        return GAIN if GAIN in self.titles else next(iter(self.titles), None)


def values_of(rows: Sequence[SourceScores], metric: str) -> list[float]:
    """Return the scores of the rows that have one for ``metric``."""
    return [row.values[metric] for row in rows if metric in row.values]


def mean_and_median(values: Sequence[float]) -> str:
    """Return ``"6.55 (6.60)"``, or a dash without values."""
    return minus(f"{fmean(values):.2f} ({median(values):.2f})") if values else "–"


def evaluations(run: Path) -> list[Scores]:
    """Return the evaluations of a run, newest first; those of only the first files of a split come last."""
    paths = sorted((run / "eval").glob(f"*/{FILE}"), key=lambda path: (-path.stat().st_mtime, str(path)))
    return sorted(
        (Scores.read(path.parent) for path in paths), key=lambda scores: scores.origin.get("limit") is not None
    )


def _title(title: str, unit: str) -> str:
    return title if unit == "dB" else f"{title}, {unit}"


def _definition(metric: object) -> str:
    """Return the definition of a metric, which is in a mapping in some files and a plain string in others."""
    return str(metric.get("definition", "")) if isinstance(metric, dict) else str(metric)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

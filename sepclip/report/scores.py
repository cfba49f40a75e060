"""What ``scores.json`` holds, for the page: the one place that knows how it is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from sepclip.errors import UserError
from sepclip.report.markup import minus

FILE = "scores.json"
GAIN = "si_sdr_improvement"  # what the page's headline and the choice of examples go by
MAIN = ("si_sdr", GAIN, "sdr", "sdr_improvement", "isr", "sir", "sar", "pesq", "estoi", "stoi")
_ORACLES = ("ibm_", "irm_", "wiener_", "psm_", "tpsm_")
_IN_ORDER = "in their own order"  # as scores.json says of stems
_DEFAULT_TITLES = {  # of the first version, which has none in the file
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
class Scores:
    """The scores of one evaluation. ``rows``: one a file and source; ``titles``: the metrics that have any value.

    ``part``: the key of a row by which the page divides them: ``group``, or ``source`` where sources have an order.
    """

    folder: Path
    about: dict[str, Any]
    titles: dict[str, str]
    definitions: dict[str, str]
    rows: list[dict[str, Any]]
    part: str

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
        units, titles = document.get("units", {}), document.get("titles", {})
        named = {
            name: _title(titles.get(name, _DEFAULT_TITLES.get(name, name)), units.get(name, "dB")) for name in known
        }
        part = "source" if document.get("sources") == _IN_ORDER else "group"
        return cls(folder, about, named, definitions, rows, part)

    def main(self) -> list[str]:
        """Return the metrics that tables show at first: the usual ones, and the improvements of oracles."""
        found = [name for name in self.titles if name in MAIN or name.startswith(_ORACLES)]
        return found or list(self.titles)

    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of ``all`` and of each group; without groups, or with one only, of all alone."""
        names = list(dict.fromkeys(row[self.part] for row in self.rows if row.get(self.part)))
        parts = {"all": self.rows}
        if len(names) > 1:
            parts |= {name: [row for row in self.rows if row.get(self.part) == name] for name in names}
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
    """Return the evaluations of a run: of whole splits, then of their first files; each with the newest first."""
    paths = sorted((run / "eval").glob(f"*/{FILE}"), key=lambda path: (-path.stat().st_mtime, str(path)))
    return sorted(
        (Scores.read(path.parent) for path in paths), key=lambda scores: scores.about.get("limit") is not None
    )


def _title(title: str, unit: str) -> str:
    return title if unit == "dB" else f"{title}, {unit}"


def _definition(told: Any) -> str:
    return str(told.get("definition", "")) if isinstance(told, dict) else str(told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

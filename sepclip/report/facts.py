"""What was run: configuration, data and environment of a run, for the page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepclip.audio.layout import Layout
from sepclip.config.load import differences, load_config
from sepclip.errors import counted
from sepclip.report.markup import Content, Markup, tag
from sepclip.training.run import CONFIG, ENVIRONMENT, Run


def environment_of(run: Path) -> dict[str, Any]:
    """Return what ``environment.json`` holds; :meth:`Run.open` has checked it."""
    facts: dict[str, Any] = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    return facts


def data_path(run: Path) -> Path:
    """Return where the mixtures of a run lay when it was trained."""
    return Path(environment_of(run)["data"]["path"])


def what_was_run(run: Run) -> list[Content]:
    """Return the configuration as differences to base.yaml and whole, the data, and the environment."""
    changed = [[key, new, old] for key, (old, new) in differences(load_config(), run.config).items()]
    whole = (run.path / CONFIG).read_text(encoding="utf-8")
    facts = _environment(environment_of(run.path), run.layout)
    return [
        tag("h3", "Differences to the defaults"),
        table_of(changed, ["key", "this run", "base.yaml"]),
        tag("details", tag("summary", "The whole configuration"), tag("pre", whole, tabindex=0)),
        tag("h3", "Data and environment"),
        table_of([[key, value] for key, value in facts.items()]),
    ]


def configurations(first: Run, second: Run, names: Sequence[str]) -> Markup:
    """Return the keys in which two runs differ."""
    changed = differences(first.config, second.config)
    if not changed:
        return tag("p", "The two configurations are the same.")
    return table_of([[key, old, new] for key, (old, new) in changed.items()], ["key", *names])


def table_of(rows: Sequence[Sequence[Any]], titles: Sequence[str] = ()) -> Markup:
    """Return a plain table, the first column of which names the rows."""
    head = tag("thead", tag("tr", (tag("th", title, scope="col") for title in titles))) if titles else None
    body = [tag("tr", tag("th", row[0], scope="row"), (tag("td", _value(value)) for value in row[1:])) for row in rows]
    return tag("div", tag("table", head, tag("tbody", body), class_="keys"), class_="scroll")


def _environment(facts: dict[str, Any], layout: Layout) -> dict[str, str]:
    data, git = facts["data"], facts.get("git")
    told = {
        "mixtures": data["path"],
        "digest": data["digest"],
        "made of": str(layout),
        "versions": ", ".join(f"{name} {facts[name]}" for name in ("sepclip", "torch", "python") if facts.get(name)),
        "machine": ", ".join([facts.get("platform", "?"), *_threads(facts)]),
        "GPU": facts.get("gpu") or "none",
    }
    if git:
        told["git"] = f"{git['commit']}{', with changes not committed' if git['changed'] else ''}"
    return told


def _threads(facts: dict[str, Any]) -> list[str]:
    return [counted(facts["cpu_threads"], "thread")] if "cpu_threads" in facts else []


def _value(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

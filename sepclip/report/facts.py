"""What was run: configuration, data and environment of a run, for the page."""

import json
from pathlib import Path
from typing import Any

from sepclip.audio.layout import Layout
from sepclip.config import differences, load_config
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
    changed = differences(load_config(), run.config)
    rows = [
        tag("tr", tag("th", key, scope="row"), tag("td", _value(new)), tag("td", _value(old)))
        for key, (old, new) in changed.items()
    ]
    head = tag("tr", *(tag("th", title, scope="col") for title in ("key", "this run", "base.yaml")))
    whole = (run.path / CONFIG).read_text(encoding="utf-8")
    return [
        tag("h3", "Differences to the defaults"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="keys"), class_="scroll"),
        tag("details", tag("summary", "The whole configuration"), tag("pre", whole, tabindex=0)),
        tag("h3", "Data and environment"),
        _pairs(_environment(environment_of(run.path), run.layout)),
    ]


def configurations(runs: dict[str, Run]) -> Markup:
    """Return the keys in which two runs differ."""
    (first, one), (second, other) = runs.items()
    changed = differences(one.config, other.config)
    rows = [
        tag("tr", tag("th", key, scope="row"), tag("td", _value(old)), tag("td", _value(new)))
        for key, (old, new) in changed.items()
    ]
    if not rows:
        return tag("p", "The two configurations are the same.")
    head = tag("tr", *(tag("th", title, scope="col") for title in ("key", first, second)))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="keys"), class_="scroll")


def _environment(facts: dict[str, Any], layout: Layout) -> dict[str, str]:
    data, git = facts["data"], facts.get("git")
    told = {
        "mixtures": data["path"],
        "digest": data["digest"],
        "made of": str(layout),
        "versions": ", ".join(f"{name} {facts[name]}" for name in ("sepclip", "torch", "python") if facts.get(name)),
        "machine": f"{facts.get('platform', '?')}, {facts.get('cpu_threads', '?')} threads",
        "GPU": facts.get("gpu") or "none",
    }
    if git:
        told["git"] = f"{git['commit']}{', with changes not committed' if git['changed'] else ''}"
    return told


def _pairs(told: dict[str, str]) -> Markup:
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in told.items()]
    return tag("div", tag("table", tag("tbody", rows), class_="keys"), class_="scroll")


def _value(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

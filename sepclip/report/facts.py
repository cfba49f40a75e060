"""The configuration, data and environment of a run, for the page."""

import json
from collections.abc import Sequence
from pathlib import Path

from sepclip.audio.layout import Layout
from sepclip.config.load import differences, load_config
from sepclip.errors import counted
from sepclip.report.markup import Content, Markup, tag
from sepclip.training.run import CONFIG, ENVIRONMENT, Run, RunFacts


def read_environment(run: Path) -> RunFacts:
    """Return the environment of a run that :meth:`Run.open` has checked."""
    environment: RunFacts = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    return environment


def data_path(run: Path) -> Path:
    """Return where the mixtures of a run were when it was trained."""
    return Path(read_environment(run)["data"]["path"])


def run_details(run: Run) -> list[Content]:
    """Return the configuration, as differences to base.yaml and in full, the data, and the environment."""
    changed = [[key, new, old] for key, (old, new) in differences(load_config(), run.config).items()]
    whole = (run.path / CONFIG).read_text(encoding="utf-8")
    facts = _environment_facts(read_environment(run.path), run.layout)
    return [
        tag("h3", "Differences from the defaults"),
        facts_table(changed, ["key", "this run", "base.yaml"]),
        tag("details", tag("summary", "The complete configuration"), tag("pre", whole, tabindex=0)),
        tag("h3", "Data and environment"),
        facts_table([[key, value] for key, value in facts.items()]),
    ]


def configuration_differences(first: Run, second: Run, names: Sequence[str]) -> Markup:
    """Return a table of the keys in which two runs differ."""
    changed = differences(first.config, second.config)
    if not changed:
        return tag("p", "The two configurations are the same.")
    return facts_table([[key, old, new] for key, (old, new) in changed.items()], ["key", *names])


def facts_table(rows: Sequence[Sequence[object]], titles: Sequence[str] = ()) -> Markup:
    """Return a plain table whose first column names the rows."""
    head = tag("thead", tag("tr", (tag("th", title, scope="col") for title in titles))) if titles else None
    body = [
        tag("tr", tag("th", str(key), scope="row"), (tag("td", _setting_text(value)) for value in values))
        for key, *values in rows
    ]
    return tag("div", tag("table", head, tag("tbody", body), class_="keys"), class_="scroll")


def _environment_facts(environment: RunFacts, layout: Layout) -> dict[str, str]:
    """Return the data and the environment as rows of a table: name to text.

    Keys that an earlier version did not write are left out.
    """
    data, git = environment["data"], environment.get("git")
    versions = {
        "sepclip": environment.get("sepclip"),
        "torch": environment.get("torch"),
        "python": environment.get("python"),
    }
    machine = [environment.get("platform", "?")]
    if "cpu_threads" in environment:
        machine.append(counted(environment["cpu_threads"], "thread"))
    facts = {
        "mixtures": data["path"],
        "digest": data["digest"],
        "sources": str(layout),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "machine": ", ".join(machine),
        "GPU": environment.get("gpu") or "none",
    }
    if git:
        facts["git"] = f"{git['commit']}{', with uncommitted changes' if git['changed'] else ''}"
    return facts


def _setting_text(value: object) -> str:
    """Return the value of a setting as the configuration files spell it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

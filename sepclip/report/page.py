"""A whole page: one file with everything inside, that neither asks anything of a network nor could."""

import base64
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import sepclip
from sepclip.report.markup import Content, Markup, script_text, tag, text

_ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("uPlot.iife.min.js", "page.js")
STYLES = ("uPlot.min.css", "page.css")


@dataclass(frozen=True)
class Headline:
    """The number that matters, with its unit, and of what it is."""

    number: str
    unit: str
    of: str


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor, its heading, a sentence below it, and its content."""

    anchor: str
    title: str
    lead: str
    content: Content


@dataclass
class Page:
    """A page from its headline to its last section; a section without content is left out."""

    kind: str
    title: str
    headline: Headline | None = None
    facts: dict[str, str] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    def add(self, anchor: str, title: str, lead: str, *content: Content) -> None:
        """Add a section, unless all its content is empty."""
        made = text(content)
        if made:
            self.sections.append(Section(anchor, title, lead, made))

    def render(self) -> str:
        """Return the page as HTML."""
        scripts = [script_text(_asset(name)) for name in SCRIPTS]
        hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
        # no script but these two, nothing from elsewhere: what a file name smuggles in could not run
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:; "
            f"base-uri 'none'; form-action 'none'"
        )
        head = [
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("title", f"{self.title} – sepclip report"),
            *(tag("style", script_text(_asset(name))) for name in STYLES),
        ]
        body = [
            self._top(),
            tag("main", map(_section, self.sections)),
            tag("footer", _signature()),
            *(tag("script", script) for script in scripts),
        ]
        return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"

    def _top(self) -> Markup:
        parts: list[Content] = [tag("p", self.kind, class_="kind"), tag("h1", self.title)]
        if self.headline:
            number = tag("span", self.headline.number, tag("span", f" {self.headline.unit}", class_="unit"))
            parts.append(
                tag(
                    "p",
                    tag("span", number, class_="number"),
                    " ",
                    tag("span", self.headline.of, class_="of"),
                    class_="headline",
                )
            )
        if self.facts:
            pairs = [tag("div", tag("dt", key), tag("dd", value)) for key, value in self.facts.items()]
            parts.append(tag("dl", pairs, class_="facts"))
        links = [tag("li", tag("a", one.title, href=f"#{one.anchor}")) for one in self.sections]
        parts.append(tag("nav", tag("ul", links, class_="contents"), aria_label="Contents"))
        parts.append(tag("noscript", tag("p", "Curves, sorting and filters need JavaScript; all else is here.")))
        return tag("header", parts, class_="top")


def _section(section: Section) -> Markup:
    heading = f"{section.anchor}-title"
    lead = tag("p", section.lead, class_="lead") if section.lead else None
    return tag(
        "section",
        tag("h2", section.title, id=heading),
        lead,
        section.content,
        id=section.anchor,
        aria_labelledby=heading,
    )


def _signature() -> list[Content]:
    made = time.strftime("%Y-%m-%d %H:%M")
    return [
        tag("p", f"Made by sepclip {sepclip.__version__} on {made}. Everything is in this one file. "),
        tag("p", "Curves are drawn by uPlot, © Leon Sorokin, MIT licence: its text stands in this file's source."),
    ]


def _asset(name: str) -> str:
    found = (_ASSETS / name).read_text(encoding="utf-8").strip()
    if name.startswith("uPlot") and name.endswith(".js"):
        licence = (_ASSETS / "uPlot.LICENSE").read_text(encoding="utf-8").strip()
        return f"/*!\n{licence}\n*/\n{found}"
    return found


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

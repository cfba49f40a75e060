"""The report page: one self-contained HTML file, which cannot load anything from a network."""

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
    """The most important number of a page, with its unit and its meaning."""

    number: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A section of the page. ``lead`` is a sentence below the heading."""

    anchor: str
    title: str
    lead: str
    content: Content


@dataclass
class Page:
    """A page: its kind above the title, a headline, ``facts`` as short names with their values, and sections."""

    kind: str
    title: str
    headline: Headline | None = None
    facts: dict[str, str] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    def add(self, anchor: str, title: str, lead: str, *content: Content) -> None:
        """Add a section, unless its content is empty."""
        markup = text(content)
        if markup:
            self.sections.append(Section(anchor, title, lead, markup))

    def render(self) -> str:
        """Return the page as HTML."""
        scripts = [script_text(_asset(name)) for name in SCRIPTS]
        hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
        # only these two scripts may run, and nothing may be loaded: markup smuggled in by a file name has no effect
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
            self._header(),
            tag("main", map(_section, self.sections)),
            tag("footer", _signature()),
            *(tag("script", script) for script in scripts),
        ]
        return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"

    def _header(self) -> Markup:
        """Return title, headline, facts and contents."""
        parts: list[Content] = [tag("p", self.kind, class_="kind"), tag("h1", self.title)]
        if self.headline:
            number = tag("span", self.headline.number, tag("span", f" {self.headline.unit}", class_="unit"))
            parts.append(
                tag(
                    "p",
                    tag("span", number, class_="number"),
                    " ",
                    tag("span", self.headline.meaning, class_="of"),
                    class_="headline",
                )
            )
        if self.facts:
            pairs = [tag("div", tag("dt", key), tag("dd", value)) for key, value in self.facts.items()]
            parts.append(tag("dl", pairs, class_="facts"))
        links = [tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in self.sections]
        parts.append(tag("nav", tag("ul", links, class_="contents"), aria_label="Contents"))
        parts.append(tag("noscript", tag("p", "Only curves, sorting and filters need JavaScript.")))
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
    date = time.strftime("%Y-%m-%d %H:%M")
    return [
        tag("p", f"Made by sepclip {sepclip.__version__} on {date}. This file is self-contained."),
        tag("p", "Curves are drawn by uPlot, © Leon Sorokin, MIT licence; the licence is in the source of this page."),
    ]


def _asset(name: str) -> str:
    """Return the text of a script or a style sheet, that of uPlot with its licence."""
    code = (_ASSETS / name).read_text(encoding="utf-8").strip()
    if name.startswith("uPlot") and name.endswith(".js"):
        licence = (_ASSETS / "uPlot.LICENSE").read_text(encoding="utf-8").strip()
        return f"/*!\n{licence}\n*/\n{code}"
    return code


def _digest(script: str) -> str:
    """Return the hash of a script as a content security policy spells it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

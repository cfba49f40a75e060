"""What people read is plain English: strings and comments of the package, configurations, the README and the guides."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# what must not be written: what to write instead. Case is ignored, and a phrase may run over lines.
PHRASES: dict[str, str] = {
    r"for want of": "out of memory; because there is no ...",
    r"(made |start\w* )?(anew|afresh)": "again; from the start",
    r"((goes|gone|went) on|(go|going) on (with|from|where|at|in|as|to))": "resumes; continues",
    r"(is|are|was|were|be|been|being|once|unless) told": "prints; reports; is an error; unless you set ...",
    r"tells? of": "says; describes; reports",
    r"what (?:\S+ ){0,6}?lacks? of": "the residual: the mixture minus the sources",
    r"what is (lacking|wanting)": "what is missing; the residual",
    r"the same of": "the same for; its ...",
    r"(in|into|enters?) no (mean|median|history)": "is excluded from",
    r"perhaps for": "possibly out of",
    r"as (it|they) comes?": "unchanged; with its defaults",
    r"of whom": "of which; or a sentence of its own",
    r"one that remembers": "a caching wrapper",
    r"where there (is|are) (none|no|one|several|some)": "if there is no ...",
    r"where (none|nothing|one|it|they|that) (is|are) (not |no )?(there|given|asked|needed)": "if no ... is given",
    r"such (a one|ones)": "such a file; such a run",
    r"what (comes|came|becomes|became|is made) of": "the result of",
    r"(?<!there )is no (?!longer|more|less|better|worse|larger|smaller|lower|higher|other|reason)[a-z]+": (
        "is not a ..."
    ),
    r"makes? nothing of": "cannot decode; cannot use",
    r"stands (in|at|on|as|alone|there|before|beside|below|above|where|under|after)": "is in; is at; is",
    r"let(s|ting)? go of": "drops; removes",
    r"who (wants|likes|needs|has|knows)": "if you want",
    r"for it (has|is|says|knows|does|cannot|may)": "because it ...",
    r"by way of": "through; with",
}
PATTERNS = {re.compile(rf"\b{phrase}\b", re.IGNORECASE): instead for phrase, instead in PHRASES.items()}
# how the first line of a docstring must not begin
FRAGMENTS = {
    re.compile(r"^(Of|As|By|At|On|Where|Whose|Which|That|Than|But|Nor|Once more)\b"): (
        "a sentence with a verb (Return ..., Yield ..., Raise ... if ...), or for a class what it is"
    ),
    re.compile(r"^(?!sepclip|k-means|wsj0)[a-z]"): "a sentence that begins with a capital letter",
}
_QUOTES = re.compile(r"^[rbfu]{0,2}(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", re.IGNORECASE)
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}

# a line number and a text
Text = tuple[int, str]


def strings_and_comments(source: str) -> Iterator[Text]:
    """Yield every string, docstrings included, and every comment; adjacent strings and lines of a comment as one."""
    start, text, joins = 0, "", ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _LAYOUT:
            continue
        kind, part = "", ""
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            kind, part = "comment" if alone else "end of line", " " + token.string.lstrip("#")
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            kind, part = "string", _QUOTES.sub("", token.string)
        if kind != joins or kind == "end of line":
            if text:
                yield start, text
            start, text = token.start[0], ""
        text += part
        joins = kind


def paragraphs(source: str) -> Iterator[Text]:
    """Yield the paragraphs of a guide or a YAML file."""
    start, lines = 1, []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.strip():
            start = start if lines else number
            lines.append(line.replace("#", " "))
        elif lines:
            yield start, " ".join(lines)
            lines = []


def docstring_beginnings(source: str) -> Iterator[Text]:
    """Yield the first line of the docstring of every module, class and function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text.splitlines()[0]


def findings(path: str, texts: Iterable[Text], table: dict[re.Pattern[str], str]) -> list[str]:
    """Return a line for everything that the table forbids: where it is, and what to write instead."""
    lines = []
    for number, text in texts:
        plain = re.sub(r"\s+", " ", text)
        for pattern, instead in table.items():
            for match in pattern.finditer(plain):
                context = plain[max(0, match.start() - 25) : match.end() + 25].strip()
                lines.append(f"{path}:{number}: {match[0]!r} in {context!r}: write {instead}")
    return lines


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


MODULES = sorted((REPOSITORY / "sepclip").rglob("*.py"))
GUIDES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
GUIDES += sorted((REPOSITORY / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_no_forbidden_phrase(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    lines = findings(name_of(path), strings_and_comments(source), PATTERNS)
    lines += findings(name_of(path), docstring_beginnings(source), FRAGMENTS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_guide_has_no_forbidden_phrase(path: Path) -> None:
    lines = findings(name_of(path), paragraphs(path.read_text(encoding="utf-8")), PATTERNS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_forbidden_phrases_are_found_wherever_they_are() -> None:
    source = '''
"""Of the residual."""
def f(a):
    """returns the same
    of it."""
    raise ValueError(  # the user is
        # told, and anew
        "perhaps "
        f"for want of {a}"
    )
'''
    lines = findings("f.py", strings_and_comments(source), PATTERNS)
    phrases = {re.findall(r"'(.*?)' in ", line)[0] for line in lines}
    assert phrases == {"the same of", "anew", "perhaps for", "for want of"}
    assert [line.split(":")[1] for line in findings("f.py", docstring_beginnings(source), FRAGMENTS)] == ["2", "4"]
    guide = "# Title\n\nA message is\ntold here.\n\nIt goes\n\non with it.\n"
    assert len(findings("a.md", paragraphs(guide), PATTERNS)) == 1


def test_plain_english_passes() -> None:
    text = "There is no run here, which is no longer an error: the sweep resumes and prints the same table for it."
    assert not findings("a.md", [(1, text)], PATTERNS)

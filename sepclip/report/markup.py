"""Builds HTML by nested calls. All text is escaped, so that no name from a file can become markup."""

import html
from collections.abc import Iterable


class Markup(str):
    """HTML that needs no escaping. Created only by this module."""


Content = str | int | float | None | Iterable["Content"]
_VOID = {"meta", "img", "br", "hr", "link", "input"}


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element with ``content`` and ``attributes``.

    In names of attributes, a trailing underscore is removed (``class_``) and others become hyphens. An attribute that
    is None or False is omitted; one that is True has no value. Text that is not :class:`Markup` is escaped, in content
    and in attributes.
    """
    start = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        start += f" {key.rstrip('_').replace('_', '-')}"
        if value is not True:
            start += f'="{html.escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{text(content)}</{name}>")


def text(content: Content) -> Markup:
    """Return content as HTML: markup unchanged, text and numbers escaped, sequences concatenated, None as nothing."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup()
    if isinstance(content, str | int | float):
        return Markup(html.escape(str(content), quote=False))
    return Markup("".join(map(text, content)))


def script_text(code: str) -> Markup:
    """Return the content of a script or style element, in which HTML knows no escapes.

    Raises ValueError if it contains the end of the element.
    """
    if "</" in code or "<!--" in code:
        raise ValueError("a script must not contain '</' or '<!--'")
    return Markup(code)


def json_text(document: str) -> Markup:
    """Return JSON for a script element, with ``<`` and line separators as JSON escapes."""
    return Markup(document.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def signed(value: float, unit: str, digits: int = 1) -> str:
    """Return ``"+6.6 dB"`` or ``"−0.2 dB"``, with a minus sign as wide as the plus."""
    return f"{minus(f'{round(value, digits) + 0.0:+.{digits}f}')} {unit}".strip()  # + 0.0: no negative zero


def minus(number: str) -> str:
    """Return the text of a number with minus signs instead of hyphens."""
    return number.replace("-", "\u2212")

"""HTML as nested calls; text is escaped wherever it comes from, so that a name can never become markup."""

import html
from collections.abc import Iterable


class Markup(str):
    """HTML that is safe to stand in a page as it is. Made by this module alone."""


Content = str | int | float | None | Iterable["Content"]
_VOID = {"meta", "img", "br", "hr", "link", "input"}


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element; ``class_`` and ``for_`` lose the underscore, others become hyphens.

    An attribute that is None or False is left out, one that is True stands without a value. Text that is not
    :class:`Markup` is escaped, in elements and in attributes.
    """
    opened = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        opened += f" {key.rstrip('_').replace('_', '-')}"
        if value is not True:
            opened += f'="{html.escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{text(content)}</{name}>")


def text(content: Content) -> Markup:
    """Return content as HTML: markup as it is, all else escaped, sequences one after the other, None as nothing."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup()
    if isinstance(content, str | int | float):
        return Markup(html.escape(str(content), quote=False))
    return Markup("".join(map(text, content)))


def script_text(code: str) -> Markup:
    """Return what stands within a script or style element, which HTML does not unescape."""
    if "</" in code or "<!--" in code:
        raise ValueError("a script must not hold '</' or '<!--'")
    return Markup(code)


def json_text(document: str) -> Markup:
    """Return JSON for a script element; ``<`` is written as an escape that JSON reads back."""
    return Markup(document.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def signed(value: float, unit: str, digits: int = 1) -> str:
    """Return ``"+6.6 dB"`` or ``"−0.2 dB"``, with a minus sign as wide as the plus."""
    return f"{minus(f'{round(value, digits) + 0.0:+.{digits}f}')} {unit}".strip()  # + 0.0: no negative zero


def minus(number: str) -> str:
    """Return a number's text with minus signs in place of hyphens."""
    return number.replace("-", "\u2212")

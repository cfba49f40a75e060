"""What every page must fulfil: valid, without errors, inside the window, readable, and usable without a mouse."""

import re
from pathlib import Path

from tests.report.browser import Browser

# the contrast of every text with its background, by WCAG 2.2: relative luminance, (lighter + .05) / (darker + .05)
_CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (parts) => parts.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const unreadable = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, noscript, audio")) continue;
    let background = element;
    while (background && rgb(getComputedStyle(background).backgroundColor)[3] < 255)
      background = background.parentElement;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const pair = [light(rgb(ink)), light(rgb(background ? getComputedStyle(background).backgroundColor : "#fff"))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) unreadable.push([walk.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return unreadable;
})()
"""
_NAMELESS = """
[...document.querySelectorAll("button, a, input, audio, img, [role=img], [role=region]")].filter((part) => !(
  part.textContent.trim() || part.ariaLabel || part.alt || part.labels?.length)).map((part) => part.outerHTML)
"""


def assert_good_looks(browser: Browser, page: Path, width: int, scheme: str) -> None:
    """Assert that a page has no errors, fits into the window, is readable, and that all its controls have names."""
    browser.errors.clear()
    browser.open(page, width, 900, scheme)
    browser.until("document.documentElement.dataset.ready === 'yes'")
    assert browser.errors == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    outside = browser.value(
        f"[...document.body.querySelectorAll('*')].filter((one) => !one.closest('.scroll, pre, svg, .uplot, audio') && "
        f"one.getBoundingClientRect().right > {width} + 0.5).map((one) => one.outerHTML.slice(0, 200))"
    )
    assert outside == []
    assert browser.value(_CONTRAST) == []
    assert browser.value(_NAMELESS) == []


def assert_valid(text: str) -> None:
    """Assert that the text is HTML without parse errors and without duplicate ids."""
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    try:
        import html5lib
    except ImportError:
        return  # part of the extra dev
    html5lib.HTMLParser(strict=True).parse(text)

"""The page of a run, opened in a real browser."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile

from sepclip.mixing.mixture_set import MixtureSet
from sepclip.report.page import SCRIPTS
from sepclip.report.write_report import MOST_BYTES
from tests.conftest import sepclip
from tests.report.browser import Browser
from tests.report.conftest import assert_refused, report
from tests.report.looks import assert_good_looks, assert_valid


@pytest.fixture(scope="module")
def page(scored_run: Path) -> Path:
    result = sepclip("report", scored_run)  # once in its own process, as a user does
    assert result.returncode == 0, result.stderr
    assert "no sounds" not in result.stderr
    assert "report.html" in result.stdout
    return scored_run / "report.html"


def test_page_is_one_valid_file_below_the_size_limit(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert_valid(text)
    assert "Permission is hereby granted" in text  # the licence of uPlot, which is inlined
    assert len(re.findall(r"<script>", text)) == len(SCRIPTS)
    assert not re.findall(r"""(?:src|href)="(?!data:|#)""", text)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_at_every_width_and_in_both_schemes(page: Path, browser: Browser, width: int, scheme: str) -> None:
    assert_good_looks(browser, page, width, scheme)


def test_names_are_never_markup(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.value("window.hacked") is None
    assert "<script>window.hacked" in browser.value("document.querySelector('.sound h4 ~ *, .example').textContent")
    assert browser.value("document.querySelector('h1').textContent") == "<b>run&lt;"
    assert browser.value("document.querySelectorAll('h1 b').length") == 0


def test_players_have_the_right_sound(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.errors.clear()
    count = browser.value("document.querySelectorAll('audio').length")
    assert count == 3 * 5  # best, median and worst: a mixture, two estimates, two references
    browser.until("[...document.querySelectorAll('audio')].every((one) => one.readyState > 0)")
    cards = browser.value(
        "[...document.querySelectorAll('.example')].map((card) => [card.querySelector('.name').textContent,"
        "[...card.querySelectorAll('audio')].map((one) => one.duration)])"
    )
    data = MixtureSet.open(page.parent.parent / "data")
    lengths = {recipe.name: recipe.length / data.rate_hz for recipe in data.recipes("tt")}
    for heading, durations in cards:
        assert durations == pytest.approx([lengths[heading.split(",")[0]]] * 5, abs=0.02)
    uris = re.findall(r'src="data:audio/flac;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(uris[0])))
    assert rate_hz == data.rate_hz
    assert 0.1 < abs(samples).max() <= 0.91
    browser.value("document.querySelector('.picture').click()")
    browser.until("document.querySelector('audio').currentTime > 0 || !document.querySelector('audio').paused")
    assert browser.errors == []


def test_tables_are_sorted_by_click_and_by_key(page: Path, browser: Browser) -> None:
    browser.open(page)
    table = "document.querySelector('table.sortable')"
    index = browser.value(f"[...{table}.tHead.rows[0].cells].findIndex((one) => one.textContent === 'SI-SDRi')")
    column = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[{index}].dataset.value))"
    head = f"{table}.tHead.rows[0].cells[{index}]"
    browser.value(f"{head}.querySelector('button').click()")
    descending = browser.value(column)
    assert descending == sorted(descending, reverse=True)
    assert browser.value(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.value(f"{head}.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, **text)
    assert browser.value(column) == descending[::-1]
    assert len(set(descending)) > 1


def test_curves_zoom_together_and_have_log_axes(page: Path, browser: Browser) -> None:
    browser.open(page)
    whole = browser.value("document.querySelector('#chart-loss').dataset.range")
    browser.drag("#chart-loss .u-over", 0.3, 0.6)
    browser.until("document.querySelector('#chart-loss').dataset.zoomed === 'yes'")
    low, high = map(float, browser.value("document.querySelector('#chart-loss').dataset.range").split())
    first, last = map(float, whole.split())
    assert first < low < high < last
    assert browser.value("document.querySelector('#chart-norm').dataset.zoomed") == "yes"
    browser.value("document.querySelector('#chart-norm [data-do=whole]').click()")
    browser.until("document.querySelector('#chart-loss').dataset.zoomed === 'no'")
    browser.value("document.querySelector('#chart-loss [data-do=log]').click()")
    assert browser.value("document.querySelector('#chart-loss [data-do=log]').getAttribute('aria-pressed')") == "true"
    assert browser.value("document.querySelector('#chart-loss canvas') !== null")
    assert browser.errors == []


def test_curves_are_the_metrics(page: Path) -> None:
    rows = [json.loads(line) for line in (page.parent / "metrics.jsonl").read_text().splitlines()]
    text = page.read_text(encoding="utf-8")
    charts = [json.loads(chart) for chart in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    norms = next(chart for chart in charts if chart["series"][0]["label"] == "norm")
    expected = [row["grad_norm"] for row in rows if "grad_norm" in row]
    assert norms["x"] == [row["step"] for row in rows if "grad_norm" in row]
    assert norms["series"][0]["values"] == pytest.approx(expected, rel=1e-4)
    assert [series["label"] for series in norms["series"]] == ["norm", "threshold"]


def test_run_without_scores_has_players_of_validation_mixtures(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))
    result = report(run, "--out", tmp_path / "page.html", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["report"] == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Nothing is scored yet" in text
    assert text.count("<audio") == 15
    assert not (run / "report.html").exists()


def test_page_without_sounds_says_why_and_has_the_rest(scored_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(scored_run, copy)
    shutil.rmtree(copy / "checkpoints")
    result = report(copy)
    assert result.exit_code == 0
    assert "no checkpoint" in result.stderr
    text = (copy / "report.html").read_text(encoding="utf-8")
    assert "No sounds" in text
    assert "chart-loss" in text


def test_wrong_folders_are_errors(tmp_path: Path) -> None:
    assert_refused(report(tmp_path / "none"), "no such folder")
    assert_refused(report(tmp_path), "not a run")
    (tmp_path / "scores.json").write_text('{"rows": 3}')
    assert_refused(report(tmp_path), "scores.json is damaged", "score again")

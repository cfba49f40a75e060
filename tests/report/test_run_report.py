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
    made = sepclip("report", scored_run)  # once in a process of its own, as a user does
    assert made.returncode == 0, made.stderr
    assert "no sounds" not in made.stderr
    assert "report.html" in made.stdout
    return scored_run / "report.html"


def test_it_is_one_valid_file_below_its_limit(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert_valid(text)
    assert "Permission is hereby granted" in text  # the licence of what is inlined
    assert len(re.findall(r"<script>", text)) == len(SCRIPTS)
    assert not re.findall(r"""(?:src|href)="(?!data:|#)""", text)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_at_every_width_and_in_both_schemes(page: Path, browser: Browser, width: int, scheme: str) -> None:
    assert_good_looks(browser, page, width, scheme)


def test_names_are_only_names(page: Path, browser: Browser) -> None:
    browser.open(page)
    assert browser.value("window.hacked") is None
    assert "<script>window.hacked" in browser.value("document.querySelector('.sound h4 ~ *, .example').textContent")
    assert browser.value("document.querySelector('h1').textContent") == "<b>run&lt;"
    assert browser.value("document.querySelectorAll('h1 b').length") == 0


def test_players_have_the_right_sound(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.errors.clear()
    count = browser.value("document.querySelectorAll('audio').length")
    assert count == 3 * 5  # best, median and worst: a mixture, two estimates, two true sources
    browser.until("[...document.querySelectorAll('audio')].every((one) => one.readyState > 0)")
    found = browser.value(
        "[...document.querySelectorAll('.example')].map((card) => [card.querySelector('.name').textContent,"
        "[...card.querySelectorAll('audio')].map((one) => one.duration)])"
    )
    data = MixtureSet.open(page.parent.parent / "data")
    lengths = {recipe.name: recipe.length / data.rate_hz for recipe in data.recipes("tt")}
    for told, durations in found:
        assert durations == pytest.approx([lengths[told.split(",")[0]]] * 5, abs=0.02)
    uris = re.findall(r'src="data:audio/flac;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(uris[0])))
    assert rate_hz == data.rate_hz
    assert 0.1 < abs(samples).max() <= 0.91
    browser.value("document.querySelector('.picture').click()")
    browser.until("document.querySelector('audio').currentTime > 0 || !document.querySelector('audio').paused")
    assert browser.errors == []


def test_tables_sort_by_click_and_by_key_and_can_be_searched(page: Path, browser: Browser) -> None:
    browser.open(page)
    table = "document.querySelector('table.sortable')"
    place = browser.value(f"[...{table}.tHead.rows[0].cells].findIndex((one) => one.textContent === 'SI-SDRi')")
    column = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[{place}].dataset.value))"
    head = f"{table}.tHead.rows[0].cells[{place}]"
    browser.value(f"{head}.querySelector('button').click()")
    falling = browser.value(column)
    assert falling == sorted(falling, reverse=True)
    assert browser.value(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.value(f"{head}.querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        more = {"text": "\r"} if kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, **more)
    assert browser.value(column) == falling[::-1]
    assert len(set(falling)) > 1


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


def test_the_curves_are_the_metrics(page: Path) -> None:
    rows = [json.loads(line) for line in (page.parent / "metrics.jsonl").read_text().splitlines()]
    text = page.read_text(encoding="utf-8")
    drawn = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    norms = next(one for one in drawn if one["series"][0]["label"] == "norm")
    wanted = [row["grad_norm"] for row in rows if "grad_norm" in row]
    assert norms["x"] == [row["step"] for row in rows if "grad_norm" in row]
    assert norms["series"][0]["values"] == pytest.approx(wanted, rel=1e-4)
    assert [one["label"] for one in norms["series"]] == ["norm", "threshold"]


def test_a_run_without_scores_lets_one_hear_validation_mixtures(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))
    made = report(run, "--out", tmp_path / "page.html", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["report"] == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Nothing is scored yet" in text
    assert text.count("<audio") == 15
    assert not (run / "report.html").exists()


def test_what_cannot_be_had_is_told_and_the_rest_is_there(scored_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(scored_run, copy)
    shutil.rmtree(copy / "checkpoints")
    made = report(copy)
    assert made.exit_code == 0
    assert "no checkpoint" in made.stderr
    text = (copy / "report.html").read_text(encoding="utf-8")
    assert "No sounds" in text
    assert "chart-loss" in text


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    assert_refused(report(tmp_path / "none"), "no such folder")
    assert_refused(report(tmp_path), "no run")
    (tmp_path / "scores.json").write_text('{"rows": 3}')
    assert_refused(report(tmp_path), "scores.json is damaged", "score anew")

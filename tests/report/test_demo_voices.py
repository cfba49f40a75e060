"""Reports of real trainings on the demo voices in the browser: ``auto:10`` against no clipping, and a small sweep."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest

from sepclip.mixing.mixture_set import MixtureSet
from sepclip.report.markup import signed
from tests.conftest import SPEECH, sepclip
from tests.report.browser import Browser
from tests.report.looks import assert_good_looks, assert_valid

pytestmark = pytest.mark.slow
SMALL = {
    "model.layers": 1,
    "model.hidden": 40,
    "data.segment_frames": 100,
    "data.batch_size": 8,
    "train.steps": 60,
    "train.valid_every": 20,
}
GRID = f"""
config: demo
set: {json.dumps(SMALL)}
grid:
  clip: [auto:10, none]
  loss.name: [mi, snr]
  seed: [0, 1]
reference: none
"""


def done(*arguments: object) -> subprocess.CompletedProcess[str]:
    result = sepclip(*arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo voices") / "mixtures"
    done("prepare", "speakers", SPEECH, out, "--tr", 100, "--cv", 8, "--tt", 6, "--unseen", "fr-f,ru-m")
    return out


@pytest.fixture(scope="module")
def runs(mixtures: Path) -> list[Path]:
    """Return a run without clipping and one with auto:10, trained alike and scored."""
    made = []
    for name, clip in (("plain", "none"), ("auto10", "auto:10")):
        run = mixtures.parent / name
        settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
        told = done(
            "train", mixtures, "--run", run, "--config", "demo", "--clip", clip, "--dynamics", "every=5", *settings
        )
        assert f"to look at and listen to: {run / 'report.html'}" in told.stdout
        done("eval", run, mixtures, "--metrics", "si_sdr", "--oracles", "ibm")
        made.append(run)
    return made


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Path:
    done("report", *runs)
    return runs[0] / "report-auto10.html"


@pytest.fixture(scope="module")
def sweep(mixtures: Path) -> Path:
    grid = mixtures.parent / "grid.yaml"
    grid.write_text(GRID)
    out = mixtures.parent / "sweep"
    done("sweep", grid, mixtures, "--out", out, "--jobs", 2)
    done("report", out)
    return out


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_three_open(
    runs: list[Path], comparison: Path, sweep: Path, browser: Browser, width: int, scheme: str
) -> None:
    for page in (runs[1] / "report.html", comparison, sweep / "report.html"):
        assert_valid(page.read_text(encoding="utf-8"))
        assert_good_looks(browser, page, width, scheme)


def test_the_comparison_says_what_the_command_says(runs: list[Path], comparison: Path, browser: Browser) -> None:
    found = json.loads(done("compare", *runs, "--json").stdout)["scores"]["si_sdr"]["pairs"][0]
    assert (found["first"], found["second"]) == ("plain", "auto10")
    browser.open(comparison)
    headline = browser.value("document.querySelector('.headline').textContent")
    assert signed(found["mean"], "dB", 2) in headline
    assert "auto10 minus plain, mean of 12 files" in headline
    assert "none" in browser.value("document.querySelector('#run').textContent")
    labels = browser.value("document.querySelector('#chart-norm .legend').textContent")
    assert "auto10, threshold" in labels
    assert "plain, threshold" not in labels


def test_the_panels_of_figure_1_are_drawn(runs: list[Path], comparison: Path, browser: Browser) -> None:
    for page, prefixes in ((runs[1] / "report.html", ["figure1"]), (comparison, ["figure1-1", "figure1-2"])):
        browser.open(page)
        for prefix in prefixes:
            for panel in ("step", "loss", "norm", "smoothness"):
                assert browser.value(f"document.querySelector('#{prefix}-{panel} canvas') !== null")
    text = runs[1].joinpath("report.html").read_text(encoding="utf-8")
    drawn = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    recorded = [json.loads(line) for line in (runs[1] / "dynamics.jsonl").read_text().splitlines()]
    step = next(one for one in drawn if one["series"][0]["label"] == "step size")
    assert step["x"] == [row["step"] for row in recorded] == list(range(5, 65, 5))


def test_its_players_have_their_durations(mixtures: Path, comparison: Path, browser: Browser) -> None:
    browser.open(comparison)
    browser.until("[...document.querySelectorAll('audio')].every((one) => one.readyState > 0)")
    found = browser.value(
        "[...document.querySelectorAll('.example')].map((card) => [card.querySelector('.name').textContent,"
        "[...card.querySelectorAll('audio')].map((one) => one.duration)])"
    )
    data = MixtureSet.open(mixtures)
    seconds = {recipe.name: recipe.length / data.rate_hz for recipe in data.recipes("tt")}
    assert len(found) == 3
    for told, durations in found:  # the mixture, two estimates of each run, two true sources
        assert durations == pytest.approx([seconds[told.split(",")[0]]] * 7, abs=0.02)


def test_curves_tell_the_value_below_the_mouse_and_zoom(runs: list[Path], comparison: Path, browser: Browser) -> None:
    browser.open(comparison)
    shown = "document.querySelector('#chart-loss .legend').textContent"
    before = browser.value(shown)
    browser.drag("#chart-loss .u-over", 0.1, 0.6)
    browser.until("document.querySelector('#chart-loss').dataset.zoomed === 'yes'")
    browser.until(f"{shown}.includes('step ')")
    assert browser.value(shown) != before
    assert browser.value("document.querySelector('#chart-norm').dataset.zoomed") == "yes"  # all move together
    browser.value("document.querySelector('#chart-loss [data-do=whole]').click()")
    browser.until("document.querySelector('#chart-norm').dataset.zoomed === 'no'")
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert browser.value("document.querySelector('#chart-loss').dataset.range").split()[1] == str(rows[-1]["step"])


def test_the_page_of_the_sweep_is_its_table(sweep: Path, browser: Browser) -> None:
    browser.open(sweep / "report.html")
    cells = browser.value(
        "[...document.querySelectorAll('#table .heat tbody tr')].map((row) =>"
        "[...row.cells].map((one) => one.firstChild.textContent.replace('\u2212', '-')))"
    )
    with (sweep / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    for clip, *means in cells:
        for loss, told in zip(("mi", "snr"), means, strict=True):
            scores = [float(row["si_sdr_db"]) for row in rows if (row["clip"], row["loss.name"]) == (clip, loss)]
            assert float(told) == pytest.approx(sum(scores) / len(scores), abs=0.006)
    assert [row[0] for row in cells] == ["auto:10", "none"]
    head = "[...document.querySelectorAll('#cells thead th')].findIndex((one) => one.textContent.startsWith('seed'))"
    browser.value(f"document.querySelectorAll('#cells thead th')[{head}].querySelector('button').click()")
    seeds = browser.value(
        f"[...document.querySelectorAll('#cells tbody tr')].map((row) => row.cells[{head}].textContent)"
    )
    assert len(seeds) == 8
    assert seeds in (sorted(seeds), sorted(seeds, reverse=True))

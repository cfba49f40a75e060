"""Reports of real trainings on the demo voices, in the browser: ``auto:10`` and no clipping, and a small sweep."""

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


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line and assert that it succeeds."""
    result = sepclip(*arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo voices") / "mixtures"
    run_command("prepare", "speakers", SPEECH, out, "--tr", 100, "--cv", 8, "--tt", 6, "--unseen", "fr-f,ru-m")
    return out


@pytest.fixture(scope="module")
def runs(mixtures: Path) -> list[Path]:
    """Return a run without clipping and one with auto:10, otherwise trained alike, both scored."""
    paths = []
    for name, clip in (("plain", "none"), ("auto10", "auto:10")):
        run = mixtures.parent / name
        settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
        result = run_command(
            "train", mixtures, "--run", run, "--config", "demo", "--clip", clip, "--dynamics", "every=5", *settings
        )
        assert f"report (figures, audio): {run / 'report.html'}" in result.stdout
        run_command("eval", run, mixtures, "--metrics", "si_sdr", "--oracles", "ibm")
        paths.append(run)
    return paths


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Path:
    run_command("report", *runs)
    return runs[0] / "report-auto10.html"


@pytest.fixture(scope="module")
def sweep(mixtures: Path) -> Path:
    grid = mixtures.parent / "grid.yaml"
    grid.write_text(GRID)
    out = mixtures.parent / "sweep"
    run_command("sweep", grid, mixtures, "--out", out, "--jobs", 2)
    run_command("report", out)
    return out


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_run_comparison_and_sweep_open(
    runs: list[Path], comparison: Path, sweep: Path, browser: Browser, width: int, scheme: str
) -> None:
    for page in (runs[1] / "report.html", comparison, sweep / "report.html"):
        assert_valid(page.read_text(encoding="utf-8"))
        assert_good_looks(browser, page, width, scheme)


def test_comparison_page_agrees_with_the_command(runs: list[Path], comparison: Path, browser: Browser) -> None:
    pair = json.loads(run_command("compare", *runs, "--json").stdout)["scores"]["si_sdr"]["pairs"][0]
    assert (pair["first"], pair["second"]) == ("plain", "auto10")
    browser.open(comparison)
    headline = browser.value("document.querySelector('.headline').textContent")
    assert signed(pair["mean"], "dB", 2) in headline
    assert "auto10 minus plain, mean of 12 files" in headline
    assert "none" in browser.value("document.querySelector('#run').textContent")
    labels = browser.value("document.querySelector('#chart-norm .legend').textContent")
    assert "auto10, threshold" in labels
    assert "plain, threshold" not in labels


def test_dynamics_panels_are_drawn(runs: list[Path], comparison: Path, browser: Browser) -> None:
    for page, prefixes in ((runs[1] / "report.html", ["figure1"]), (comparison, ["figure1-1", "figure1-2"])):
        browser.open(page)
        for prefix in prefixes:
            for panel in ("step", "loss", "norm", "smoothness"):
                assert browser.value(f"document.querySelector('#{prefix}-{panel} canvas') !== null")
    text = runs[1].joinpath("report.html").read_text(encoding="utf-8")
    charts = [json.loads(chart) for chart in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    recorded = [json.loads(line) for line in (runs[1] / "dynamics.jsonl").read_text().splitlines()]
    step = next(chart for chart in charts if chart["series"][0]["label"] == "step size")
    assert step["x"] == [row["step"] for row in recorded] == list(range(5, 65, 5))


def test_players_of_the_comparison_have_the_right_durations(mixtures: Path, comparison: Path, browser: Browser) -> None:
    browser.open(comparison)
    browser.until("[...document.querySelectorAll('audio')].every((one) => one.readyState > 0)")
    cards = browser.value(
        "[...document.querySelectorAll('.example')].map((card) => [card.querySelector('.name').textContent,"
        "[...card.querySelectorAll('audio')].map((one) => one.duration)])"
    )
    data = MixtureSet.open(mixtures)
    seconds = {recipe.name: recipe.length / data.rate_hz for recipe in data.recipes("tt")}
    assert len(cards) == 3
    for heading, durations in cards:  # the mixture, two estimates of each run, two references
        assert durations == pytest.approx([seconds[heading.split(",")[0]]] * 7, abs=0.02)


def test_legend_shows_the_values_at_the_mouse(runs: list[Path], comparison: Path, browser: Browser) -> None:
    browser.open(comparison)
    legend = "document.querySelector('#chart-loss .legend').textContent"
    before = browser.value(legend)
    browser.drag("#chart-loss .u-over", 0.1, 0.6)
    browser.until("document.querySelector('#chart-loss').dataset.zoomed === 'yes'")
    browser.until(f"{legend}.includes('step ')")
    assert browser.value(legend) != before
    assert browser.value("document.querySelector('#chart-norm').dataset.zoomed") == "yes"  # all move together
    browser.value("document.querySelector('#chart-loss [data-do=whole]').click()")
    browser.until("document.querySelector('#chart-norm').dataset.zoomed === 'no'")
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert browser.value("document.querySelector('#chart-loss').dataset.range").split()[1] == str(rows[-1]["step"])


def test_sweep_page_has_the_means_of_its_cells(sweep: Path, browser: Browser) -> None:
    browser.open(sweep / "report.html")
    cells = browser.value(
        "[...document.querySelectorAll('#table .heat tbody tr')].map((row) =>"
        "[...row.cells].map((one) => one.firstChild.textContent.replace('\u2212', '-')))"
    )
    with (sweep / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    for clip, *means in cells:
        for loss, text in zip(("mi", "snr"), means, strict=True):
            scores = [float(row["si_sdr_db"]) for row in rows if (row["clip"], row["loss.name"]) == (clip, loss)]
            assert float(text) == pytest.approx(sum(scores) / len(scores), abs=0.006)
    assert [row[0] for row in cells] == ["auto:10", "none"]
    head = "[...document.querySelectorAll('#cells thead th')].findIndex((one) => one.textContent.startsWith('seed'))"
    browser.value(f"document.querySelectorAll('#cells thead th')[{head}].querySelector('button').click()")
    seeds = browser.value(
        f"[...document.querySelectorAll('#cells tbody tr')].map((row) => row.cells[{head}].textContent)"
    )
    assert len(seeds) == 8
    assert seeds in (sorted(seeds), sorted(seeds, reverse=True))

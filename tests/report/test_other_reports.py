"""The pages of a sweep, of two runs, and of separated files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sepclip.evaluation.evaluate_items import evaluate_items
from sepclip.evaluation.folders import folder_items
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.report import figures, listening
from sepclip.report.charts import Chart, Series
from sepclip.sweep.cell_table import Table, cells_csv, cells_json
from sepclip.sweep.grid import load_grid
from sepclip.sweep.results import Result
from tests.conftest import TINY
from tests.report.browser import Browser
from tests.report.conftest import EVIL, PLAN, assert_refused, report, score
from tests.report.looks import assert_good_looks, assert_valid


@pytest.fixture(scope="module")
def sweep(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep with invented scores; seed 0 of clip auto:10 and loss snr has failed."""
    out = tmp_path_factory.mktemp("sweep")
    settings = {key: yaml.safe_load(value) for key, value in (setting.split("=") for setting in TINY)}
    axes = {"clip": ["auto:10", "none"], "loss.name": ["mi", "snr"], "seed": [0, 1]}
    (out / "grid.yaml").write_text(yaml.safe_dump({"set": settings, "grid": axes, "reference": "none"}))
    grid = load_grid(str(out / "grid.yaml"))
    results = {}
    for cell in grid.cells:
        run = out / "runs" / cell.name
        result = Result(cell, run, out / "logs" / cell.name)
        if cell.labels == ("auto:10", "snr") and cell.seed == 0:
            results[cell.digest] = result.as_failed(EVIL)
            continue
        base = {"auto:10": 5.0, "none": 3.0}[cell.labels[0]] + {"mi": 0.0, "snr": 1.0}[cell.labels[1]] + cell.seed / 10
        scores = {f"file{index}": base + index / 10 for index in range(4)}
        both = {"si_sdr": scores, "si_sdr_improvement": scores}
        results[cell.digest] = Result(cell, run, result.log, "done", scores=both, training={"steps": 20})
        run.mkdir(parents=True)
        rows = [{"step": step, "valid_si_sdr_improvement": base * step / 20} for step in (10, 20)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = Table.from_results(grid, results, "si_sdr")
    data = MixtureSet.open(small_set)
    (out / "cells.json").write_text(cells_json(grid, results, data, None))
    (out / "cells.csv").write_text(cells_csv(grid, results))
    (out / "table.csv").write_text(table.csv())
    assert report(out).exit_code == 0
    return out


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_sweep_page_opens(sweep: Path, browser: Browser, width: int, scheme: str) -> None:
    assert_good_looks(browser, sweep / "report.html", width, scheme)
    assert browser.value("window.hacked") is None


def test_sweep_page_has_the_table_of_the_sweep(sweep: Path, browser: Browser) -> None:
    text = (sweep / "report.html").read_text(encoding="utf-8")
    assert_valid(text)
    browser.open(sweep / "report.html")
    cells = browser.value(
        "[...document.querySelectorAll('#table .heat tbody tr')].map((row) =>"
        "[...row.cells].map((one) => one.firstChild.textContent))"
    )
    assert cells == [["auto:10", "5.20", "6.25"], ["none", "3.20", "4.20"]]  # only of seed 1 if seed 0 failed
    assert "1 of 2 seeds" in text
    differences = browser.value(
        "[...document.querySelectorAll('#differences .heat tbody td')].map((one) => one.firstChild.textContent)"
    )
    assert differences == ["+2.00", "+2.00", "reference", "reference"]  # two seeds: no asterisk
    assert browser.value("document.querySelectorAll('#cells tbody tr').length") == 8
    assert "6.2" in browser.value("document.querySelector('.headline').textContent")
    charts = [json.loads(chart) for chart in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert [[series["label"] for series in chart["series"]] for chart in charts] == [["auto:10", "none"]] * 2
    assert charts[0]["series"][0]["values"] == pytest.approx([5.05 / 2, 5.05])


def test_damaged_sweep_is_an_error(sweep: Path, tmp_path: Path) -> None:
    shutil.copy(sweep / "table.csv", tmp_path)
    (tmp_path / "cells.json").write_text("{}")
    assert_refused(report(tmp_path), "not a complete sweep")


@pytest.fixture(scope="module")
def better_run(scored_run: Path) -> Path:
    """Return a copy of the run with scores that are 1 dB better for all files, and 3 dB for one."""
    copy = scored_run.parent / "better"
    shutil.copytree(scored_run, copy)
    path = copy / "eval" / "data-tt" / "scores.json"
    document = json.loads(path.read_text())
    for index, row in enumerate(document["rows"]):
        row["si_sdr_improvement"] += 3 if index < 2 else 1
    path.write_text(json.dumps(document))
    return copy


def test_comparison_page_of_two_runs(scored_run: Path, better_run: Path, browser: Browser, tmp_path: Path) -> None:
    result = report(scored_run, better_run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    page = tmp_path / "report-better.html"
    assert_valid(page.read_text(encoding="utf-8"))
    for width, scheme in ((390, "light"), (1280, "dark")):
        assert_good_looks(browser, page, width, scheme)
    assert "+1.33 dB" in browser.value("document.querySelector('.headline').textContent")  # (3 + 5 x 1) / 6
    assert browser.value("document.querySelectorAll('.dot').length") == 6
    assert browser.value("document.querySelectorAll('audio').length") == 3 * 7
    text = browser.value("document.querySelector('#chart-loss .legend').textContent")
    assert "better, training" in text
    assert "<b>run&lt;, training" in text


def test_folders_that_cannot_be_compared_are_errors(scored_run: Path, sweep: Path, tmp_path: Path) -> None:
    assert_refused(report(scored_run, scored_run), "same folder")
    assert_refused(report(scored_run, sweep), "is not a run and does not contain scores.json")
    folder = scored_run / "eval" / "data-tt"
    other = tmp_path / "eval"
    other.mkdir()
    (other / "scores.json").write_text((folder / "scores.json").read_text().replace('"name": "', '"name": "other-'))
    assert_refused(report(folder, other), "no scored file in common")


def test_comparison_page_without_scores_has_curves(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    shutil.copytree(tiny_run, copy)
    result = report(tiny_run, copy, "--out", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "no scored mixtures in common" in result.stderr
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The two configurations are the same" in text
    assert "chart-loss" in text


def test_sounds_of_long_stereo_stems_stay_below_the_limit(browser: Browser, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(listening, "SOUND_BYTES", 1_000_000)  # the budget of five times as many sounds
    rng = np.random.default_rng(0)
    for name in ("one",):
        stems = rng.normal(scale=0.05, size=(4, 12 * 44100, 2))
        for index, stem in enumerate(stems, 1):
            for kind, wave in (("ref", stem), ("est", stem + rng.normal(scale=0.02, size=stem.shape))):
                path = tmp_path / kind / f"s{index}" / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 44100)
    items = folder_items(tmp_path / "est", tmp_path / "ref")
    about = {"estimates": str(tmp_path / "est"), "references": str(tmp_path / "ref")}
    folder = tmp_path / "scores"
    evaluate_items(items, folder, about, PLAN, jobs=0)
    result = report(folder)
    assert result.exit_code == 0, result.output
    sounds = re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', (folder / "report.html").read_text(encoding="utf-8"))
    assert len(sounds) == 9
    assert sum(map(len, sounds)) * 3 / 4 < 1.3 * 1_000_000
    assert_good_looks(browser, folder / "report.html", 390, "light")
    browser.until("[...document.querySelectorAll('audio')].every((one) => one.readyState > 0)")
    durations = browser.value("[...document.querySelectorAll('audio')].map((one) => one.duration)")
    assert len(durations) == 9
    assert max(durations) - min(durations) < 0.1
    assert min(durations) >= 4


def test_evaluation_has_its_own_page(scored_run: Path, small_set: Path, tmp_path: Path) -> None:
    folder = scored_run / "eval" / "again-tt"
    score(scored_run, scored_run.parent / "data", folder)
    result = report(folder, "--out", tmp_path / "page.html")
    shutil.rmtree(folder)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<audio") == 15


def test_log_axis_below_a_decade_has_distinct_labels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = Chart("norm", "Norm", [1, 2, 3], [Series("norm", [2.1e-5, 2.9e-5, 3.4e-5])], log=True)
    figures._save(tmp_path / "norm", lambda axes: figures._draw_chart(axes, chart))
    labels = re.findall(r"<text[^>]*>([0-9.]+e.05)</text>", (tmp_path / "norm.svg").read_text())
    assert len(labels) == len(set(labels)) > 2


def test_plots_are_drawn_for_a_paper(scored_run: Path, better_run: Path, sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from xml.etree import ElementTree

    from PIL import Image

    for paths, names in (
        ([scored_run], {"loss", "gain", "norm", "clipped", "scores"}),
        ([better_run / "eval" / "data-tt", scored_run / "eval" / "data-tt"], {"scores"}),
        ([sweep], {"curve-0", "curve-1"}),
    ):
        folder = tmp_path / f"plots{len(names)}-{len(paths)}"
        result = report(*paths, "--out", tmp_path / "page.html", "--plots", folder, "--json")
        assert result.exit_code == 0, result.output
        files = [Path(file) for file in json.loads(result.stdout)["plots"]]
        assert {file.name for file in files} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
        for file in files:
            if file.suffix == ".svg":
                assert ElementTree.parse(file).getroot().tag.endswith("svg")
                assert "mathdefault" not in file.read_text(encoding="utf-8")
                continue
            with Image.open(file) as picture:
                assert picture.info["dpi"] == pytest.approx((300, 300), abs=1)
                assert 1000 < picture.width < 1040  # a column of 3.4 inches

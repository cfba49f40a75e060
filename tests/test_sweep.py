"""Grids, digests, intervals, and real sweeps of a tiny network: complete, killed, and with a failing cell."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from sepclip.cli import app
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.losses import LOSSES
from sepclip.sweep import run_cells
from sepclip.sweep.cell_table import Table
from sepclip.sweep.grid import load_grid
from sepclip.sweep.intervals import estimate, estimate_difference, estimate_mean, few_seeds_notes
from sepclip.sweep.results import METRICS, Result
from sepclip.training.run import hold
from tests.conftest import SPEECH, TINY, assert_told, sepclip
from tests.processes import wait_until

PAPER = ["dc", "wkm", "mi", "chimera", "snr"]
NEEDS_ALL_LOSSES = pytest.mark.skipif(bool(set(PAPER) - set(LOSSES)), reason="not all losses of Table 1 exist")


def write_grid(path: Path, **sections: object) -> str:
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return str(path)


def tiny_grid(path: Path, losses: tuple[str, ...] = ("dc", "mi")) -> str:
    settings = {key: yaml.safe_load(value) for key, value in (setting.split("=") for setting in TINY)}
    axes = {"clip": ["auto:10", "auto:100"], "loss.name": list(losses), "seed": [0]}
    return write_grid(path, set={**settings, "train.steps": 20}, grid=axes, reference="auto:100")


# the grid


def test_grid_combines_all_values_of_all_keys(tmp_path: Path) -> None:
    axes = {"clip": ["auto:1", "none"], "loss.name": ["dc", "mi"], "model.hidden": [8, 9], "seed": [0, 3]}
    grid = load_grid(write_grid(tmp_path / "g.yaml", config="demo", grid=axes), settings=["model.layers=1"])
    assert len(grid.cells) == len({cell.digest for cell in grid.cells}) == 16
    assert (grid.keys, grid.seeds, grid.columns()) == (("clip", "loss.name", "model.hidden"), (0, 3), ["dc", "mi"])
    assert [grid.row_title(row) for row in grid.rows()][:2] == ["auto:1, model.hidden=8", "auto:1, model.hidden=9"]
    assert {cell.labels for cell in grid.cells} == {
        grid.labels(row, column) for row in grid.rows() for column in grid.columns()
    }
    for cell in grid.cells:
        assert cell.labels == (cell.config.clip, cell.config.loss.name, str(cell.config.model.hidden))
        assert (cell.config.model.layers, cell.config.data.batch_size, cell.config.seed) == (1, 16, cell.seed)


def test_grid_takes_sections_seeds_steps_and_values_with_several_keys(tmp_path: Path) -> None:
    values = ["none", {"clip": "norm:1", "optimizer": {"learning_rate": "1e-4"}}]
    path = write_grid(tmp_path / "g.yaml", set={"train": {"steps": 7}}, grid={"clip": values, "seed": [0]})
    grid = load_grid(path, seeds=[4, 5], steps=9, precision="fp32")
    assert [(cell.config.clip, cell.config.seed) for cell in grid.cells] == [
        ("none", 4), ("none", 5), ("norm:1", 4), ("norm:1", 5)
    ]  # fmt: skip
    assert [cell.config.optimizer.learning_rate for cell in grid.cells] == [1e-3, 1e-3, 1e-4, 1e-4]
    assert {(cell.config.train.steps, cell.config.precision) for cell in grid.cells} == {(9, "fp32")}
    assert grid.columns() == [None]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"gird": {}}, ["no section 'gird'", "did you mean grid"]),
        ({"set": {}}, ["grid is missing", "clip: ["]),
        ({"grid": {"clip": "none"}}, ["'none'", "write a list"]),
        ({"grid": {"clip": []}}, ["write a list"]),
        ({"grid": {"clip": [["none"]]}}, ["list in a list"]),
        ({"grid": {"seed": [0, 1]}}, ["beside seed"]),
        ({"grid": {"clip": ["none", "auto:101"]}}, ["cell clip=auto:101", "0 <= P <= 100"]),
        ({"grid": {"clop": ["none"]}}, ["no key 'clop'", "did you mean clip"]),
        ({"grid": {"loss.name": ["mi", "sdr"]}}, ["cell loss.name=sdr", "mi, dc"]),
        ({"grid": {"clip": ["auto:1", "auto:1.0"]}}, ["clip=auto:1.0", "listed twice"]),
        ({"grid": {"device": ["cpu", "auto"]}}, ["device=auto", "in nothing that changes training"]),
        ({"grid": {"clip": [{"seed": 1}]}}, ["does not set clip"]),
        ({"grid": {"clip": [{"clip": "none", "seed": 1}], "seed": [0]}}, ["also changes seed"]),
        ({"grid": {"clip": ["none", {"clip": "none", "model.layers": 1}]}}, ["a key of the grid"]),
        ({"grid": {"clip": ["none"]}, "reference": "auto:100"}, ["reference: auto:100", "(none)"]),
        ({"grid": {"clip": ["none"]}, "config": "dmo"}, ["config: dmo", "demo"]),
        ({"grid": {"clip": ["none"]}, "config": ["demo"]}, ["the name of one recipe"]),
        ({"grid": {"clip": ["none"]}, "set": ["a=1"]}, ["set:", "one value each"]),
        ({"grid": {"clip": ["none"]}, "set": {"model.hiden": 1}}, ["set: there is no key", "model.hidden"]),
    ],
)
def test_invalid_grid_is_an_error_that_names_the_mistake(sections: dict, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_grid(write_grid(tmp_path / "g.yaml", **sections))
    for word in [*words, "g.yaml"]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_the_grid_cannot_be_overridden(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "g.yaml", grid={"clip": ["none"], "train.steps": [1, 2], "seed": [0]})
    for more, words in (
        ({"settings": ["clip=auto:1"]}, "the grid itself sets clip"),
        ({"settings": ["seed=3"]}, "use --seeds"),
        ({"steps": 3}, "--steps 3"),
    ):
        with pytest.raises(UserError, match=words):
            load_grid(path, **more)
    with pytest.raises(UserError, match=r"GRID tabel: no such file.*\(table1, table1-small\)"):
        load_grid("tabel")


def test_recipe_beside_the_grid_file_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "local.yaml").write_text("model: {hidden: 11}\n")
    grid = load_grid(write_grid(tmp_path / "g.yaml", config="local.yaml", grid={"clip": ["none"]}))
    assert grid.cells[0].config.model.hidden == 11


def test_digest_depends_on_what_changes_the_training(tmp_path: Path) -> None:
    def digest(*settings: str, data: str = "x", **sections: object) -> str:
        path = write_grid(tmp_path / "g.yaml", grid={"clip": ["none"]}, **sections)
        return load_grid(path, settings=settings, data_digest=data).cells[0].digest

    plain = digest()
    for setting in ("device=cpu", "train.log_every=3", "train.save_every=1s", "data.memory_gib=1"):
        assert digest(setting) == plain
    changed = [digest(data="y"), *map(digest, ("seed=1", "train.steps=5", "train.epochs=7", "precision=fp32"))]
    changed += map(digest, ("model.hidden=8", "loss.name=dc", "train.valid_every=3", "optimizer.epsilon=1e-9"))
    assert len({plain, *changed}) == len(changed) + 1


@NEEDS_ALL_LOSSES
@pytest.mark.parametrize(("name", "hidden"), [("table1", 600), ("table1-small", 100)])
def test_table1_has_the_cells_of_the_paper(name: str, hidden: int) -> None:
    grid = load_grid(name)
    assert [row[0] for row in grid.rows()] == [f"auto:{p}" for p in (0, 1, 10, 25, 50, 90, 100)]
    assert grid.columns() == PAPER
    assert {cell.config.model.hidden for cell in grid.cells} == {hidden}
    # enough seeds for asterisks in the table of the paper; the small one takes half an hour with one
    assert grid.seeds == ((0, 1, 2) if name == "table1" else (0,))


@NEEDS_ALL_LOSSES
def test_clustering_losses_of_table1_make_masks_as_nussl() -> None:
    grid = load_grid("table1")
    masks = {cell.labels[1]: (cell.config.kmeans.masks, cell.config.kmeans.fit) for cell in grid.cells}
    nussl, others = ("soft", "loudest"), ("binary", "vad")
    assert masks == {"dc": nussl, "wkm": nussl, "mi": others, "chimera": others, "snr": others}
    # the cells of other losses are those of earlier sweeps
    digests = {cell.labels: cell.digest for cell in grid.cells if cell.seed == 0}
    assert digests["auto:10", "mi"] == "e420231e1daa"
    assert digests["auto:10", "snr"] == "827f4cdf6bf1"


# the interval


def test_interval_of_one_seed_is_students_over_files() -> None:
    result = estimate(np.array([[1.0, 2.0, 3.0, 4.0]]))
    assert result.mean == 2.5
    assert result.half_width == pytest.approx(3.182446305 * math.sqrt(5 / 3 / 4))  # t(3), variance 5/3
    assert estimate(np.array([[1.0], [2.0], [3.0], [4.0]])).half_width == pytest.approx(result.half_width)
    assert estimate(np.array([[1.0]])).half_width is None


def test_interval_of_one_varying_effect_is_students() -> None:
    by_seed = np.array([[1.0], [2.0], [4.0]]) + np.zeros((1, 50))
    assert estimate(by_seed).half_width == pytest.approx(4.302652730 * math.sqrt((7 / 3) / 3))  # t(2), variance 7/3
    by_file = np.zeros((3, 1)) + np.array([[1.0, 2.0, 3.0, 4.0]])
    assert estimate(by_file).half_width == pytest.approx(3.182446305 * math.sqrt(5 / 3 / 4))
    assert estimate(np.ones((2, 3))).half_width == 0


def test_interval_of_additive_effects_adds_their_squares() -> None:
    seeds, files = np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, 5.0, 8.0])
    result = estimate(seeds[:, None] + files[None, :])
    seed_part, file_part = estimate(seeds[:, None]).half_width, estimate(files[None, :]).half_width
    assert result.half_width == pytest.approx(math.hypot(seed_part, file_part))


@pytest.mark.parametrize("seed_effect", [0.0, 0.3, 2.0])
def test_interval_contains_the_true_mean_as_often_as_stated(seed_effect: float) -> None:
    chance = np.random.default_rng(1)
    inside = 0
    for _ in range(500):
        scores = 10 + seed_effect * chance.normal(size=(3, 1)) + 3 * chance.normal(size=(1, 40))
        result = estimate(scores + chance.normal(size=(3, 40)))
        inside += abs(result.mean - 10) < result.half_width
    assert 0.935 <= inside / 500 <= 0.99


@pytest.mark.parametrize("seeds", [3, 4])
@pytest.mark.parametrize(("seed_effect", "file_effect"), [(0.1, 0.0), (0.05, 0.3), (1.0, 0.3)])
def test_interval_covers_small_effects_of_the_seed_too(seeds: int, seed_effect: float, file_effect: float) -> None:
    """Effects of the seed as small as the residual, which a clipped variance component takes for none."""
    chance, inside, draws = np.random.default_rng(2), 0, 1000
    for _ in range(draws):
        effects = seed_effect * chance.normal(size=(seeds, 1)) + file_effect * chance.normal(size=(1, 200))
        result = estimate(effects + chance.normal(size=(seeds, 200)))
        inside += abs(result.mean) < result.half_width
    assert inside / draws >= 0.93


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_asterisks_need_three_seeds(seeds: int) -> None:
    result = estimate(5 + np.random.default_rng(0).normal(0, 0.01, (seeds, 50)))
    assert result.excludes_zero
    assert result.marked == (seeds == 3)
    notes = ["one seed: over files only, no asterisk"], ["two seeds: a wide interval, no asterisk"], []
    assert few_seeds_notes([seeds, seeds, 5]) == notes[seeds - 1]


def test_difference_is_paired_by_seed_and_file() -> None:
    chance = np.random.default_rng(0)
    hard = chance.normal(size=30) * 5
    runs = {seed: {f"f{i}": hard[i] + seed + 1.0 for i in range(30)} for seed in (0, 1, 2)}
    reference = {seed: {f"f{i}": hard[i] + seed for i in range(5, 30)} for seed in (1, 2, 3)}
    result = estimate_difference(runs, reference)
    assert (result.seeds, result.files) == (2, 25)
    assert result.mean == pytest.approx(1)
    assert result.half_width == pytest.approx(0, abs=1e-9)
    assert result.excludes_zero
    assert estimate_mean(list(runs.values())).half_width > 1
    assert estimate_difference(runs, {7: runs[0]}) is None
    assert estimate_mean([]) is None
    assert estimate_mean([{"a": 1.0}, {"b": 2.0}]) is None


def test_table_shows_missing_failed_and_excluded_cells(tmp_path: Path) -> None:
    path = write_grid(
        tmp_path / "g.yaml",
        grid={"clip": ["none", "auto:1", "auto:2"], "loss.name": ["dc", "mi"], "seed": [0, 1]},
        reference="none",
    )
    grid = load_grid(path)
    results = {}
    for number, cell in enumerate(grid.cells):
        scores = {metric: {"a": 1.0 + number, "b": 2.0 + number} for metric in METRICS}
        result = Result(cell, tmp_path / cell.name, tmp_path / "log", "done", scores=scores, excluded={"c": "silent"})
        if number in (3, 4, 5):
            result = Result(cell, result.run, result.log)
        if number == 6:
            result = result.as_failed("killed")
        if number == 7:
            result = Result(cell, result.run, result.log).as_failed("killed")
        results[cell.digest] = result
    table = Table.from_results(grid, results, METRICS[0])
    assert [[entry.status for entry in row] for row in table.entries] == [
        ["done", "incomplete"], ["missing", "failed"], ["done", "done"]
    ]  # fmt: skip
    text = table.markdown("description")
    for words in ("(1 of 2 seeds)", "| missing | failed |", "Not complete: 7 of 12 cells done, 2 failed", "reference"):
        assert words in text
    assert "Excluded because a score is missing" in text
    assert len(list(csv.DictReader(table.csv().splitlines()))) == 6
    assert not table.complete()


# real sweeps


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Run the command in this process, which has imported torch already; return exit code, stdout and stderr."""
    result = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.stdout, result.stderr


def scores_of(out: Path) -> dict[str, object]:
    """Return the scores of every run by its digest."""
    documents = [json.loads(path.read_text()) for path in out.glob("runs/*/eval/sweep/scores.json")]
    return {document["cell"]: document["rows"] for document in documents}


def modification_times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Give every cell one thread, however many run in parallel: the number of threads changes rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def finished_sweep(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted sweep, two losses by two clip rules; its grid is beside it."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    code, stdout, stderr = invoke(tiny_grid(out.parent / "tiny.yaml"), small_set, "--out", out, "--jobs", 2)
    assert code == 0, stderr
    assert "Mean SI-SDR in dB" in stdout
    assert "4 cells to train, 0 already done; 2 in parallel on cpu" in stderr
    return out


def test_sweep_writes_all_its_files(finished_sweep: Path, small_set: Path) -> None:
    names = {"table.md", "table.csv", "table.svg", "table.png", "cells.json", "cells.csv", "sweep.log", "runs", "logs"}
    assert {path.name for path in finished_sweep.iterdir()} == names
    rows = list(csv.DictReader((finished_sweep / "table.csv").read_text().splitlines()))
    assert [(row["clip"], row["loss.name"]) for row in rows] == [
        ("auto:10", "dc"), ("auto:10", "mi"), ("auto:100", "dc"), ("auto:100", "mi")
    ]  # fmt: skip
    for row in rows:
        assert (row["status"], row["seeds"], row["files"], row["excluded_files"]) == ("done", "1", "6", "0")
        assert float(row["mean_low_db"]) < float(row["mean_db"]) < float(row["mean_high_db"])
        assert (row["difference_db"] == "") == (row["clip"] == "auto:100")
    document = json.loads((finished_sweep / "cells.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    for cell in document["cells"]:
        assert (cell["status"], cell["steps"], cell["files"]) == ("done", 20, 6)
        files: dict[str, list[float]] = {}
        for scored in scores_of(finished_sweep)[cell["digest"]]:
            files.setdefault(scored["name"], []).append(scored["si_sdr"])
        assert cell["si_sdr_db"] == pytest.approx(np.mean([np.mean(pair) for pair in files.values()]))
    log = (finished_sweep / "sweep.log").read_text()
    assert log.count(" done ") == 4
    assert (finished_sweep / "table.png").read_bytes().startswith(b"\x89PNG")


def test_finished_sweep_only_prints_its_table(finished_sweep: Path, small_set: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_cells.subprocess, "Popen", lambda *_, **__: pytest.fail("a cell was started again"))
    before, grid = modification_times(finished_sweep), finished_sweep.parent / "tiny.yaml"
    code, stdout, _ = invoke(grid, small_set, "--out", finished_sweep)
    assert code == 0
    assert "Difference to clip auto:100" in stdout
    code, stdout, _ = invoke(grid, small_set, "--out", finished_sweep, "--json")
    assert json.loads(stdout)["complete"] is True
    assert len(json.loads(stdout)["cells"]) == 4
    assert modification_times(finished_sweep) == before
    code, stdout, _ = invoke(grid, small_set, "--out", finished_sweep, "--dry-run", "--seeds", "0,1")
    assert stdout.count(": done ") == stdout.count(": new ") == 4
    assert "8 cells, 4 to train" in stdout
    assert modification_times(finished_sweep) == before


def test_table_of_another_metric_and_group_uses_the_same_runs(
    finished_sweep: Path, small_set: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_sweep, out)
    more = ("--metric", "si_sdr_improvement", "--group", "unseen")
    code, stdout, _ = invoke(finished_sweep.parent / "tiny.yaml", small_set, "--out", out, *more)
    assert code == 0
    assert "SI-SDR improvement" in stdout
    assert "3 files, 1 seed" in stdout
    assert "one seed: over files only" in stdout
    assert "*" not in stdout.replace("(*:", "")
    assert (out / "table.svg").read_bytes() != (finished_sweep / "table.svg").read_bytes()


def test_identical_scores_of_two_cells_are_a_warning(finished_sweep: Path, small_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_sweep, out)
    one, two = sorted(out.glob("runs/*_mi_*/eval/sweep/scores.json"))
    document, digest = json.loads(one.read_text()), json.loads(two.read_text())["cell"]
    two.write_text(json.dumps({**document, "cell": digest}))
    _, _, stderr = invoke(finished_sweep.parent / "tiny.yaml", small_set, "--out", out)
    assert "same scores to the last digit" in stderr
    assert "clip=auto:10 loss.name=mi seed=0 and clip=auto:100 loss.name=mi seed=0" in stderr


def start(grid: str, data: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    """Start a sweep as a new process group, and wait until a cell has saved."""
    command = [sys.executable, "-m", "sepclip", "sweep", grid, data, "--out", out, "--jobs", 1]
    command += ["--set", "train.save_every=0.01s", *more]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: list(out.glob("runs/*/checkpoints/last/state.json")), process)
    return process


def test_killed_sweep_with_a_failing_cell_ends_like_the_uninterrupted_one(
    finished_sweep: Path, small_set: Path, tmp_path: Path
) -> None:
    grid, out = tiny_grid(tmp_path / "mi.yaml", ("mi",)), tmp_path / "out"
    process = start(grid, small_set, out)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not scores_of(out)
    # the other cell fails, and is the first to run now: runs are recognized in any order
    (half,) = out.glob("runs/*")
    (broken,) = (out / "runs" / path.name for path in finished_sweep.glob("runs/*_mi_*") if path.name != half.name)
    broken.mkdir()
    (broken / "thesis.tex").write_text("x")
    reordered = yaml.safe_load(Path(grid).read_text())
    reordered["grid"]["clip"].reverse()
    code, stdout, stderr = invoke(
        write_grid(tmp_path / "reordered.yaml", **reordered), small_set, "--out", out, "--jobs", 1
    )
    assert code == 1
    assert "Not complete: 1 of 2 cells done, 1 failed" in stdout
    assert "1 cell failed; run the same command to try again" in stderr
    assert "something else (thesis.tex)" in stderr
    assert str(out / "logs" / f"{broken.name}.log") in stderr
    assert "| failed |" in (out / "table.md").read_text()
    assert "resuming" in (out / "logs" / f"{half.name}.log").read_text()
    (broken / "thesis.tex").unlink()
    before = modification_times(half)
    code, _, stderr = invoke(grid, small_set, "--out", out, "--jobs", 1)
    assert code == 0
    assert "1 cell to train, 1 already done" in stderr
    assert modification_times(half) == before
    assert len(scores_of(out)) == 2
    assert scores_of(out).items() <= scores_of(finished_sweep).items()
    undisturbed = [row for row in (finished_sweep / "table.csv").read_text().splitlines() if ",dc," not in row]
    assert (out / "table.csv").read_text().splitlines() == undisturbed


def test_interrupted_sweep_saves_its_cells(small_set: Path, tmp_path: Path) -> None:
    grid, out = tiny_grid(tmp_path / "mi.yaml", ("mi",)), tmp_path / "out"
    process = start(grid, small_set, out, "--steps", 100000)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the sweep and its cells
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    assert "saved at step" in next(out.glob("logs/*.log")).read_text()
    with hold(next(out.glob("runs/*"))):  # no other process has it locked
        pass


def test_cell_of_a_killed_sweep_saves_and_ends(small_set: Path, tmp_path: Path) -> None:
    (cell, _) = load_grid(tiny_grid(tmp_path / "mi.yaml", ("mi",)), steps=100000, precision="fp32").cells
    task = run_cells.CellTask(cell, tmp_path / "run", tmp_path / "log", "a cell", 100000)
    slots = run_cells.Slots(("cpu", "cpu"), 1)
    process = run_cells._CellProcess(task, "cpu", slots, MixtureSet.open(small_set)).popen
    wait_until((task.run / "checkpoints" / "last").is_dir, process)
    if sys.platform == "linux":  # the number of processes that share the cores
        assert b"LOCAL_WORLD_SIZE=2" in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert process.stdin is not None
    process.stdin.close()  # as the system does when a sweep is killed
    assert process.wait(60) == 143
    assert "saved at step" in task.log.read_text()


def test_killed_process_fails_its_cell_with_the_signal_as_reason(
    finished_sweep: Path, small_set: Path, tmp_path: Path, monkeypatch
) -> None:
    out, start_process = tmp_path / "out", subprocess.Popen

    def killed(command, **options):
        return start_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options)

    monkeypatch.setattr(run_cells.subprocess, "Popen", killed)
    code, stdout, stderr = invoke(finished_sweep.parent / "tiny.yaml", small_set, "--out", out, "--jobs", 2)
    assert code == 1
    assert stderr.count("killed by SIGKILL, possibly out of memory") == 8  # each when it happens, and again at the end
    assert "Not complete: 0 of 4 cells done, 4 failed" in stdout
    assert (out / "table.png").is_file()


def test_sweep_without_matplotlib_says_that_it_draws_no_picture(
    finished_sweep: Path, small_set: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_sweep, out)
    (out / "table.svg").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, stdout, stderr = invoke(finished_sweep.parent / "tiny.yaml", small_set, "--out", out)
    assert code == 0
    assert "no picture of the table" in stderr
    assert "pip install" in stderr
    assert "table.svg" not in stdout


def test_wrong_arguments_are_errors_before_anything_is_written(
    finished_sweep: Path, small_set: Path, tmp_path: Path
) -> None:
    grid, out = finished_sweep.parent / "tiny.yaml", tmp_path / "out"
    assert_told(sepclip("sweep", grid, small_set, "--out", out, "--set", "clip=none"), "the grid itself sets clip")
    for more, words in (
        (("--group", "nobody"), "test mixtures of .* are seen, unseen"),
        (("--jobs-per-gpu", 2, "--device", "cpu"), "use --jobs"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--set", "model.layers=0"), r"cell clip=auto:10 loss.name=dc seed=0: model.layers"),
    ):
        with pytest.raises(UserError, match=words):
            invoke(grid, small_set, "--out", out, *more)
    assert invoke(grid, small_set, "--out", out, "--seeds", "a")[0] == 2
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="already contains something else"):
        invoke(grid, small_set, "--out", tmp_path / "busy")
    with pytest.raises(UserError, match="is a file"):
        invoke(grid, small_set, "--out", tmp_path / "busy" / "thesis.tex")
    with hold(finished_sweep), pytest.raises(UserError, match="is in use by another process"):
        invoke(grid, small_set, "--out", finished_sweep, "--seeds", "7")
    assert not out.exists()


def test_cores_and_gpus_are_divided_among_slots(monkeypatch) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_cells, "cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")

    def allocate(device, jobs=None, jobs_per_gpu=None, every_gpu=True, most=100):
        slots = run_cells.allocate_slots(device, jobs=jobs, jobs_per_gpu=jobs_per_gpu, every_gpu=every_gpu, most=most)
        return slots.devices, slots.threads

    assert allocate(cpu) == (("cpu",) * 4, 4)
    assert allocate(cpu, jobs=5) == (("cpu",) * 5, 3)
    assert allocate(cpu, jobs=5, most=2) == (("cpu",) * 2, 8)
    assert allocate(cpu, jobs=40) == (("cpu",) * 40, 1)
    assert allocate(gpu) == (("cuda:0", "cuda:1"), 8)
    assert allocate(gpu, jobs_per_gpu=2) == (("cuda:0", "cuda:1") * 2, 4)
    assert allocate(torch.device("cuda:1"), jobs_per_gpu=3, every_gpu=False) == (("cuda:1",) * 3, 5)
    with pytest.raises(UserError, match="use --jobs-per-gpu"):
        allocate(gpu, jobs=2)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert allocate(cpu) == (("cpu",) * 4, 3)


@pytest.mark.slow
def test_small_version_of_the_papers_table(tmp_path: Path) -> None:
    losses = [loss for loss in PAPER if loss in LOSSES]
    grid = write_grid(
        tmp_path / "small.yaml",
        config="demo",
        set={
            "model": {"layers": 1, "hidden": 48},
            "data.segment_frames": 150,
            "train": {"steps": 80, "valid_every": 40},
        },
        grid={"clip": ["auto:1", "auto:10", "auto:100"], "loss.name": losses},
        reference="auto:100",
    )
    prepared = sepclip("prepare", "speakers", SPEECH, tmp_path / "set", "--tr", 100, "--cv", 8, "--tt", 8)
    assert prepared.returncode == 0, prepared.stderr
    result = sepclip("sweep", grid, tmp_path / "set", "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert document["complete"]
    assert len(document["table"]) == 3 * len(losses)
    for row in document["table"]:
        assert (row["seeds"], row["files"], row["excluded_files"]) == (1, 8, 0)
        assert math.isfinite(row["mean_db"])
        assert (row["difference_db"] is None) == (row["clip"] == "auto:100")
    gains = {(cell["clip"], cell["loss.name"]): cell["si_sdr_improvement_db"] for cell in document["cells"]}
    assert gains["auto:10", "mi"] > 0
    assert len(set(gains.values())) == len(gains)  # every setting has an effect

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.config.schema import Dynamics
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.report.dynamics_figure import draw_dynamics
from sepclip.training.dynamics import (
    DynamicsRecorder,
    LossEnvironment,
    Records,
    correlation,
    local_smoothness,
    parse_dynamics,
)
from sepclip.training.loop import train
from sepclip.training.run import Run
from sepclip.training.state import TrainingState, build_separator
from sepclip.training.step import mean_loss, take_step
from tests.conftest import TINY, assert_told, sepclip, train_tiny

# two layers, or there is no dropout; one row a step
WATCHED = [*TINY, "model.layers=2", "model.dropout=0.4", "train.log_every=1", "precision=fp32"]
ALL = (0.25, 0.5, 0.75, 1.0)


def run_of(data: Path, path: Path, *settings: str) -> Path:
    """Train a run in this process and return its folder."""
    mixtures = MixtureSet.open(data)
    config = load_config(settings=[*WATCHED, *settings])
    train(Run.start_or_resume(path, config, mixtures), mixtures)
    return path


def rows(run: Path, name: str = "dynamics.jsonl") -> list[dict[str, float]]:
    timings = {"seconds", "steps_per_second", "waited_share"}
    results = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in timings} for row in results]


def saved(run: Path) -> tuple[dict, dict]:
    """Return the content of the last checkpoint, except its times."""
    from safetensors.torch import load_file

    last = run / "checkpoints" / "last"
    rest = torch.load(last / "state.pt", weights_only=True)
    rest.pop("recent_since")
    return load_file(last / "weights.safetensors"), rest


def assert_equal(one, other) -> None:
    """Assert that two trees are equal to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


@pytest.fixture(scope="module")
def watched(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of which every second step was recorded."""
    return run_of(small_set, tmp_path_factory.mktemp("runs") / "watched", "train.steps=20", "dynamics.every=2")


@pytest.mark.parametrize("loss", ["mi", "dc"])
def test_recording_does_not_change_a_run(loss: str, small_set: Path, tmp_path: Path) -> None:
    settings = [f"loss.name={loss}", "train.steps=9", "dynamics.points=[0.25, 0.5, 0.75, 1]"]
    free = run_of(small_set, tmp_path / "free", *settings)
    seen = run_of(small_set, tmp_path / "seen", *settings, "dynamics.every=1")
    assert_equal(saved(free), saved(seen))
    assert rows(free, "metrics.jsonl") == rows(seen, "metrics.jsonl")
    assert not (free / "dynamics.jsonl").exists()
    assert len(rows(seen)) == 9
    assert all(row["smoothness"] > 0 for row in rows(seen))


def test_records_agree_with_the_metrics(watched: Path) -> None:
    results, metrics = rows(watched), {row["step"]: row for row in rows(watched, "metrics.jsonl") if "loss" in row}
    assert [row["step"] for row in results] == list(range(2, 21, 2))
    for row in results:
        assert set(row) == {"step", "loss", "grad_norm", "threshold", "step_size", "smoothness"}
        for name in ("loss", "grad_norm", "threshold"):
            assert row[name] == metrics[row["step"]][name]
        assert row["step_size"] > 0


def test_a_repeated_gradient_is_the_one_of_the_step() -> None:
    """Batch, dropout and statistics are the same; if one of them is not, the norms differ."""
    state, batch, config = a_state()
    separator = state.separator
    before, environment = [p.detach().clone() for p in separator.parameters()], LossEnvironment(separator, state.device)
    take_step(state, batch, config)
    norm = state.recent[-1][1]
    after = [p.detach().clone() for p in separator.parameters()]

    def norm_at_start(prepare) -> float:
        with torch.no_grad():
            for parameter, value in zip(separator.parameters(), before, strict=True):
                parameter.copy_(value)
        prepare()
        gradient = torch.autograd.grad(mean_loss(separator, batch, config), list(separator.parameters()))
        return torch.stack([g.double().square().sum() for g in gradient]).sum().sqrt().item()

    assert norm_at_start(environment.restore) == pytest.approx(norm, rel=1e-6)
    assert norm_at_start(lambda: None) != pytest.approx(norm, rel=1e-3)  # another dropout mask
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def a_state() -> tuple[TrainingState, Batch, object]:
    config = load_config(settings=WATCHED)
    state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 10)
    state.separator.train()
    sources = 0.1 * torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    return state, Batch(sources.sum(1), sources), config


def test_the_recorder_restores_everything(tmp_path: Path) -> None:
    state, batch, config = a_state()
    other, _, _ = a_state()
    recorder = DynamicsRecorder(tmp_path / "rows.jsonl", Dynamics(every=1, points=list(ALL)), state)
    for _ in range(3):
        torch.manual_seed(state.step)
        take_step(other, batch, config)
        random = torch.get_rng_state()
        torch.manual_seed(state.step)
        with recorder.record_step(lambda: mean_loss(state.separator, batch, config)):
            take_step(state, batch, config)
        assert torch.equal(torch.get_rng_state(), random)
        assert_equal(state.separator.state_dict(), other.separator.state_dict())  # the running means too
        assert_equal(state.optimizer.state_dict(), other.optimizer.state_dict())
        assert_equal(state.clip.state_dict(), other.clip.state_dict())
        for one, two in zip(state.separator.parameters(), other.separator.parameters(), strict=True):
            assert torch.equal(one.grad, two.grad)


def test_a_failed_probe_leaves_no_trace(tmp_path: Path) -> None:
    state, batch, config = a_state()
    recorder = DynamicsRecorder(tmp_path / "rows.jsonl", Dynamics(every=1, points=[0.5]), state)
    expected = {}

    def step_and_fail() -> None:
        def fails() -> torch.Tensor:
            mean_loss(state.separator, batch, config)  # draws a mask and moves the running means
            raise MemoryError

        with recorder.record_step(fails):
            take_step(state, batch, config)
            expected.update({name: value.clone() for name, value in state.separator.state_dict().items()})
            expected["random"] = torch.get_rng_state()

    with pytest.raises(MemoryError):
        step_and_fail()
    assert_equal({**state.separator.state_dict(), "random": torch.get_rng_state()}, expected)


@pytest.mark.parametrize("points", [(0.5,), ALL, (1.0,), (0.1, 0.2)])
@pytest.mark.parametrize("which", range(4))
def test_smoothness_of_a_quadratic_along_an_eigenvector_is_its_eigenvalue(
    points: tuple[float, ...], which: int
) -> None:
    chance = torch.Generator().manual_seed(which)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=chance))
    values = torch.tensor([0.01, 0.5, 3.0, 200.0], dtype=torch.float64)
    matrix = basis @ torch.diag(values) @ basis.T
    start = torch.randn(4, dtype=torch.float64, generator=chance)
    step = 0.3 * basis[:, which]
    parameter = (start + step).requires_grad_()
    unused = torch.zeros(2, requires_grad=True)  # a parameter that the loss does not know changes nothing

    def loss() -> torch.Tensor:
        return parameter @ matrix @ parameter / 2

    step_size, smoothness = local_smoothness(loss, [parameter, unused], [start, torch.zeros(2)], points)
    assert step_size == pytest.approx(0.3, rel=1e-6)
    assert smoothness == pytest.approx(values[which].item(), rel=1e-6)
    assert torch.equal(parameter, start + step)
    assert parameter.grad is None


def test_smoothness_is_the_largest_over_all_points() -> None:
    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)

    def cubic() -> torch.Tensor:  # gradient 3 x^2: from 0 to γ it changes by 3 γ^2, that is 3 γ for each unit
        return parameter.pow(3).sum()

    results = [local_smoothness(cubic, [parameter], [torch.zeros(1, dtype=torch.float64)], points)[1] for points in
             ((0.25,), (0.5,), ALL)]  # fmt: skip
    assert results == pytest.approx([0.75, 1.5, 3.0])


def test_smoothness_is_nan_without_a_step_or_a_finite_gradient() -> None:
    parameter = torch.tensor([2.0], requires_grad=True)
    calls = []

    def loss() -> torch.Tensor:
        calls.append(1)
        return parameter.sum().log()  # at 0 its gradient is infinite

    assert local_smoothness(loss, [parameter], [torch.tensor([2.0])], [0.5]) == (
        0.0,
        pytest.approx(math.nan, nan_ok=True),
    )
    assert not calls
    for start in (0.0, math.nan, math.inf):
        _, smoothness = local_smoothness(loss, [parameter], [torch.tensor([start])], [0.5])
        assert math.isnan(smoothness)
        assert parameter.item() == 2


def test_a_skipped_step_gives_a_row_without_smoothness(tmp_path: Path) -> None:
    state, batch, config = a_state()
    recorder = DynamicsRecorder(tmp_path / "rows.jsonl", Dynamics(every=1, points=[0.5]), state)
    batch.mixture.fill_(math.nan)
    with recorder.record_step(lambda: mean_loss(state.separator, batch, config)):
        take_step(state, batch, config)
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert (row["loss"], row["grad_norm"], row["smoothness"], row["step_size"]) == (None, None, None, 0)


def test_the_loss_environment_restores_buffers() -> None:
    module = nn.BatchNorm1d(2)
    environment = LossEnvironment(module, torch.device("cpu"))
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    module(torch.randn(5, 2))
    assert module.num_batches_tracked == 1
    environment.restore()
    assert_equal(dict(module.state_dict()), expected)


def test_a_resumed_run_cuts_later_records_off_and_continues(small_set: Path, watched: Path, tmp_path: Path) -> None:
    run = run_of(small_set, tmp_path / "run", "train.steps=10", "dynamics.every=2")
    with (run / "dynamics.jsonl").open("a") as file:  # as after a kill: a row past the checkpoint, and half a one
        file.write('{"step": 12, "loss": 1}\n{"step": 14, "lo')
    run_of(small_set, run, "train.steps=20", "dynamics.every=2")
    assert (run / "dynamics.jsonl").read_bytes() == (watched / "dynamics.jsonl").read_bytes()


def test_recording_may_start_in_the_middle_of_a_run(small_set: Path, watched: Path, tmp_path: Path) -> None:
    run = run_of(small_set, tmp_path / "run", "train.steps=10")
    run_of(small_set, run, "train.steps=20", "dynamics.every=2")
    assert rows(run) == rows(watched)[5:]
    with pytest.raises(UserError, match=r"dynamics\.points was \[0\.5\], now \[1"):
        run_of(small_set, run, "train.steps=22", "dynamics.points=[1]")


@pytest.mark.parametrize(
    "text", ["20", "every", "every=", "every=0", "every=-1", "every=2.5", "each=2", "every=2,points=1"]
)
def test_a_wrong_flag_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="every=20"):
        parse_dynamics(text)


def test_a_right_flag_is_parsed() -> None:
    assert parse_dynamics("every=20") == 20
    assert parse_dynamics(" every = 1 ") == 1


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("dynamics.every=0", "dynamics.every"),
        ("dynamics.points=[]", "dynamics.points"),
        ("dynamics.points=[0]", "greater than 0"),
        ("dynamics.points=[0.5, 1.5]", "less than or equal to 1"),
        ("dynamics.points=0.5", "list"),
    ],
)
def test_wrong_settings_are_refused(setting: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        load_config(settings=[setting])


@pytest.mark.parametrize("seed", range(3))
def test_correlation_agrees_with_numpy(seed: int) -> None:
    chance = np.random.default_rng(seed)
    one = chance.normal(size=50)
    other = one * chance.normal() + chance.normal(size=50)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1], rel=1e-12)
    assert correlation(one, 3 * one - 7) == pytest.approx(1, rel=1e-12)
    one[3], other[7] = np.nan, np.inf
    usable = np.isfinite(one) & np.isfinite(other)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one[usable], other[usable])[0, 1], rel=1e-12)


def test_correlation_of_nothing_is_none() -> None:
    assert correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
    assert correlation(np.ones(5), np.arange(5.0)) is None
    assert correlation(np.full(5, np.nan), np.arange(5.0)) is None


def test_dynamics_command_draws_and_summarises_two_runs(small_set: Path, watched: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert train_tiny(small_set, run, "--dynamics", "every=4", "--clip", "none").returncode == 0
    assert [row["step"] for row in rows(run)] == [4, 8, 12, 16, 20]
    output = sepclip("dynamics", watched, run, "--out", out, "--animate", "--json")
    assert output.returncode == 0, output.stderr
    document = json.loads(output.stdout)
    first, second = document["runs"]
    logs = np.log10([[row["grad_norm"], row["smoothness"]] for row in rows(watched)])
    assert first["correlation"] == pytest.approx(np.corrcoef(logs.T)[0, 1], rel=1e-9)
    assert (first["clip"], first["records"], first["steps"]) == ("auto:10", 10, [2, 20])
    assert (second["clip"], second["threshold_at_end"], second["clipped_share"]) == ("none", None, 0)
    assert document["pictures"] == [str(out / f"dynamics.{kind}") for kind in ("svg", "png", "gif")]
    assert sorted(path.name for path in out.iterdir()) == ["dynamics.gif", "dynamics.png", "dynamics.svg"]


def test_dynamics_command_prints_a_table_and_draws_beside_the_records(
    watched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sepclip.commands.dynamics import dynamics

    dynamics(watched)
    output = capsys.readouterr().out
    assert "r, log gradient norm and log smoothness" in output
    assert str(watched / "dynamics.png") in output
    assert (watched / "dynamics.png").is_file()
    assert not (watched / "dynamics.gif").exists()


def test_records_that_cannot_be_drawn_are_refused(small_set: Path, watched: Path, tmp_path: Path, monkeypatch) -> None:
    free = run_of(small_set, tmp_path / "free", "train.steps=1")
    assert_told(sepclip("dynamics", free), "no records", "--dynamics every=20")
    for name, text in (("words", "words\n"), ("short", '{"step": 1}\n'), ("list", "[]\n")):
        run = tmp_path / name
        shutil.copytree(watched, run)
        (run / "dynamics.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"dynamics\.jsonl is damaged"):
            Records.read(run)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'sepclip\[plot\]'"):
        draw_dynamics([Records.read(watched)], tmp_path)

"""Training steps: in parts, averaged, skipped; and the ends of a training."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from sepclip.audio.layout import Layout
from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch, Share
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training.average import WeightAverage
from sepclip.training.hardware import configure_torch, resolve_hardware, resolve_precision
from sepclip.training.loop import train
from sepclip.training.run import Run
from sepclip.training.state import TrainingState, build_separator, seed_dropout
from sepclip.training.step import take_step
from tests.conftest import TINY

EXACT = ("precision=fp64", "model.dropout=0", "model.layers=2")


def a_batch(count: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    loudness = torch.linspace(0.02, 0.3, count, dtype=dtype).reshape(-1, 1, 1)
    sources = loudness * torch.randn(count, 2, 3000, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return Batch(sources.sum(1), sources, tuple(f"mixture {index}" for index in range(count)))


def a_state(*settings: str) -> tuple[TrainingState, object]:
    config = load_config(settings=[*TINY, *settings])
    state = TrainingState.start(config, build_separator(config, Layout(8000, 2)), torch.device("cpu"), 10)
    state.separator.train()
    return state, config


def values(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.separator.state_dict().items()}


def test_shares_cover_everything_once_and_evenly() -> None:
    for total in range(1, 12):
        for count in range(1, total + 1):
            parts = [Share(index, count).of(total) for index in range(count)]
            assert [index for part in parts for index in part] == list(range(total))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    parts = a_batch(5).split(3)
    assert [len(part.mixture) for part in parts] == [1, 2, 2]
    assert sum(part.fraction for part in parts) == pytest.approx(1)
    assert [part.first for part in parts] == [0, 1, 3]
    assert sum((part.names for part in parts), ()) == a_batch(5).names
    assert len(a_batch(2).split(7)) == 2


@pytest.mark.parametrize("parts", [2, 9])
@pytest.mark.parametrize("norm", ["all", "bins", "none"])
def test_a_step_in_parts_is_the_whole_step(parts: int, norm: str) -> None:
    """With uneven parts too, for weights and running statistics, over several steps."""
    settings = (*EXACT, f"model.input_norm={norm}", "loss.name=chimera", "clip=auto:50")
    (one, config), (other, split) = a_state(*settings), a_state(*settings, f"train.accumulate={parts}")
    for step in range(3):
        expected, result = take_step(one, a_batch(5, step), config), take_step(other, a_batch(5, step), split)
        assert result.losses == pytest.approx(expected.losses, rel=1e-9)
        assert result.clipped.norm == pytest.approx(expected.clipped.norm, rel=1e-9)
    for name, value in values(one).items():
        torch.testing.assert_close(values(other)[name], value, rtol=1e-7, atol=1e-10, msg=name)


def test_the_average_follows_its_formula() -> None:
    state, config = a_state("train.average=0.6")
    name, parameter = next(iter(state.separator.named_parameters()))
    expected = parameter.detach().clone()
    for n in range(1, 8):
        take_step(state, a_batch(4, n, torch.float32), config)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * parameter.detach()
    assert isinstance(state.average, WeightAverage)
    result = dict(state.eval_separator.named_parameters())[name]
    torch.testing.assert_close(result, expected)
    assert not torch.equal(result, parameter)
    norm = "network.norm.running_mean"
    assert torch.equal(state.eval_separator.state_dict()[norm], state.separator.state_dict()[norm])


def test_a_norm_above_skip_norm_skips_the_step() -> None:
    state, config = a_state("train.skip_norm=1e-12")
    before = values(state)
    result = take_step(state, a_batch(4, 0, torch.float32), config)
    assert "is above train.skip_norm=1e-12" in result.skip_reason
    assert all(torch.equal(before[name], value) for name, value in values(state).items())
    assert not state.optimizer.state
    assert (state.progress.refused, state.skipped, state.step) == (1, 1, 1)
    state.progress.refused_in_a_row = 99
    with pytest.raises(UserError, match="100 steps in a row were skipped: gradient norm"):
        take_step(state, a_batch(4, 0, torch.float32), config)


def test_a_refused_step_leaves_the_running_statistics_alone() -> None:
    state, config = a_state()
    before, batch = values(state), a_batch(4, 0, torch.float32)
    batch.mixture[1] = math.nan
    assert not take_step(state, batch, config).finite
    assert all(torch.equal(before[name], value) for name, value in values(state).items())
    assert take_step(state, a_batch(4, 0, torch.float32), config).finite


def test_dropout_is_a_function_of_seed_step_and_process() -> None:
    drawn = set()
    for seed in range(2):
        for step in range(3):
            for rank in range(2):
                seed_dropout(seed, step, rank)
                drawn.add(torch.rand(1).item())
                seed_dropout(seed, step, rank)
                assert torch.rand(1).item() in drawn
    assert len(drawn) == 12


def test_float16_scales_its_gradients() -> None:
    """The norm is that of the unscaled gradient; an overflow lowers the scale, and the step is skipped."""
    (half, config), (full, _) = a_state("loss.name=snr"), a_state("loss.name=snr")
    half.scaler = GradScaler("cpu")  # a CPU has no LSTM in float16, but the same scaler
    assert half.scaler.get_scale() == 65536
    norms = [take_step(state, a_batch(4, 0, torch.float32), config).clipped.norm for state in (half, full)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    half.scaler.update(3e38)
    before = values(half)
    assert take_step(half, a_batch(4, 1, torch.float32), config).skip_reason == "gradient is not finite"
    assert all(torch.equal(before[name], value) for name, value in values(half).items())
    assert half.scaler.get_scale() == pytest.approx(1.5e38)
    other, _ = a_state()
    other.scaler = GradScaler("cpu")
    other.restore(half.progress, half.rest())
    assert other.scaler.state_dict() == half.scaler.state_dict()
    with pytest.raises(UserError, match="precision fp16: CPUs do not train in it; use bf16 or fp32"):
        resolve_precision("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="precision tf32: only NVIDIA"):
        resolve_precision("tf32", torch.device("cpu"))


def test_bf16_is_refused_if_the_cpu_has_no_lstm_in_it(monkeypatch) -> None:
    monkeypatch.setattr("sepclip.training.hardware.runs_bf16", lambda: False)
    with pytest.raises(UserError, match="precision bf16: this CPU cannot run an LSTM in it"):
        resolve_precision("bf16", torch.device("cpu"))
    with pytest.raises(UserError, match="use fp32 or auto"):
        configure_torch(
            resolve_hardware(load_config()).model_copy(update={"precision": "bf16"})
        )  # of a run from another machine


def trained(data: Path, run: Path, *settings: str) -> dict[str, object]:
    mixtures = MixtureSet.open(data)
    config = load_config(settings=[*TINY, *settings])
    return train(Run.start_or_resume(run, config, mixtures), mixtures)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_ends_when_validations_no_longer_improve(small_set: Path, tmp_path: Path) -> None:
    settings = ["train.steps=400", "train.valid_every=2", "train.early_stopping=3", "optimizer.learning_rate=1e-12"]
    settings += ["train.best_by=loss", "model.input_norm=none"]  # nothing moves: the first validation is the best
    summary = trained(small_set, tmp_path / "run", *settings)
    assert (summary["steps"], summary["best_step"]) == (8, 2)
    assert rows(tmp_path / "run")[-1]["step"] == 8
    assert trained(small_set, tmp_path / "run", *settings)["already"]
    settings[2] = "train.early_stopping=5"
    assert trained(small_set, tmp_path / "run", *settings)["steps"] == 12


def test_training_ends_when_its_time_is_up(small_set: Path, tmp_path: Path) -> None:
    summary = trained(small_set, tmp_path / "run", "train.steps=100000", "train.max_minutes=0.02")
    assert 1.2 <= summary["seconds"] < 60
    assert 0 < summary["steps"] < 100000
    assert rows(tmp_path / "run")[-1]["valid_loss"] > 0  # validated and saved, as at the last step
    assert trained(small_set, tmp_path / "run", "train.steps=100000", "train.max_minutes=0.02")["already"]


@pytest.mark.parametrize(
    ("by", "name", "sign"), [("loss", "valid_loss", -1), ("si-sdr", "valid_si_sdr_improvement", 1)]
)
def test_the_best_checkpoint_is_the_best_by_the_chosen_score(
    by: str, name: str, sign: int, small_set: Path, tmp_path: Path
) -> None:
    settings = ["train.steps=24", "train.valid_every=3", f"train.best_by={by}", "optimizer.learning_rate=0.03"]
    summary = trained(small_set, tmp_path / "run", *settings)
    scores = {row["step"]: sign * row[name] for row in rows(tmp_path / "run") if name in row}
    assert summary["best_step"] == max(scores, key=scores.get)
    if by == "loss":
        assert summary["best_valid_loss"] == -scores[summary["best_step"]]

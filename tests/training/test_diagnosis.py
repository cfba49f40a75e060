"""A training that fails reports the reason."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.training import diagnosis
from sepclip.training.diagnosis import (
    NonFiniteReporter,
    ProgressMonitor,
    find_nonfinite,
    out_of_memory_as_user_error,
    repeat_step,
)
from sepclip.training.distributed import ALONE
from sepclip.training.loop import train
from sepclip.training.run import Run
from sepclip.training.state import seed_dropout
from sepclip.training.step import StepResult, take_step
from tests.conftest import TINY, train_tiny
from tests.training.test_step import a_batch, a_state, values


def broken(count: int = 4, *places: int) -> Batch:
    batch = a_batch(count, 0, torch.float32)
    for place in places:
        batch.mixture[place, 100] = math.inf
    return batch


def test_a_non_finite_step_names_mixtures_and_tensors_and_can_be_repeated(tmp_path: Path, capsys) -> None:
    state, config = a_state("model.layers=2", "model.dropout=0.5", "model.input_norm=none")
    before = values(state)
    reporter = NonFiniteReporter(tmp_path, config, ALONE)
    batch = broken(4, 2)
    seed_dropout(config.seed, 0)
    reporter.check(take_step(state, batch, config), batch, state)
    output = capsys.readouterr().err
    kept = tmp_path / "nonfinite" / "step-00000001.pt"
    assert "step 1: loss or gradient is not finite in mixtures mixture 2; " in output
    assert "gradients of network.recurrent.0" in output
    assert str(kept) in output
    assert all(torch.equal(before[name], value) for name, value in values(state).items())
    cause = repeat_step(kept)
    assert cause.mixtures == ["mixture 2"]
    assert cause == find_nonfinite(state.separator, batch, config)
    assert diagnosis.main([str(kept)]) == 0
    assert "mixtures mixture 2" in capsys.readouterr().err


def test_a_non_finite_gradient_is_traced_to_its_mixture() -> None:
    """The loss is finite, but not the gradient of one mixture, which only a pass for each mixture reveals."""
    state, config = a_state("model.input_norm=none", "model.input_level_dbfs=null")
    batch = a_batch(4, 0, torch.float32)  # each louder than the one before
    peaks = state.separator.stft.forward(batch.mixture).abs().amax((1, 2))
    limit = (peaks[2] + peaks[3]) / 2

    def spoil(_, inputs: tuple[torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
        loud = (inputs[0].amax((1, 2)) > limit).reshape(-1, 1, 1, 1)
        outputs["mask"].register_hook(lambda gradient: torch.where(loud, torch.inf, gradient))

    state.separator.network.register_forward_hook(spoil)
    cause = find_nonfinite(state.separator, batch, config)
    assert cause.mixtures == ["mixture 3"]
    assert not cause.outputs
    assert "network.recurrent.0.weight_ih_l0" in cause.gradients


def test_only_the_first_few_steps_are_saved(tmp_path: Path, capsys) -> None:
    state, config = a_state("model.input_norm=none")
    reporter, batch = NonFiniteReporter(tmp_path, config, ALONE), broken(3, 0)
    for _ in range(5):
        reporter.check(take_step(state, batch, config), batch, state)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 3
    assert capsys.readouterr().err.count("is not finite in mixtures") == 3


def test_a_stop_names_the_option_to_continue(small_set: Path, tmp_path: Path) -> None:
    data = MixtureSet.open(small_set)
    settings = [*TINY, "train.steps=50", "optimizer.learning_rate=3e38", "train.on_nonfinite=stop"]
    with pytest.raises(UserError) as error:
        train(Run.start_or_resume(tmp_path / "run", load_config(settings=settings), data), data)
    (kept,) = (tmp_path / "run" / "nonfinite").iterdir()
    output = str(error.value)
    names = {recipe.name for recipe in data.recipes("tr")}
    assert any(name in output for name in names)
    assert str(kept) in output
    assert "--on-nonfinite skip" in output
    assert set(repeat_step(kept).mixtures) <= names


def test_a_file_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not contain a training step"):
        repeat_step(tmp_path / "nothing.pt")
    torch.save({"config": "a: 1"}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="does not contain a training step"):
        repeat_step(tmp_path / "other.pt")


def test_an_overflow_that_the_scaler_expects_is_not_reported(tmp_path: Path, capsys) -> None:
    state, config = a_state("loss.name=snr")
    state.scaler = GradScaler("cpu", init_scale=3e38)
    batch = a_batch(4, 0, torch.float32)
    result = take_step(state, batch, config)
    assert result.skip_reason
    capsys.readouterr()
    NonFiniteReporter(tmp_path, config, ALONE).check(result, batch, state)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by RLIMIT_AS")
def test_an_out_of_memory_error_names_the_settings() -> None:
    config = load_config(settings=["device=cpu", "precision=fp32", "train.accumulate=2"])
    with pytest.raises(UserError) as error, out_of_memory_as_user_error(config):
        torch.empty(2**60, dtype=torch.uint8)
    output = str(error.value)
    for word in ("out of memory", "25 excerpts of 400 frames", "train.accumulate=4", "data.batch_size", "memory_gib"):
        assert word in output
    with pytest.raises(UserError, match="out of memory"), out_of_memory_as_user_error(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    with pytest.raises(RuntimeError, match="else"), out_of_memory_as_user_error(config):
        raise RuntimeError("something else")


def monitor_losses(losses: list[float], *settings: str, waited: float = 0.0) -> None:
    state, config = a_state(*settings)
    monitor = ProgressMonitor(config)
    clipped = take_step(state, a_batch(2, 0, torch.float32), config).clipped
    for step, loss in enumerate(losses, 1):
        state.progress.step = step
        monitor.check(state, StepResult([loss], clipped), waited, 1.0)


def test_a_stalled_loss_is_reported_once(capsys) -> None:
    monitor_losses([0.5 + 0.001 * (step % 2) for step in range(100)], "train.stall_steps=50")
    output = capsys.readouterr().err
    assert output.count("the loss has not moved in 50 steps (0.5005, now 0.5005)") == 1
    monitor_losses([1 / step for step in range(1, 100)], "train.stall_steps=50")  # falls
    monitor_losses([-step for step in range(1, 100)], "train.stall_steps=50")  # falls below zero
    monitor_losses([1.0] * 100, "train.stall_steps=null")
    assert "has not moved" not in capsys.readouterr().err


def test_a_starved_device_is_reported_once(capsys) -> None:
    monitor_losses([1 / step for step in range(1, 40)], waited=0.5)
    assert capsys.readouterr().err.count("50% of the time is spent waiting for audio") == 1
    monitor_losses([1 / step for step in range(1, 40)], waited=0.1)
    monitor_losses([1 / step for step in range(1, 9)], waited=0.9)  # too short a time to tell
    assert "waiting for audio" not in capsys.readouterr().err


def test_mps_is_refused_with_a_message(small_set: Path, tmp_path: Path) -> None:
    result = train_tiny(small_set, tmp_path / "run", "--device", "mps")
    assert result.returncode == 1
    assert "Apple's mps is not supported" in result.stderr

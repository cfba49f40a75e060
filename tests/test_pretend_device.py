"""Training, validation and separation on the pretended device: nothing mixes devices, waits or vanishes.

Everything runs over the tables of losses, networks and rules, so that a new one is covered when it is added.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from sepclip.audio.layout import Layout
from sepclip.clip import RULES
from sepclip.config.load import load_config
from sepclip.config.schema import Config
from sepclip.mixing.batches import Batch
from sepclip.model import recurrence
from sepclip.model.clustering import cluster_masks
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.model.losses import LOSSES
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import losses_of
from sepclip.separation.recording import WaveRecording
from sepclip.separation.stream import SeparatedStream, encode_together, separate_wave
from sepclip.training import checkpoint
from sepclip.training.dynamics import DynamicsRecorder
from sepclip.training.feed import Feed
from sepclip.training.state import TrainingState, build_separator, seed_dropout
from sepclip.training.step import mean_loss, take_step
from sepclip.training.validation import validate
from sepclip.training.watchdog import STEPS, ZeroGradientWatchdog
from tests import pretend_device
from tests.model.build import SMALL
from tests.pretend_device import NAME, pretended

pytestmark = pytest.mark.skipif(not pretend_device.AVAILABLE, reason=pretend_device.WHY_NOT)
CPU, DEVICE = "cpu", f"{NAME}:0"  # as text, since torch knows the second one only once it is registered
TRAINABLE = [(network, loss) for network in NETWORKS for loss in losses_of(network)]
# a value with which each rule acts; any other rule is tried without a value, or with 1
RULE_VALUES = {"none": None, "auto": 10, "norm": 1e-4, "value": 1e-5, "agc": 0.01, "zclip": 2, "pascanu": 2}
RULE_VARIANTS = [name if (v := RULE_VALUES.get(name, 1)) is None else f"{name}:{v}" for name in RULES]
RULE_VARIANTS += ["auto:10,per=layer", "auto:10,per=tensor"]


def a_config(*settings: str, network: str = "blstm") -> Config:
    """Return a configuration of a small network that differs between CPU and device in rounding only."""
    section = NETWORKS[network].section
    small = [f"{section}.{key}={value}" for key, value in SMALL.get(network, {}).items()]
    common = ("precision=fp32", "optimizer.schedule=constant", f"model.network={network}")
    return load_config(settings=[*common, *small, *settings])


def a_state(config: Config, device: str) -> TrainingState:
    separator = build_separator(config, Layout(8000, 2))
    state = TrainingState.start(config, separator, torch.device(device), 10)
    state.separator.train()
    return state


def a_batch(seed: int = 0, count: int = 4, samples: int = 3000) -> Batch:
    sources = 0.1 * torch.randn(count, 2, samples, generator=torch.Generator().manual_seed(seed))
    return Batch(sources.sum(1), sources, tuple("abcdefgh"[:count]))


def assert_same_step(config: Config, steps: int = 2) -> list[pretend_device.Device]:
    """Take steps on the CPU and on the device, compare them, and return what each step on the device did."""
    expected = a_state(config, CPU)
    found = []
    with pretended():
        state = a_state(config, DEVICE)
    for step in range(steps):
        seed_dropout(0, step)
        want = take_step(expected, a_batch(step), config)
        with pretended() as device:
            seed_dropout(0, step)
            result = take_step(state, a_batch(step).to(DEVICE), config)
        assert result.losses == pytest.approx(want.losses, rel=1e-3, abs=1e-4)
        assert result.clipped.norm == pytest.approx(want.clipped.norm, rel=2e-2)
        found.append(device)
    return found


@pytest.mark.parametrize(("network", "loss"), TRAINABLE)
def test_a_step_of_each_network_and_loss_waits_once(network: str, loss: str) -> None:
    for device in assert_same_step(a_config(f"loss.name={loss}", network=network)):
        assert sum(device.waits.values()) == 1, device.waits
        assert next(iter(device.waits))[1].startswith("clip.py")


@pytest.mark.parametrize("rule", RULE_VARIANTS)
def test_a_step_with_each_rule_waits_once(rule: str) -> None:
    for device in assert_same_step(a_config(f"clip={rule}")):
        assert sum(device.waits.values()) == 1, device.waits


@pytest.mark.parametrize(
    "settings",
    [
        ("train.accumulate=2", "model.input_norm=bins"),
        ("train.average=0.9", "model.layers=2"),
        ("model.recurrence=gru",),
        ("loss.name=chimera", "loss.clustering=dc", "loss.weights=vad"),
        ("loss.name=mi", "loss.target=psa"),
        ("precision=bf16", "model.layers=2", "model.dropout=0.3"),
        ("precision=fp16", "loss.name=snr"),
        ("optimizer.name=sgd",),
    ],
    ids=" ".join,
)
def test_a_step_with_other_settings_waits_once(settings: tuple[str, ...]) -> None:
    config = a_config(*settings)
    with pretended():
        state = a_state(config, DEVICE)
        take_step(state, a_batch().to(DEVICE), config)
    with pretended() as device:
        take_step(state, a_batch(1).to(DEVICE), config)
    assert sum(device.waits.values()) == 1, device.waits


def test_results_that_are_read_too_early_are_noticed() -> None:
    """The device itself: a copy that does not block has no content before the host waits."""
    with pretended() as device:
        copy = torch.ones(2, device=DEVICE).to("cpu", non_blocking=True)
        assert copy.isnan().all()
        torch.zeros(1, device=DEVICE).item()
        assert torch.equal(copy, torch.ones(2))
    with pytest.raises(AssertionError, match="on pretend and on the CPU"), pretended():
        torch.ones(2, device=DEVICE) + torch.ones(2)
    assert sum(device.waits.values()) == 1


@pytest.mark.parametrize("loss", ["wkm", "chimera", "dc", "mi", "snr"])
@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_an_excerpt_that_is_not_finite_skips_the_step(loss: str, device: str) -> None:
    config = a_config(f"loss.name={loss}")
    with pretended():
        state = a_state(config, device)
        batch = a_batch()
        batch.mixture[1, 100] = float("nan")
        result = take_step(state, batch.to(device), config)
        assert result.skip_reason
        assert take_step(state, a_batch().to(device), config).finite


def recurrent_gradients(state: TrainingState, batch: Batch, config: Config) -> dict[str, torch.Tensor]:
    """Return the gradient of each tensor of the recurrent layers, in the precision of ``config``."""
    names, weights = zip(*(x for x in state.separator.named_parameters() if "recurrent" in x[0]), strict=True)
    gradients = torch.autograd.grad(mean_loss(state.separator, batch, config), weights)
    return {name: gradient.cpu().double() for name, gradient in zip(names, gradients, strict=True)}


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-300))


@pytest.mark.parametrize("loss", losses_of("blstm"))
def test_recurrent_layers_train_in_bf16_as_in_fp32(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 30 steps of a training, with and without cuDNN's support of bfloat16; float16 gradients do not pass."""
    settings = (f"loss.name={loss}", "model.layers=2", "model.hidden=32")
    fp32, bf16 = a_config(*settings), a_config(*settings, "precision=bf16")
    with pretended():
        state = a_state(fp32, DEVICE)
        for step in range(30):
            batch = a_batch(step, 2, 100 * 64).to(DEVICE)
            want = recurrent_gradients(state, batch, fp32)
            for takes_bf16 in (False, True):
                monkeypatch.setattr(recurrence, "takes_bf16", lambda device, answer=takes_bf16: answer)
                for name, gradient in recurrent_gradients(state, batch, bf16).items():
                    assert cosine(want[name], gradient) > 0.99, (step, takes_bf16, name)
            if step == 0:  # the fault itself, which must be visible here: float16 without a scaler
                with monkeypatch.context() as patch:
                    patch.setattr(recurrence, "_is_cast_wrongly", lambda device: False)
                    cast = recurrent_gradients(state, batch, bf16)
                worst = min(cosine(want[name], cast[name]) for name in want)
            take_step(state, batch, fp32)
    if loss == "mi":
        assert worst < 0.99

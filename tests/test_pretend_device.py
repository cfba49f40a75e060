"""Training, validation and separation on the pretended device: nothing mixes devices, waits or vanishes.

Everything runs over the tables of losses, networks and rules, so that a new one is covered when it is added.
"""

import json
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


def a_state(config: Config, device: str, *, fixed_order: bool = False) -> TrainingState:
    separator = build_separator(config, Layout(8000, 2, fixed_order=fixed_order))
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
        # in a fixed order if the loss allows it: two orders that are equally good have opposite gradients
        state = a_state(fp32, DEVICE, fixed_order=LOSSES[loss].separates_by != "embedding")
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


def test_the_watchdog_names_what_does_not_learn(capsys: pytest.CaptureFixture[str]) -> None:
    for device in (CPU, DEVICE):
        config = a_config("model.layers=2")
        with pretended() as log:
            state = a_state(config, device)
            watchdog = ZeroGradientWatchdog(state.separator)
            dead = state.separator.network.recurrent[1].weight_hh_l0
            for step in range(STEPS + 2):
                take_step(state, a_batch(step, 2, 600).to(device), config)
                dead.grad = None if step % 2 else torch.zeros_like(dead)
                before = sum(log.waits.values())
                watchdog.note()
                assert sum(log.waits.values()) == before
                if step == STEPS - 2:
                    watchdog.report()
                    assert "exactly zero" not in capsys.readouterr().err
            watchdog.report()
            watchdog.report()
        message = " ".join(capsys.readouterr().err.split())
        assert message.count("network.recurrent.1.weight_hh_l0 was exactly zero for 20 steps in a row") == 1
        assert message.count("network.") == 1


def test_a_gradient_that_is_zero_now_and_then_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    layer = torch.nn.Linear(200, 2)
    watchdog = ZeroGradientWatchdog(layer)
    for step in range(3 * STEPS):
        layer.weight.grad, layer.bias.grad = torch.zeros(2, 200), torch.ones(2)
        layer.weight.grad[1, 150] = 1e-40 if step % STEPS == STEPS - 1 else 0  # beyond the first values, and tiny
        watchdog.note()
    watchdog.report()
    assert not capsys.readouterr().err


SEPARATED = [(network, loss) for network, loss in TRAINABLE if loss in ("mi", "dc", "si-sdr", "snr")]


@pytest.mark.parametrize(("network", "loss"), SEPARATED)
@pytest.mark.parametrize("seconds", [2, 65])
def test_separation_gives_the_result_of_the_cpu(network: str, loss: str, seconds: int) -> None:
    wave = 0.1 * torch.randn(1, 8000 * seconds, generator=torch.Generator().manual_seed(0))
    config = a_config(f"loss.name={loss}", network=network)
    want = separate_wave(BlockSeparator(build_separator(config, Layout(8000, 2)).eval()), wave, 8000, torch.device(CPU))
    torch.use_deterministic_algorithms(True)
    try:
        with pretended():
            separator = BlockSeparator(build_separator(config, Layout(8000, 2)).to(DEVICE).eval())
            result = separate_wave(separator, wave, 8000, torch.device(DEVICE))
    finally:
        torch.use_deterministic_algorithms(False)
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result, want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("takes_bf16", [False, True])
def test_short_recordings_of_different_lengths_run_together_in_bf16(
    takes_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrence, "takes_bf16", lambda device: takes_bf16)
    waves = [0.1 * torch.randn(1, n, generator=torch.Generator().manual_seed(n)) for n in (8000, 5000)]
    config = a_config()
    results = {}
    with pretended():
        for device, precision in ((CPU, "fp32"), (DEVICE, "bf16")):
            model = build_separator(config, Layout(8000, 2)).to(device).eval()
            separator = BlockSeparator(model, InferenceOptions(precision=precision))
            streams = [SeparatedStream(separator, WaveRecording(wave, 8000), torch.device(device)) for wave in waves]
            encode_together(streams)
            results[device] = [torch.cat(list(stream.chunks()), -1) for stream in streams]
    for got, want in zip(results[DEVICE], results[CPU], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=2e-3)


@pytest.mark.parametrize("masks", ["binary", "soft"])
@pytest.mark.parametrize("fit", ["vad", "loudest"])
def test_the_clusters_of_a_batch_are_those_of_each_mixture_alone(masks: str, fit: str) -> None:
    """A batch on the device, with different numbers of active bins and one silent mixture, in few waits."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(6, 50, 129, 8, generator=generator) + 0.3 * torch.eye(8)[torch.arange(50) % 3, None]
    magnitude = 10 ** (-torch.arange(6.0).view(-1, 1, 1) * torch.rand(6, 50, 129, generator=generator))
    magnitude[5] = 0
    settings = load_config(settings=[f"kmeans.masks={masks}", f"kmeans.fit={fit}"]).kmeans
    want = cluster_masks(vectors, magnitude, 3, settings=settings, seed=1)
    with pretended() as device:
        result = cluster_masks(vectors.to(DEVICE), magnitude.to(DEVICE), 3, settings=settings, seed=1).cpu()
    torch.testing.assert_close(result, want, rtol=0, atol=1e-3)
    assert sum(device.waits.values()) <= 2 + 2 + 2 * 13 + 1  # the counts, k-means++, at most 100 iterations twice


class _Crops(list):  # type: ignore[type-arg]
    total = 4


@pytest.mark.parametrize("average", ["null", "0.9"])
def test_validation_gives_the_scores_of_the_cpu(average: str) -> None:
    config, scores = a_config(f"train.average={average}", "loss.name=dc"), {}
    with pretended():
        for device in (CPU, DEVICE):
            state = a_state(config, device)
            scores[device] = validate(state.eval_separator, _Crops([a_batch(3)]), config, state.device)  # type: ignore[arg-type]
    assert scores[DEVICE] == pytest.approx(scores[CPU], rel=1e-2, abs=0.05)


def test_the_average_keeps_the_weights_of_a_layer_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    flattened: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.RNNBase, "flatten_parameters", lambda layer: flattened.append(layer))
    state = a_state(a_config("train.average=0.9", "model.layers=2"), CPU)
    assert state.average is not None
    assert {id(layer) for layer in state.average.separator.network.recurrent} <= set(map(id, flattened))


def test_a_checkpoint_of_the_device_continues_on_it(tmp_path: Path) -> None:
    config = a_config("train.average=0.9", "clip=auto:50")
    with pretended():
        one, other = a_state(config, DEVICE), a_state(config, DEVICE)
        take_step(one, a_batch().to(DEVICE), config)
        checkpoint.save(tmp_path / "last", one)
        checkpoint.load(tmp_path / "last", other)
        expected, result = (take_step(state, a_batch(1).to(DEVICE), config) for state in (one, other))
    assert result == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_dynamics_are_recorded_in_every_precision(precision: str, tmp_path: Path) -> None:
    config = a_config("dynamics.every=1", f"precision={precision}", "model.hidden=32")
    with pretended():
        state = a_state(config, DEVICE)
        recorder = DynamicsRecorder(tmp_path / "dynamics.jsonl", config.dynamics, state)
        for step in range(3):
            batch = a_batch(step, 4, 100 * 64).to(DEVICE)
            with recorder.record_step(partial(mean_loss, state.separator, batch, config)):
                take_step(state, batch, config)
    rows = [json.loads(line) for line in (tmp_path / "dynamics.jsonl").read_text().splitlines()]
    reference = a_state(a_config("dynamics.every=1", "model.hidden=32"), CPU)
    recorder = DynamicsRecorder(tmp_path / "reference.jsonl", config.dynamics, reference)
    batch = a_batch(0, 4, 100 * 64)
    with recorder.record_step(partial(mean_loss, reference.separator, batch, reference_config := a_config())):
        take_step(reference, batch, reference_config)
    want = json.loads((tmp_path / "reference.jsonl").read_text())
    assert rows[0]["smoothness"] == pytest.approx(want["smoothness"], rel=0.2)


def test_the_feed_copies_batches_ahead() -> None:
    with pretended(), Feed(a_batch, 4, torch.device(DEVICE), torch.float32) as feed:
        for step in range(4):
            batch = feed.batch(step)
            assert batch.mixture.device == torch.device(DEVICE)
            assert torch.equal(batch.mixture.cpu(), a_batch(step).mixture)

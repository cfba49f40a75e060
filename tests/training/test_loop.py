import json
import math
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sepclip.config.load import load_config
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.losses import LOSSES
from sepclip.training.loop import train
from sepclip.training.run import Run
from sepclip.training.step import compute_loss
from sepclip.training.validation import validate
from tests.conftest import SPEECH, TINY, assert_told, sepclip, train_tiny
from tests.processes import kill, wait_until
from tests.processor import NEEDS_BF16


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Path) -> list[dict[str, float]]:
    timings = {"seconds", "steps_per_second", "waited_share"}
    return [{key: value for key, value in row.items() if key not in timings} for row in rows(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "checkpoints" / "last" / "weights.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_real_speech_is_learned(small_set: Path, tmp_path: Path) -> None:
    settings = ["model.layers=1", "model.hidden=64", "data.segment_frames=150", "data.batch_size=8"]
    settings += ["train.valid_every=30", "train.steps=120"]
    data = MixtureSet.open(small_set)
    summary = train(Run.start_or_resume(tmp_path / "run", load_config("demo", settings), data), data)
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    assert 0 < summary["clipped_share"] < 1
    assert summary["best_valid_si_sdr_improvement"] > 1


SMALL_CONV_TASNET = ("filters=64", "bottleneck=24", "hidden=48", "blocks=4", "repeats=1")
# the least that each loss can be with 20 dimensions and 2 sources; those in dB have none
LEAST = {"mi": 0, "dc": 0, "wkm": 18, "chimera": 0.25 * 18}


@pytest.mark.parametrize(("network", "loss"), [*(("blstm", loss) for loss in LOSSES), ("conv-tasnet", "si-sdr")])
def test_every_loss_falls_on_speech_that_was_not_trained_on(
    network: str, loss: str, small_set: Path, tmp_path: Path
) -> None:
    settings = ["model.layers=1", "model.hidden=64", "data.segment_frames=100", "data.batch_size=8"]
    settings += [f"conv_tasnet.{size}" for size in SMALL_CONV_TASNET]
    settings += ["optimizer.schedule=constant", "train.valid_every=10", "train.steps=30"]
    settings += [f"loss.name={loss}", f"model.network={network}"]
    data = MixtureSet.open(small_set)
    summary = train(Run.start_or_resume(tmp_path / "run", load_config("demo", settings), data), data)
    found_rows = rows(tmp_path / "run")
    first, *_, last = [row["valid_loss"] for row in found_rows if "valid_loss" in row]
    assert last < first - 0.5 if loss not in LEAST else last - LEAST[loss] < 0.9 * (first - LEAST[loss])
    assert summary["skipped_steps"] == 0
    assert all(row["grad_norm"] > 0 for row in found_rows if "grad_norm" in row)


def test_conv_tasnet_trains_scores_and_separates(small_set: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    network = [part for size in SMALL_CONV_TASNET for part in ("--set", f"conv_tasnet.{size}")]
    arguments = (
        "train",
        small_set,
        "--run",
        run,
        "--config",
        "conv-tasnet",
        *network,
        "--set",
        "data.segment_frames=60",
    )
    assert_told(sepclip(*arguments, "--steps", 4, "--loss", "dc"), "conv-tasnet", "loss dc", "snr or si-sdr")
    trained = sepclip(*arguments, "--steps", 4)
    assert trained.returncode == 0, trained.stderr
    assert "--clip norm:5" in trained.stdout
    scores = json.loads(sepclip("eval", run, small_set, "--limit", 1, "--json").stdout)
    assert scores["summary"]["count"]["si_sdr"] == scores["summary"]["count"]["sdr"] == 2
    result = sepclip("separate", run, SPEECH / "en-f" / "0000.flac", "--out", out)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.glob("*.wav")) == ["0000_s1.wav", "0000_s2.wav"]


def test_a_run_writes_its_documented_files(tiny_run: Path) -> None:
    result = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    checkpoints = {
        f"checkpoints/{which}/{name}"
        for which in ("best", "last")
        for name in ("weights.safetensors", "state.pt", "state.json")
    }
    assert {"config.yaml", "environment.json", "metrics.jsonl", *checkpoints} == result
    last = rows(tiny_run)[-2]
    assert {"step", "loss", "grad_norm", "threshold", "clipped_share", "learning_rate"} <= set(last)
    assert rows(tiny_run)[-1]["valid_si_sdr_improvement"] is not None
    assert torch.load(tiny_run / "checkpoints/last/state.pt", weights_only=True)["clip"]["rule"] == "auto:10"


def test_the_first_threshold_is_the_first_norm(small_set: Path, tmp_path: Path) -> None:
    result = train_tiny(small_set, tmp_path / "run", "--set", "train.log_every=1", "--json")
    first, *others = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert first["threshold"] == first["grad_norm"]
    assert first["clipped_share"] == 0
    assert json.loads(result.stdout)["clipped_share"] == others[-1]["clipped_share"] > 0


def test_the_most_clipped_layers_are_reported(small_set: Path, tmp_path: Path) -> None:
    settings = ["--clip", "auto:25,window=8,per=layer", "--set", "model.layers=2", "--set", "train.log_every=1"]
    result = train_tiny(small_set, tmp_path / "run", *settings, "--json")
    shares = json.loads(result.stdout)["clipped_share_of"]
    layers = {"network.norm", "network.recurrent.0.l0", "network.recurrent.1.l0", "network.heads.mask"}
    assert set(shares) == layers
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert 0 < max(shares.values()) <= 1
    last = [row for row in rows(tmp_path / "run") if "loss" in row][-1]
    assert last["most_clipped"] == dict(list(shares.items())[:3])
    again = train_tiny(small_set, tmp_path / "run", *settings)
    assert f"--clip auto:25,window=8,per=layer clipped {last['clipped_share']:.0%} of the steps (norm " in again.stdout
    assert f"norm {last['grad_norm']:.2g} at the end, threshold {last['threshold']:.2g}): " in again.stdout
    assert all(f"{layer} {share:.0%}" in again.stdout for layer, share in shares.items())


@pytest.mark.parametrize(
    "rule", ["value:1e-06", "agc:1e-05,but=heads", "zclip:1,warmup=5", "pascanu:0.5,warmup=5", "logsigma:1,warmup=5"]
)
def test_every_kind_of_rule_trains(rule: str, small_set: Path, tmp_path: Path) -> None:
    result = train_tiny(small_set, tmp_path / "run", "--clip", rule, "--json")
    summary = json.loads(result.stdout)
    assert summary["clip"] == rule
    assert summary["clipped_share"] + summary["skipped_steps"] > 0
    assert summary["skipped_steps"] == 0 or "is above" in result.stderr
    assert all(row["loss"] > 0 for row in rows(tmp_path / "run") if "loss" in row)


def test_a_finished_run_is_not_trained_again(small_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_bytes()
    again = train_tiny(small_set, run)
    assert again.returncode == 0
    assert "already trained" in again.stdout
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("mode", ["--dynamic", "--no-dynamic"])
def test_a_killed_and_resumed_run_equals_the_undisturbed_one(mode: str, small_set: Path, tmp_path: Path) -> None:
    chance = random.Random(mode)
    more = [mode, "--steps", 60, "--set", "train.save_every=0.01s", "--set", "model.dropout=0.3"]
    more += ["--set", "model.layers=2"]
    more += ["--clip", "auto:10" if mode == "--dynamic" else "auto:30,window=20,per=layer"]
    assert train_tiny(small_set, tmp_path / "whole", *more).returncode == 0
    run = tmp_path / "killed"
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = [sys.executable, "-m", "sepclip", "train", small_set, "--run", run, *settings, *more]
    resumed_at = []
    for _ in range(3):
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        target = (resumed_at[-1] if resumed_at else 0) + chance.randint(3, 12)
        # on a slow day it may end before it reaches the target
        wait_until(
            lambda target=target, process=process: step_of(run) >= target or process.poll() is not None,
            seconds=300,
            pause=0.002,
        )
        kill(process)
        resumed_at.append(step_of(run))
    assert 0 < resumed_at[0] < resumed_at[-1] < 60
    assert train_tiny(small_set, run, *more).returncode == 0
    assert_same_run(run, tmp_path / "whole")


def step_of(run: Path) -> int:
    try:
        return int(json.loads((run / "checkpoints" / "last" / "state.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first(number: int, code: int, small_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = [sys.executable, "-m", "sepclip", "train", small_set, "--run", run, "--steps", 100000, *settings]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: step_of(run) >= 10, process)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == code
    assert "saved" in output
    assert "Traceback" not in output
    assert step_of(run) >= rows(run)[-1]["step"]
    assert step_of(run) > 10


def test_a_run_is_trained_by_one_process_at_a_time(small_set: Path, tiny_run: Path) -> None:
    before = (tiny_run / "config.yaml").read_bytes()
    with Run.open(tiny_run).lock():
        for more in ((), ("--steps", 40)):
            assert_told(train_tiny(small_set, tiny_run, *more), "is being trained by another process")
    assert (tiny_run / "config.yaml").read_bytes() == before


def test_a_run_that_failed_before_its_first_step_may_be_started_again(small_set: Path, tmp_path: Path) -> None:
    run, nowhere = tmp_path / "run", tmp_path / "nowhere"
    assert_told(train_tiny(small_set, run, "--dynamic", "--root", nowhere), "say with --root")
    assert train_tiny(small_set, run).returncode == 0


def test_epochs_override_the_steps_of_a_recipe(small_set: Path, tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    result = sepclip(
        "train", small_set, "--run", tmp_path / "run", "--config", "demo", *settings, "--epochs", 2, "--json"
    )  # fmt: skip
    assert json.loads(result.stdout)["steps"] == 2 * (12 // 4)
    assert_told(train_tiny(small_set, tmp_path / "run", "--epochs", 2), "--steps or --epochs", code=2)


def test_a_changed_configuration_is_refused_and_named(small_set: Path, tiny_run: Path) -> None:
    assert_told(train_tiny(small_set, tiny_run, "--clip", "none"), "clip was auto:10, now none", "--run")


def test_more_steps_continue_a_finished_run(small_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert train_tiny(small_set, run, "--steps", 30).returncode == 0
    assert step_of(run) == 30


def test_other_mixtures_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    result = sepclip("prepare", "speakers", SPEECH, other, "--tr", 4, "--cv", 2, "--tt", 2, "--no-audio")
    assert result.returncode == 0
    assert_told(train_tiny(other, tiny_run), "other mixtures")


@pytest.mark.parametrize(("loss", "mode"), [("mi", "--dynamic"), ("dc", "--no-dynamic")])
def test_three_voices_are_trained_from_recipes_without_audio(loss: str, mode: str, tmp_path: Path) -> None:
    data, run = tmp_path / "set", tmp_path / "run"
    result = sepclip(
        "prepare", "speakers", SPEECH, data, "--sources", 3, "--tr", 6, "--cv", 2, "--tt", 2, "--no-audio"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert train_tiny(data, run, "--loss", loss, mode).returncode == 0
    scores = json.loads(sepclip("eval", run, data, "--json").stdout)
    assert [row["source"] for row in scores["rows"]] == ["s1", "s2", "s3"] * 2
    assert scores["summary"]["count"]["si_sdr"] == 6


def test_a_damaged_wave_is_named(small_set: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    shutil.copytree(small_set, data)
    wave = next((data / "tr" / "s1").iterdir())
    wave.write_bytes(wave.read_bytes()[:1000])
    assert_told(train_tiny(data, tmp_path / "run"), wave.name, "truncated")


def test_folders_that_are_not_sets_or_runs_are_refused(small_set: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "thesis.tex").write_text("x")
    assert_told(train_tiny(tmp_path / "missing", tmp_path / "run"), "no such folder")
    assert_told(train_tiny(tmp_path / "empty", tmp_path / "run"), "contains no mixture set", "sepclip prepare")
    assert_told(train_tiny(tmp_path / "file", tmp_path / "run"), "is a file, not a folder")
    assert_told(train_tiny(small_set, tmp_path / "file"), "is a file")
    assert_told(train_tiny(small_set, busy), "already contains something else (thesis.tex)")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_refused(small_set: Path, tmp_path: Path) -> None:
    assert_told(train_tiny(small_set, tmp_path / "run", "--device", "cuda"), "no CUDA device", "--device cpu")


def test_a_moved_corpus_works_with_root(tmp_path: Path) -> None:
    corpus, moved = tmp_path / "corpus", tmp_path / "moved"
    for voice in ("en-f", "ca-m"):
        shutil.copytree(SPEECH / voice, corpus / voice)
    result = sepclip("prepare", "speakers", corpus, tmp_path / "set", "--tr", 4, "--cv", 2, "--tt", 2, "--no-audio")
    assert result.returncode == 0, result.stderr
    corpus.rename(moved)
    assert_told(train_tiny(tmp_path / "set", tmp_path / "run"), str(corpus), "--root")
    assert train_tiny(tmp_path / "set", tmp_path / "run", "--root", moved).returncode == 0


def test_non_finite_weights_stop_the_training_with_a_message(small_set: Path, tmp_path: Path) -> None:
    data = MixtureSet.open(small_set)
    config = load_config(settings=[*TINY, "train.steps=500", "optimizer.learning_rate=3e38"])
    from sepclip.errors import UserError

    with pytest.raises(UserError, match=r"stopped at step \d+: 100 steps in a row were skipped"):
        train(Run.start_or_resume(tmp_path / "run", config, data), data)


def test_validation_changes_nothing(small_set: Path, tiny_run: Path) -> None:
    from sepclip.mixing.validation_crops import ValidationCrops

    data, run = MixtureSet.open(small_set), Run.open(tiny_run)
    model = run.separator(torch.device("cpu")).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    crops = ValidationCrops(data, 5000, 2)
    first = validate(model, crops, run.config, torch.device("cpu"))
    assert first == validate(model, crops, run.config, torch.device("cpu"))
    assert all(math.isfinite(value) for value in first.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    loss = compute_loss(model, next(iter(crops)), run.config).loss
    assert loss.shape == (2,)


@NEEDS_BF16
def test_bf16_gives_nearly_the_loss_of_fp32(small_set: Path, tiny_run: Path) -> None:
    from sepclip.mixing.validation_crops import ValidationCrops

    run, crops = Run.open(tiny_run), ValidationCrops(MixtureSet.open(small_set), 5000, 4)
    separator = run.separator(torch.device("cpu"))
    losses = [
        compute_loss(separator.model, next(iter(crops)), run.config.model_copy(update={"precision": precision})).loss
        for precision in ("fp32", "bf16")
    ]
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)


def test_a_full_disk_leaves_the_previous_checkpoint(small_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    settings = [part for setting in TINY for part in ("--set", setting)]
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from sepclip.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "train", small_set, "--run", run, "--steps", 40, *settings]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert_told(result, "cannot be written", "checkpoint before is still there")
    assert step_of(run) == 20
    assert train_tiny(small_set, run, "--steps", 40).returncode == 0

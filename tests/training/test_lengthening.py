"""A run that is lengthened equals the long run, whatever ended it before; and the ways in which a run ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sepclip.training import checkpoint
from sepclip.training.run_log import last_row_with
from tests.conftest import TINY
from tests.training import launch
from tests.training.test_resume import assert_same_run, step_of

# an end is rarely at a validation or at a row of the log, so that both leave something to remove
COMMON = [
    *("model.dropout=0.3", "model.layers=2", "data.batch_size=2", "data.segment_frames=40", "train.valid_every=7"),
    *("train.average=0.9", "train.log_every=3", "optimizer.learning_rate=1e-2", "train.save_every=5", "data.workers=0"),
]
SCHEDULES = {
    "hold": ("optimizer.schedule=hold", "optimizer.warmup_steps=3"),
    "constant": ("optimizer.schedule=constant",),
    "plateau": ("optimizer.schedule=plateau", "optimizer.patience=0"),
}


def command(data: Path, run: Path, steps: int, *more: object, schedule: str = "hold") -> list[object]:
    settings = [part for setting in (*TINY, *COMMON, *SCHEDULES[schedule]) for part in ("--set", setting)]
    return ["train", data, "--run", run, "--steps", steps, "--no-report", "--clip", "auto:30", *settings, *more]


def train(log: Path, *arguments: object, code: int = 0) -> str:
    got, output = launch.run(arguments, log)
    assert got == code, output
    return " ".join(output.split())


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_run_lengthened_three_times_equals_the_long_one(schedule: str, small_set: Path, tmp_path: Path) -> None:
    log, short, long = tmp_path / "log", tmp_path / "short", tmp_path / "long"
    train(log, *command(small_set, long, 47, schedule=schedule))
    for steps in (10, 19, 30, 47):
        train(log, *command(small_set, short, steps, schedule=schedule))
        assert step_of(short) == steps
    assert_same_run(short, long)
    assert {path.name for path in (short / "checkpoints").iterdir()} == {
        path.name for path in (long / "checkpoints").iterdir()
    }


def test_run_alone_resumes_and_is_lengthened_from_its_configuration(small_set: Path, tmp_path: Path) -> None:
    log, short, long = tmp_path / "log", tmp_path / "short", tmp_path / "long"
    train(log, *command(small_set, long, 23))
    train(log, *command(small_set, short, 12))
    assert "was already trained: 12 steps" in train(log, "train", "--run", short)
    train(log, "train", "--run", short, "--steps", 23, "--no-report")
    assert_same_run(short, long)
    assert (short / "config.yaml").read_text() == (long / "config.yaml").read_text()


def test_lengthened_run_that_is_killed_equals_the_long_one(small_set: Path, tmp_path: Path) -> None:
    """It is killed at each operation on files, from the first on, until one training survives."""
    log, run, long = tmp_path / "log", tmp_path / "run", tmp_path / "long"
    train(log, *command(small_set, long, 20))
    train(log, *command(small_set, run, 11))
    deaths = 0
    for moment in range(1, 100, 3):
        code, output = launch.run(command(small_set, run, 20), log, die_at=moment, below=run)
        if code == 0:
            break
        assert "error" not in output
        deaths += 1
    assert code == 0, output
    assert deaths > 5
    assert_same_run(run, long)


def test_shorter_and_longer_command_in_turn_keep_their_results(small_set: Path, tmp_path: Path) -> None:
    """A lengthened run that is stopped at once ends again as the short one did."""
    log, run, short = tmp_path / "log", tmp_path / "run", tmp_path / "short"
    train(log, *command(small_set, short, 11))
    for moment in (2, 4, 8, 16):
        shutil.copytree(short, run)
        assert launch.run(command(small_set, run, 40), log, die_at=moment, below=run)[0] < 0
        assert step_of(run) <= 11
        train(log, *command(small_set, run, 11))
        assert_same_run(run, short)
        shutil.rmtree(run)


def test_last_validation_leaves_the_best_checkpoint_of_the_long_run(small_set: Path, tmp_path: Path) -> None:
    """The validation that ended the run was the best; the long run never made it."""
    log, run, long = tmp_path / "log", tmp_path / "run", tmp_path / "long"
    more = ("--set", "train.best_by=loss")
    train(log, *command(small_set, run, 10, *more, schedule="constant"))
    best = checkpoint.load_progress(run / "checkpoints" / "best")
    assert (best.best_step, best.ended) == (10, "steps")  # the loss falls
    assert checkpoint.load_progress(run / "checkpoints" / "last").best_step == 7
    assert "best at step 10" in train(log, *command(small_set, run, 10, *more, schedule="constant"))
    train(log, *command(small_set, run, 13, *more, schedule="constant"))
    train(log, *command(small_set, long, 13, *more, schedule="constant"))
    assert_same_run(run, long)


def test_checkpoint_before_the_fall_is_not_pruned(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    train(log, *command(small_set, run, 30, "--keep", 2))
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names >= {"hold", "hold-best", "last", "best"}
    assert step_of(run) == 30
    assert checkpoint.load_progress(run / "checkpoints" / "hold").step == 24
    kept = [checkpoint.load_progress(path).step for path in (run / "checkpoints").glob("last-*")]
    assert kept == [28]
    output = train(log, *command(small_set, run, 32, "--keep", 2))
    assert "continuing from step 24 instead of 30" in output
    assert all(checkpoint.load_progress(path).step <= 32 for path in (run / "checkpoints").glob("last-*"))
    rates = [row["learning_rate"] for row in rows(run) if "learning_rate" in row and row["step"] >= 3]
    assert rates[0] == max(rates) == 0.01
    assert rates[-1] < 0.002


def test_missing_checkpoint_before_the_fall_is_reported(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    train(log, *command(small_set, run, 10))
    shutil.rmtree(run / "checkpoints" / "hold")
    assert "hold is missing" in train(log, *command(small_set, run, 12))


def test_fewer_steps_end_the_run(small_set: Path, tmp_path: Path) -> None:
    run, log, whole = tmp_path / "run", tmp_path / "log", tmp_path / "whole"
    train(log, *command(small_set, run, 20))
    output = train(log, *command(small_set, run, 9))
    assert "has 20 steps already, more than 9: it ends with them" in output
    assert "was already trained: 20 steps" in output
    # a run that was interrupted at step 15 is validated and ends there
    train(log, *command(small_set, whole, 15, schedule="constant"))
    shutil.rmtree(run)
    launch.run(command(small_set, run, 40, schedule="constant"), log, die_at=40, below=run)
    stopped = step_of(run)
    assert 0 < stopped < 40
    output = train(log, *command(small_set, run, 1, schedule="constant"))
    assert f"is trained: {stopped} steps" in output
    assert last_row_with(run / "metrics.jsonl", "valid_loss")["step"] == stopped
    assert "was already trained" in train(log, *command(small_set, run, 1, schedule="constant"))


def test_cosine_run_is_lengthened_with_a_message(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    cosine = ("--set", "optimizer.schedule=cosine")
    train(log, *command(small_set, run, 8, *cosine))
    output = train(log, *command(small_set, run, 12, *cosine))
    assert "the learning rates of the cosine schedule depend on the number of steps" in output
    assert "optimizer.schedule=hold" in output
    assert step_of(run) == 12
    assert "depend on the number of steps" not in train(log, *command(small_set, run, 12, *cosine))


def test_early_stopping_is_named_and_lifted(small_set: Path, tmp_path: Path) -> None:
    run, log, whole = tmp_path / "run", tmp_path / "log", tmp_path / "whole"
    # no better score is possible once the learning rate is almost zero
    stop = ("--set", "train.early_stopping=2", "--set", "optimizer.learning_rate=1e-30")
    output = train(log, *command(small_set, run, 60, *stop, schedule="constant"))
    assert "ended by early stopping" in output
    step = step_of(run)
    assert step in (21, 28, 35)
    assert f"at step {step}, ended by early stopping" in train(log, "info", run)
    code, output = launch.run(["train", "--run", run, "--json"], tmp_path / "json")
    summary = json.loads(output[output.index("{") :])
    assert (code, summary["ended"], summary["steps"], summary["already"]) == (0, "early stopping", step, True)
    more = ("--set", "optimizer.learning_rate=1e-30")
    train(log, *command(small_set, run, 40, *more, schedule="constant"))
    train(log, *command(small_set, whole, 40, *more, schedule="constant"))
    assert_same_run(run, whole)


def test_validation_that_ends_a_training_does_not_count_for_early_stopping(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    slow = ("--set", "optimizer.learning_rate=1e-30", "--set", "train.early_stopping=2")
    for steps in (9, 10, 11, 12, 13):  # five such validations
        train(log, *command(small_set, run, steps, *slow, schedule="plateau"))
        assert checkpoint.load_progress(run / "checkpoints" / "last").since_best == 0
    state = torch.load(run / "checkpoints" / "last" / checkpoint.REST, weights_only=True)
    assert state["schedule"]["halvings"] == 0


def test_another_clip_rule_needs_a_fresh_history(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    train(log, *command(small_set, run, 9))
    output = train(log, *command(small_set, run, 12, "--clip", "zclip:2"), code=1)
    assert "clip was auto:30, now zclip:2" in output
    assert "--fresh-clip changes the clip rule" in output
    train(log, *command(small_set, run, 12, "--clip", "zclip:2", "--fresh-clip"))
    saved = torch.load(run / "checkpoints" / "last" / checkpoint.REST, weights_only=True)["clip"]
    assert (saved["rule"], saved["steps"]) == ("zclip:2", 12 - 8)  # from the checkpoint before the fall of 9 steps
    assert "no checkpoint to resume" in train(log, *command(small_set, tmp_path / "new", 2, "--fresh-clip"))


def test_run_alone_must_exist(tmp_path: Path) -> None:
    output = train(tmp_path / "log", "train", "--run", tmp_path / "nowhere", code=1)
    assert "no such run or model; `sepclip train DATA --run" in output

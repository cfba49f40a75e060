"""A run that was stopped in any way and resumed by the same command equals the undisturbed run."""

import contextlib
import json
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepclip.config.load import load_config
from sepclip.errors import UserError
from sepclip.training import checkpoint
from tests.conftest import TINY
from tests.processes import wait_until
from tests.training import launch
from tests.training.test_checkpoint import state

STEPS, PER_EPOCH = 45, 6  # 12 mixtures, 2 a step
# everything that must survive: dropout, averaged weights, an adaptive schedule with a warm-up, and moments
COMMON = [
    *("model.layers=2", "model.dropout=0.3", "data.batch_size=2", "data.segment_frames=40", "train.valid_every=9"),
    *("train.average=0.9", "optimizer.schedule=plateau", "optimizer.patience=0", "optimizer.warmup_steps=5"),
    *("train.log_every=4", "train.save_every=1"),
]
CASES = {
    "fixed": ("--no-dynamic", "--clip", "auto:30,window=20,per=layer"),
    "dynamic": ("--dynamic", "--clip", "auto:10", "--set", "optimizer.name=sgd"),
}


def command(data: Path, run: Path, *more: object) -> list[object]:
    settings = [part for setting in (*TINY, *COMMON) for part in ("--set", setting)]
    return ["train", data, "--run", run, "--steps", STEPS, *settings, *more]


def outcome(run: Path) -> tuple[list[dict], dict, dict]:
    """Return rows, weights and the rest of the state of a finished run, except its times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second", "waited_share")} for row in rows]
    weights, rest = {}, {}
    for which in ("last", "best"):
        folder = run / "checkpoints" / which
        for name in (checkpoint.WEIGHTS, checkpoint.AVERAGE):
            weights |= {f"{which} {name} {key}": value for key, value in load_file(folder / name).items()}
        rest[which] = torch.load(folder / checkpoint.REST, weights_only=True)
        rest[which].pop("recent_since")
        counters = json.loads((folder / checkpoint.COUNTERS).read_text())
        counters.pop("seconds")
        rest[which]["counters"] = counters
    return rows, weights, rest


def same(one: object, other: object) -> bool:
    """Return whether two trees are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_run(run: Path, whole: Path) -> None:
    rows, weights, rest = outcome(run)
    want_rows, want_weights, want_rest = outcome(whole)
    assert rows == want_rows
    assert same(weights, want_weights)
    assert same(rest["last"]["clip"], want_rest["last"]["clip"])
    assert same(rest, want_rest)


def step_of(run: Path) -> int:
    try:
        return int(json.loads((run / "checkpoints" / "last" / "state.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


@pytest.fixture(scope="module", params=list(CASES))
def whole(request: pytest.FixtureRequest, small_set: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return the settings of a case, and its undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    code, output = launch.run(command(small_set, folder / "run", *CASES[request.param]), folder / "log")
    assert code == 0, output
    return CASES[request.param], folder / "run"


def kill_at_random(whole, data: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill a training ``kills`` times at random moments, let it finish, and compare it with the undisturbed one."""
    settings, undisturbed = whole
    chance, run, log = random.Random(seed), folder / "run", folder / "log"
    resumed = []
    for _ in range(20 * kills):
        if len(resumed) == kills:
            break
        before = step_of(run)
        workers = ("--set", f"data.workers={chance.choice([0, 2])}")
        process = launch.start(command(data, run, *settings, *workers), log)
        if before < STEPS - 3:  # else what is left would be done before it is killed: begin anew
            # from the first file operation on to some steps later, whatever a step takes here
            target = before + chance.choice([0, 1, 2, 3])
            wait_until(lambda target=target: step_of(run) >= target, process)
            assert launch.kill_after(process, chance.uniform(0, 0.05 if target > before else 0.5))
            resumed.append(before)
        else:
            process.join(120)
            assert process.exitcode == 0
            assert_same_run(run, undisturbed)
            shutil.rmtree(run)
    assert len(resumed) == kills
    code, output = launch.run(command(data, run, *settings), log)
    assert code == 0, output
    assert_same_run(run, undisturbed)
    assert "Traceback" not in log.read_text()
    inside = [step for step in resumed if step % PER_EPOCH]
    assert inside
    assert all(f"resuming {run} at step {step} of {STEPS}" in log.read_text() for step in inside[:-1])


def test_a_run_killed_at_random_moments_resumes_exactly(whole, small_set: Path, tmp_path: Path) -> None:
    kill_at_random(whole, small_set, tmp_path, 10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_run_killed_at_a_hundred_random_moments_resumes_exactly(
    whole, small_set: Path, tmp_path: Path, seed: int
) -> None:
    kill_at_random(whole, small_set, tmp_path, 10, seed)


def save_in_a_child(folder: str, die_at: int) -> None:
    launch._die(die_at, folder)
    checkpoint.save(Path(folder) / "last", state(2), 2)


def test_a_save_killed_at_any_file_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A whole checkpoint is found, whichever operation the process is killed at."""
    from tests.training.test_checkpoint import loaded

    moment, found, ended = 0, [], -signal.SIGKILL
    while ended == -signal.SIGKILL:
        moment += 1
        folder = tmp_path / str(moment)
        checkpoint.save(folder / "last", state(1), 2)
        process = launch.CONTEXT.Process(target=save_in_a_child, args=(str(folder), moment))
        process.start()
        process.join(60)
        ended = process.exitcode
        found.append(loaded(folder / "last"))
        checkpoint.save(folder / "last", state(3), 2)  # the next save puts all in order
        assert loaded(folder / "last") == 3
        assert {path.name for path in folder.iterdir()} <= {"last", "last-00000001", "last-00000002"}
    assert ended == 0
    assert set(found) == {1, 2}
    assert moment > 10


def test_a_run_killed_within_saves_resumes_exactly(small_set: Path, whole, tmp_path: Path) -> None:
    """One training is killed again and again, at later and later file operations."""
    settings, undisturbed = whole
    run, log = tmp_path / "run", tmp_path / "log"
    deaths, moment = 0, 9
    for _ in range(200):
        moment = moment + 5 if moment < 90 else 60
        code, output = launch.run(command(small_set, run, *settings), log, die_at=moment, below=run)
        if code == 0:
            break
        assert code == -signal.SIGKILL, output
        deaths += 1
    assert code == 0
    assert deaths >= 4
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_finishes_the_step_saves_and_stops(
    number: int, code: int, whole, small_set: Path, tmp_path: Path
) -> None:
    settings, undisturbed = whole
    run, log = tmp_path / "run", tmp_path / "log"
    seldom = ("--save-every", "60min", "--set", "train.valid_every=9")
    process = launch.start(command(small_set, run, *settings, *seldom), log)
    wait_until(lambda: (run / "metrics.jsonl").exists(), process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert f"saved at step {step_of(run)} of {STEPS}: the same command resumes" in log.read_text()
    assert 0 < step_of(run) < STEPS
    assert launch.run(command(small_set, run, *settings), log)[0] == 0
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("ignored", [False, True])
def test_closed_terminal_saves_and_stops_unless_nohup_ignores_it(
    ignored: bool, small_set: Path, tmp_path: Path
) -> None:
    """The process leads a session on a terminal that is closed; what it prints from then on is lost."""
    run, (terminal, its_end) = tmp_path / "run", pty.openpty()
    more = ("--steps", 100_000, "--save-every", "60min", "--set", "train.valid_every=100000")
    arguments = [sys.executable, "-m", "sepclip", *map(str, command(small_set, run, *more))]

    def begin() -> None:
        os.login_tty(its_end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    process = subprocess.Popen(arguments, preexec_fn=begin)
    os.close(its_end)
    closing = threading.Event()
    reader = threading.Thread(target=drain, args=(terminal, closing))
    reader.start()

    def rows() -> int:
        return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0

    try:
        wait_until(rows, process)
        assert step_of(run) == 0
        if ignored:
            os.kill(process.pid, signal.SIGHUP)
            before = rows()
            wait_until(lambda: rows() > before + 1, process)
        else:
            closing.set()
            reader.join()
            os.close(terminal)
            assert process.wait(60) == 143
            assert step_of(run) > 0
    finally:
        process.kill()
        process.wait()
        closing.set()
        reader.join()


def drain(terminal: int, closing: threading.Event) -> None:
    """Read what a terminal shows until it is about to be closed."""
    while not closing.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                os.read(terminal, 1 << 16)


def test_sigusr1_saves_and_the_training_continues(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    rare = ("--steps", 100000, "--save-every", "60min", "--set", "train.valid_every=100000")
    process = launch.start(command(small_set, run, *rare), log)
    wait_until(lambda: (run / "metrics.jsonl").exists(), process)
    assert step_of(run) == 0
    os.kill(process.pid, signal.SIGUSR1)
    wait_until(lambda: step_of(run) > 0, process)
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    wait_until(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > rows, process)
    process.kill()
    process.join(60)


def test_checkpoints_are_saved_every_n_steps_and_the_last_ones_kept(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    more = ("--steps", 23, "--save-every", 5, "--keep", 3, "--set", "train.valid_every=100")
    assert launch.run(command(small_set, run, *more), log)[0] == 0
    kept = {path.name: checkpoint.load_progress(path).step for path in (run / "checkpoints").iterdir()}
    assert kept == {"best": 23, "last": 23, "last-00000020": 20, "last-00000015": 15}
    assert launch.run(command(small_set, run, *more, "--keep", 1, "--steps", 24), log)[0] == 0
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best", "last"}
    # what killed commands leave is removed by the next, even if the training is finished
    (run / ".config.yaml.4194304999-7.tmp").write_text("half")
    for name in ("last.new", "best.removed", "best.new"):
        (run / "checkpoints" / name).mkdir()
    shutil.copytree(run / "checkpoints" / "last", run / "checkpoints" / "last.old")
    shutil.copytree(run / "checkpoints" / "last", run / "checkpoints" / "last-00000020")
    assert launch.run(command(small_set, run, *more, "--keep", 1, "--steps", 24), log)[0] == 0
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best", "last"}
    assert not list(run.glob(".*"))


def test_a_resumed_run_keeps_its_automatic_settings(small_set: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    first = launch.run(command(small_set, run, "--steps", 4), log, OMP_NUM_THREADS="3", SEPCLIP_MALLOC="system")
    assert first[0] == 0
    config = load_config(str(run / "config.yaml"))
    assert config.allocator == "system"
    assert isinstance(config.threads, int)
    assert config.precision in ("fp32", "bf16")
    text = (run / "config.yaml").read_text().replace(f"threads: {config.threads}", "threads: 2")
    (run / "config.yaml").write_text(text)
    assert launch.run(command(small_set, run, "--steps", 8), log)[0] == 0
    again = load_config(str(run / "config.yaml"))
    assert (again.threads, again.allocator, again.train.steps) == (2, "system", 8)
    code, output = launch.run(command(small_set, run, "--steps", 8, "--set", "precision=fp64"), log)
    assert code == 1
    assert f"precision was {config.precision}, now fp64" in output
    code, output = launch.run(command(small_set, run, "--steps", 7), log)
    assert code == 0, output
    assert "has 8 steps already, more than 7" in output


def test_the_allocator_changes_no_bit(small_set: Path, tmp_path: Path) -> None:
    for name in ("keep", "system"):
        more = ("--steps", 9, "--set", f"allocator={name}")
        assert launch.run(command(small_set, tmp_path / name, *more), tmp_path / "log")[0] == 0
    assert_same_run(tmp_path / "keep", tmp_path / "system")


def test_a_new_run_begins_from_another(small_set: Path, whole, tmp_path: Path) -> None:
    settings, undisturbed = whole
    run, log = tmp_path / "run", tmp_path / "log"
    more = (*settings, "--init-from", undisturbed, "--steps", 1, "--set", "optimizer.learning_rate=1e-30")
    code, output = launch.run(command(small_set, run, *more), log)
    assert code == 0, output
    weights, best = (
        load_file(run / "checkpoints" / "last" / checkpoint.WEIGHTS),
        load_file(undisturbed / "checkpoints" / "best" / checkpoint.AVERAGE),
    )
    assert all(torch.equal(weights[name], best[name]) for name in weights if not name.startswith("network.norm"))
    history = torch.load(run / "checkpoints" / "last" / checkpoint.REST, weights_only=True)["clip"]
    assert history["steps"] == 1
    assert launch.run(command(small_set, run, *more), log)[0] == 0  # the same command: done, whatever the origin does
    code, output = launch.run(command(small_set, tmp_path / "other", "--set", "model.hidden=9", *more), log)
    assert code == 1
    assert "of another network" in output
    code, output = launch.run(command(small_set, tmp_path / "third", "--init-from", tmp_path / "nowhere"), log)
    assert code == 1
    assert "no such run" in output
    assert not (tmp_path / "third").exists()


def as_nobody(arguments: list[str], log: str) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    launch._main(arguments, log, 0, "", {})


def test_a_read_only_folder_is_reported(small_set: Path, tiny_run: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(small_set, folder / "set")
        shutil.copytree(tiny_run, folder / "run")
        (folder / "log").touch()
        (folder / "log").chmod(0o666)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o555)
        settings = [part for setting in TINY for part in ("--set", setting)]
        more = ["train", folder / "set", "--run", folder / "run", "--steps", 40, *settings]
        process = launch.CONTEXT.Process(target=as_nobody, args=(list(map(str, more)), str(folder / "log")))
        process.start()
        process.join(60)
        output = (folder / "log").read_text()
        assert process.exitcode == 1, output
        assert "cannot be written: Permission denied" in output
        assert len(output.splitlines()) == 1
        assert step_of(folder / "run") == 20
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint after two steps."""
    from sepclip.mixing.batches import Batch
    from sepclip.training.step import take_step

    made, config = state(0), load_config(settings=TINY)
    sources = 0.1 * torch.randn(2, 2, 2000, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        take_step(made, Batch(sources.sum(1), sources), config)
    folder = tmp_path_factory.mktemp("saved") / "last"
    checkpoint.save(folder, made)
    return folder


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.REST, checkpoint.COUNTERS])
def test_a_truncated_or_changed_checkpoint_gives_one_line(name: str, saved: Path, tmp_path: Path) -> None:
    content = (saved / name).read_bytes()
    chance = random.Random(name)
    broken = [content[: chance.randrange(len(content))] for _ in range(15)]
    for _ in range(25):
        flipped = bytearray(content)
        flipped[chance.randrange(min(len(content), 1500))] ^= 1 << chance.randrange(8)
        broken.append(bytes(flipped))
    shutil.copytree(saved, tmp_path / "last")
    errors = []
    for one in broken:
        (tmp_path / "last" / name).write_bytes(one)
        try:
            checkpoint.load(tmp_path / "last", state(0))
        except UserError as error:
            errors.append(str(error))
    assert len(errors) >= 15
    assert all(len(error.splitlines()) == 1 for error in errors)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -1),
        ("step", 1.5),
        ("step", True),
        ("step", "3"),
        ("seconds", None),
        ("seconds", 1e999),
        ("best_score", []),
        ("version", 99),
        ("more", 1),
    ],
)
def test_wrong_counters_are_reported_as_damage(key: str, value: object, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "last")
    path = tmp_path / "last" / checkpoint.COUNTERS
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=r"last is damaged \(.*\): remove it"):
        checkpoint.load(tmp_path / "last", state(0))


@pytest.mark.parametrize("text", ["[]", "{}", "null", "[" * 100_000, '{"version": 1}', "\ufeff{}"])
def test_a_file_without_counters_is_reported_as_damage(text: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "last")
    (tmp_path / "last" / checkpoint.COUNTERS).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load_progress(tmp_path / "last")


def test_moments_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "last")
    rest = torch.load(saved / checkpoint.REST, weights_only=True)
    rest["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3, 3)
    torch.save(rest, tmp_path / "last" / checkpoint.REST)
    with pytest.raises(UserError, match=r"last is of another network \(.*exp_avg is \(3, 3\), not"):
        checkpoint.load(tmp_path / "last", state(0))

"""The process of one cell: trains it, scores it and ends. ``python -m sepclip.sweep.worker`` with a job on stdin.

A crash or a lack of memory ends the cell and not the sweep. The parent keeps stdin open: when it closes, the parent has
ended, and the cell saves and ends too.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from sepclip import startup
from sepclip.errors import EXIT_TERMINATED, EXIT_USER_ERROR, Stopped, UserError
from sepclip.terminal import say

if TYPE_CHECKING:
    from sepclip.config.schema import Config
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.training.loop import TrainingResult
    from sepclip.training.run import Run

SCORES = Path("eval", "sweep")
_PATIENCE_SECONDS = 60.0  # for the worker of a killed sweep to save and release the run


class CellJob(TypedDict):
    """The job of a worker, as one line of JSON. Paths are strings; the last three are None if the set has none."""

    cell: str  # the digest, which the scores repeat
    run: str  # folder of the run
    config: dict[str, Any]  # all keys of base.yaml, ``device`` resolved
    data: str  # folder of the mixture set
    root: str | None  # of the corpus
    noise: str | None
    rirs: str | None


def main() -> int:
    """Run the job on stdin and return the exit code, the same as that of `sepclip train`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent terminates its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    job: CellJob = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    startup.spin_briefly()
    try:
        train_and_score(job)
    except UserError as error:
        say(f"error: {error}")
        return EXIT_USER_ERROR
    except Stopped as stop:
        say(str(stop))
        return stop.exit_code
    return 0


def train_and_score(job: CellJob) -> None:
    """Train or resume the cell and score it on the test mixtures; it is done once its ``scores.json`` is written."""
    import torch

    from sepclip.config.schema import Config
    from sepclip.evaluation.document import Provenance
    from sepclip.evaluation.sets import evaluate_set
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.scoring.items import ScoringPlan

    path, config = Path(job["run"]), Config.of(job["config"])
    root, noise, rirs = (Path(folder) if folder else None for folder in (job["root"], job["noise"], job["rirs"]))
    data = MixtureSet.open(Path(job["data"]), root, noise=noise, rirs=rirs)
    run, summary = _train(path, config, data)
    device = torch.device(config.device)
    about: Provenance = {"run": str(path), "cell": job["cell"], "training": summary}
    plan = ScoringPlan(("si_sdr",), oracles=())
    evaluate_set(run.separator(device), data, "tt", path / SCORES, about, device=device, plan=plan, jobs=0)


def _train(path: Path, config: "Config", data: "MixtureSet") -> tuple["Run", "TrainingResult"]:
    """Train as `sepclip train` does, after waiting for a worker of a killed sweep that still holds the run."""
    from sepclip.training.loop import train
    from sepclip.training.run import Busy, Run

    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            run = Run.start_or_resume(path, config, data)
            return run, train(run, data)
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _end_with_parent() -> None:
    """Wait until stdin closes, and terminate this process."""
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter needs at exit
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

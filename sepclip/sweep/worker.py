"""One cell in a process of its own: train, score, end. ``python -m sepclip.sweep.worker``, orders on stdin.

A crash or a want of memory ends the cell and not the sweep. The parent keeps stdin open; when it closes, the parent is
gone, and the cell saves and ends.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepclip import startup
from sepclip.errors import EXIT_TERMINATED, EXIT_USER_ERROR, Stopped, UserError
from sepclip.terminal import say

if TYPE_CHECKING:
    from sepclip.config.schema import Config
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.training.loop import TrainingResult
    from sepclip.training.run import Run

SCORES = Path("eval", "sweep")
_PATIENCE_SECONDS = 60.0  # that a cell of a killed sweep may take to save and end


def main() -> int:
    """Do what stdin orders; returns the exit code, as of `sepclip train`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, with a termination
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    orders = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    startup.spin_briefly()
    try:
        work(orders)
    except UserError as error:
        say(f"error: {error}")
        return EXIT_USER_ERROR
    except Stopped as stop:
        say(str(stop))
        return stop.exit_code
    return 0


def work(orders: dict[str, Any]) -> None:
    """Train the cell from where it stands, and score it on the test mixtures; its ``scores.json`` ends it."""
    import torch

    from sepclip.config.schema import Config
    from sepclip.evaluation.document import Provenance
    from sepclip.evaluation.sets import evaluate_set
    from sepclip.mixing.mixture_set import MixtureSet
    from sepclip.scoring.items import ScoringPlan

    path, config = Path(orders["run"]), Config.of(orders["config"])
    folders = {name: Path(orders[name]) if orders.get(name) else None for name in ("root", "noise", "rirs")}
    data = MixtureSet.open(Path(orders["data"]), **folders)
    run, summary = _train(path, config, data)
    device = torch.device(config.device)
    about: Provenance = {"run": str(path), "cell": orders["cell"], "training": summary}
    plan = ScoringPlan(("si_sdr",), oracles=())
    evaluate_set(run.separator(device), data, "tt", path / SCORES, about, device=device, plan=plan, jobs=0)


def _train(path: Path, config: "Config", data: "MixtureSet") -> tuple["Run", "TrainingResult"]:
    """Train as `sepclip train` does, once the same cell of a killed sweep has saved and ended."""
    from sepclip.training.loop import train
    from sepclip.training.run import Busy, Run

    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            run = Run.start_or_resume(path, config, data)
            return run, train(run, data)
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter wants at its end
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

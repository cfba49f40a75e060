"""The folder of a run: its resolved configuration, what it ran on and on which data, and its checkpoints."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import sepclip
from sepclip.audio.files import write_text
from sepclip.audio.layout import Layout
from sepclip.config.load import differences, load_run_config, with_kmeans
from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.model.separator import SeparationModel, require_trainable
from sepclip.training import checkpoint, tensorboard
from sepclip.training.hardware import AUTOMATIC, resolve_device, resolved
from sepclip.training.state import build_separator

CONFIG, ENVIRONMENT, METRICS, DYNAMICS = "config.yaml", "environment.json", "metrics.jsonl", "dynamics.jsonl"
NONFINITE = "nonfinite"  # folder of the steps that diagnosis keeps
TRACE = "trace.json.gz"  # of --profile
# a resumed run may change what does not change the course of its training
MAY_CHANGE = {
    "device",
    "threads",
    "allocator",
    "train.epochs",
    "train.steps",
    "train.max_minutes",
    "train.early_stopping",
    "train.accumulate",
    "train.on_nonfinite",
    "train.stall_steps",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "data.memory_gib",
    "data.workers",
    "dynamics.every",
}


@dataclass(frozen=True)
class Run:
    """A run in the folder ``path``, its configuration with nothing left to ``auto``, and what its data is like."""

    path: Path
    config: Config
    layout: Layout

    @classmethod
    def start_or_resume(cls, path: Path, config: Config, data: MixtureSet) -> "Run":
        """Make the folder of a new run, or return the one that is there if ``config`` and ``data`` are its own.

        Raises UserError when the folder holds something else, a run of another configuration or other data, or one
        that another process trains.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: choose a folder for the run")
        with hold(path) if path.exists() else nullcontext():
            return cls._start_or_resume(path, config, data)

    @classmethod
    def _start_or_resume(cls, path: Path, config: Config, data: MixtureSet) -> "Run":
        started = checkpoint.find(path / "checkpoints" / "last")
        if started and (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file():
            return cls._resume(path, config, data)
        # a kill before the first file was whole leaves a hidden one
        own = {
            CONFIG,
            ENVIRONMENT,
            METRICS,
            DYNAMICS,
            TRACE,
            tensorboard.FOLDER,
            "checkpoints",
            NONFINITE,
        }  # of a run that has not saved yet: nothing to keep
        others = sorted(child.name for child in path.glob("[!.]*") if child.name not in own)
        if others:
            raise UserError(f"{path} already holds something else ({', '.join(others[:3])}): choose another --run")
        layout = data.layout
        require_trainable(layout, loss=config.loss.name, network=config.model.network)
        config = resolved(_with_origin(config)).model_copy(update={"stft": config.stft.at(layout.rate_hz)})
        _origin(config, layout)  # before anything is written
        data_facts = {"path": str(data.path.resolve()), "digest": data.digest, "layout": asdict(layout)}
        write_text(path / ENVIRONMENT, json.dumps({"data": data_facts, **environment()}, indent=1) + "\n")
        write_text(path / CONFIG, config.to_yaml())
        return cls(path, config, layout)

    @classmethod
    def _resume(cls, path: Path, config: Config, data: MixtureSet) -> "Run":
        run, config = cls.open(path), _with_origin(config)
        if run.layout != data.layout:
            raise UserError(f"{path} was trained on {run.layout}; {data.path} has {data.layout}: choose another --run")
        if _read_environment(path)["data"]["digest"] != data.digest:
            raise UserError(f"{path} was trained on other mixtures than {data.path}: choose another --run")
        config = config.model_copy(update={"stft": config.stft.at(run.layout.rate_hz)})
        changed = differences(run.config, config)
        automatic = {key for key in AUTOMATIC if changed.get(key, ("", ""))[1] == "auto"}
        allowed = MAY_CHANGE | automatic
        if config.optimizer.schedule == "cosine":  # its learning rates follow from the number of steps
            allowed = allowed - {"train.epochs", "train.steps"}
        refused = {key: change for key, change in changed.items() if key not in allowed or _shortens(key, *change)}
        if refused:
            told = "; ".join(f"{key} was {old}, now {new}" for key, (old, new) in refused.items())
            raise UserError(f"{path} is a run with other settings ({told}): use those, or choose another --run")
        kept = {key: changed[key][0] for key in automatic}
        config = config.model_copy(update=kept)
        resolve_device(config.device)
        write_text(path / CONFIG, config.to_yaml())
        return cls(path, config, run.layout)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run to use what it learned; UserError where ``path`` is none."""
        if not path.exists():
            raise UserError(f"{path}: no such run; `sepclip train DATA --run {path}` makes one")
        if not (path / CONFIG).is_file() or not (path / ENVIRONMENT).is_file():
            raise UserError(f"{path} is no run ({CONFIG} or {ENVIRONMENT} is missing); `sepclip train` makes one")
        return cls(path, load_run_config(path / CONFIG), _layout(_read_environment(path)))

    def begin_from(self, separator: SeparationModel) -> None:
        """Load the weights of the run ``init_from`` into ``separator``; UserError where they do not fit."""
        origin = _origin(self.config, self.layout)
        if origin is None:
            return
        checkpoint.load_weights(origin._trained(), separator)

    def alone(self) -> AbstractContextManager[None]:
        """Hold the run for this process; UserError where another one trains it. A kill lets go of it."""
        return hold(self.path)

    def checkpoint_path(self, which: str) -> Path:
        """Return where the checkpoint ``last`` or ``best`` is saved."""
        return self.path / "checkpoints" / which

    def separator(
        self, device: torch.device, options: InferenceOptions = InferenceOptions(), kmeans: str | None = None
    ) -> BlockSeparator:
        """Return the separator with its best weights, ready for use; with the last ones if none were best yet.

        ``kmeans`` changes settings of that section, such as ``"masks=soft"``. Raises UserError if the run has no
        checkpoint, or cannot separate as the options ask for.
        """
        clusters = options.masks in ("binary", "soft")
        config = self.config if kmeans is None else with_kmeans(self.config, kmeans, clusters=clusters)
        model = build_separator(config, self.layout)
        separator = BlockSeparator(model, options)  # before the weights are read: wrong options are found at once
        checkpoint.load_weights(self._trained(), model)
        model.to(device).eval()
        return separator

    def trained_at(self) -> float:
        """Return when the weights of :meth:`separator` were saved, in seconds since the epoch."""
        return (self._trained() / checkpoint.WEIGHTS).stat().st_mtime

    def _trained(self) -> Path:
        for which in ("best", "last"):
            found = checkpoint.find(self.checkpoint_path(which))
            if found:
                return found
        raise UserError(f"{self.path} has no checkpoint yet: let `sepclip train` reach one")


def _origin(config: Config, layout: Layout) -> Run | None:
    """Return the run ``init_from``, None for none; UserError where there is no such run, or one of other sources."""
    if config.init_from is None:
        return None
    origin = Run.open(Path(config.init_from))
    if origin.layout != layout:
        raise UserError(f"--init-from {origin.path}: it separates {origin.layout}, these mixtures have {layout}")
    return origin


def _shortens(key: str, old: Any, new: Any) -> bool:
    """Whether a run would have to be shorter than it was to be; what it has done cannot be undone."""
    return key in ("train.steps", "train.epochs") and old is not None and new is not None and new < old


def _with_origin(config: Config) -> Config:
    """Return ``config`` with the whole path of the run that it begins from: the command may be given elsewhere."""
    origin = config.init_from
    return config if origin is None else config.model_copy(update={"init_from": str(Path(origin).resolve())})


class Busy(UserError):
    """Another process works in the folder."""


@contextmanager
def hold(path: Path, doing: str = "being trained") -> Iterator[None]:
    """Hold a folder for this process until the end of the block; Busy where another one does. A kill lets go of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"{path} is {doing} by another process: wait for it, or stop it") from error
    finally:
        os.close(handle)


def environment() -> dict[str, Any]:
    """Return what a run's numbers depend on beside its configuration."""
    return {
        "sepclip": sepclip.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": git_state(Path(sepclip.__file__).parent),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether anything was changed after it, where ``folder`` is part of a git checkout."""
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no checkout: nothing to say
    return {"commit": commit, "changed": bool(changed)}


def _read_environment(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
        _ = (facts["data"]["digest"], _layout(facts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / ENVIRONMENT} is damaged ({error!r}): start the run anew in another folder") from error
    return facts


def _layout(facts: dict[str, Any]) -> Layout:
    saved = dict(facts["data"]["layout"])
    return Layout(**{**saved, "names": tuple(saved["names"])})

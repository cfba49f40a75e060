"""The folder of a run: its resolved configuration, its data and environment, and its checkpoints."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

import sepclip
from sepclip.audio.files import write_text
from sepclip.audio.layout import Layout
from sepclip.audio.leftovers import remove_leftovers
from sepclip.config.load import differences, load_run_config, with_kmeans
from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.model.separator import SeparationModel, require_trainable
from sepclip.pretrained.model_cards import find_run, is_model
from sepclip.terminal import say, warn
from sepclip.training import checkpoint, tensorboard
from sepclip.training.hardware import AUTOMATIC, resolve_device, resolve_hardware
from sepclip.training.state import build_separator

CONFIG, ENVIRONMENT, METRICS, DYNAMICS = "config.yaml", "environment.json", "metrics.jsonl", "dynamics.jsonl"
NONFINITE = "nonfinite"  # folder of the steps that diagnosis saves
TRACE = "trace.json.gz"  # of --profile
# keys that a resumed run may change, since they do not change the course of its training
MAY_CHANGE = {
    "device",  # other rounding, the same training
    "threads",
    "allocator",
    "train.epochs",
    "train.steps",
    "train.max_minutes",
    "train.early_stopping",  # changes where a run ends, not how it gets there
    "train.accumulate",  # the same mean gradient, up to rounding
    "train.on_nonfinite",
    "train.stall_steps",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "data.memory_gib",
    "data.workers",  # batches are functions of seed and step, whoever makes them
    "dynamics.every",  # recording changes no bit
}


# what a run writes before it has saved a checkpoint: a new run may overwrite it, as nothing would be lost
_FILES = {CONFIG, ENVIRONMENT, METRICS, DYNAMICS, TRACE, tensorboard.FOLDER, "checkpoints", NONFINITE}


class GitState(TypedDict):
    """A commit, and whether tracked files were changed after it."""

    commit: str
    changed: bool


class Environment(TypedDict):
    """What the results of a run depend on besides its configuration and data."""

    sepclip: str  # version, as those below
    torch: str
    python: str
    platform: str
    cpu_threads: int
    gpu: str | None
    git: GitState | None  # None outside a git checkout


class DataFacts(TypedDict):
    """The mixture set that a run is trained on."""

    path: str
    digest: str
    layout: dict[str, Any]  # the fields of Layout


class RunFacts(Environment):
    """The content of ``environment.json``."""

    data: DataFacts


@dataclass(frozen=True)
class Run:
    """A run in the folder ``path``, its configuration without any ``auto``, and the layout of its data."""

    path: Path
    config: Config
    layout: Layout

    @classmethod
    def start_or_resume(cls, path: Path, config: Config, data: MixtureSet, *, fresh_clip: bool = False) -> "Run":
        """Create the folder of a new run, or return the run in it if it has the same ``config`` and ``data``.

        ``fresh_clip`` allows another clip rule, whose history starts when the run resumes.

        Raises UserError if the folder contains something else, a run with another configuration or other data, or one
        that another process is training.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: choose a folder for the run")
        # locked only while the files are compared or written; ``train`` locks the run again for as long as it takes
        with hold(path) if path.exists() else nullcontext():
            return cls._start_or_resume(path, config, data, fresh_clip)

    @classmethod
    def _start_or_resume(cls, path: Path, config: Config, data: MixtureSet, fresh_clip: bool) -> "Run":
        # without a checkpoint there is nothing to resume, and the settings of a failed first attempt do not bind
        last = checkpoint.find(path / "checkpoints" / "last")
        if last and (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file():
            return cls._resume(path, config, data, fresh_clip)
        if fresh_clip:
            say(f"--fresh-clip: {path} has no checkpoint to resume, so its clip rule has no history yet")
        # hidden files are ignored: a kill while the first file was being written leaves one
        others = sorted(child.name for child in path.glob("[!.]*") if child.name not in _FILES)
        if others:
            raise UserError(f"{path} already contains something else ({', '.join(others[:3])}): choose another --run")
        # check everything before anything is written
        layout = data.layout
        require_trainable(layout, loss=config.loss.name, network=config.model.network)
        # no auto and no length in seconds is saved, so that a later version or machine cannot read them differently
        config = resolve_hardware(_with_full_path(config)).model_copy(update={"stft": config.stft.at(layout.rate_hz)})
        _initial_run(config, layout)
        data_facts: DataFacts = {"path": str(data.path.resolve()), "digest": data.digest, "layout": asdict(layout)}
        facts: RunFacts = {"data": data_facts, **environment(resolve_device(config.device))}
        write_text(path / ENVIRONMENT, json.dumps(facts, indent=1) + "\n")
        # last: a run counts as one only if it has both files
        write_text(path / CONFIG, config.to_yaml())
        return cls(path, config, layout)

    @classmethod
    def _resume(cls, path: Path, config: Config, data: MixtureSet, fresh_clip: bool) -> "Run":
        run, config = cls.open(path), _with_full_path(config)
        # the data must be the same
        if run.layout != data.layout:
            raise UserError(f"{path} was trained on {run.layout}; {data.path} has {data.layout}: choose another --run")
        if _read_environment(path)["data"]["digest"] != data.digest:
            raise UserError(f"{path} was trained on other mixtures than {data.path}: choose another --run")
        config = config.model_copy(update={"stft": config.stft.at(run.layout.rate_hz)})
        # so must the settings be, except those that do not change the results
        changes = differences(run.config, config)
        automatic = {key for key in AUTOMATIC if changes.get(key, ("", ""))[1] == "auto"}
        allowed = MAY_CHANGE | automatic | ({"clip"} if fresh_clip else set())
        refused = {key: change for key, change in changes.items() if key not in allowed}
        if refused:
            text = "; ".join(f"{key} was {old}, now {new}" for key, (old, new) in refused.items())
            hint = "; --fresh-clip changes the clip rule and starts with an empty history" if "clip" in refused else ""
            raise UserError(f"{path} is a run with other settings ({text}): use those, or choose another --run{hint}")
        if config.optimizer.schedule == "cosine" and changes.keys() & {"train.epochs", "train.steps"}:
            warn(
                "the learning rates of the cosine schedule depend on the number of steps: this run differs from one "
                "that had the new number from the start; with optimizer.schedule=hold it would not"
            )
        # what was resolved when the run started stays as it is
        config = config.model_copy(update={key: changes[key][0] for key in automatic})
        resolve_device(config.device)
        # after all checks, so that a refused command changes nothing
        write_text(path / CONFIG, config.to_yaml())
        return cls(path, config, run.layout)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run, or the model that ``path`` names, to use or inspect it.

        Raises UserError if ``path`` is neither, or if its files are damaged.
        """
        path = find_run(path)
        if not (path / CONFIG).is_file() or not (path / ENVIRONMENT).is_file():
            raise UserError(f"{path} is not a run ({CONFIG} or {ENVIRONMENT} is missing); `sepclip train` creates one")
        # the files of a run are read as untrusted: plain YAML and JSON (tests/training/test_hostile.py)
        return cls(path, load_run_config(path / CONFIG), _layout(_read_environment(path)))

    def open_data(self, *, root: Path | None = None, noise: Path | None = None, rirs: Path | None = None) -> MixtureSet:
        """Open the mixture set that the run was trained on, where it was then; UserError if it is not there."""
        return MixtureSet.open(Path(_read_environment(self.path)["data"]["path"]), root, noise=noise, rirs=rirs)

    def training_sets(self) -> list[tuple[Path, str]]:
        """Return the folder and the digest of the set that the run was trained on, then of those of ``init_from``."""
        facts = _read_environment(self.path)["data"]
        initial_run = _initial_run(self.config, self.layout)
        return [(Path(facts["path"]), facts["digest"]), *(initial_run.training_sets() if initial_run else [])]

    def load_initial_weights(self, separator: SeparationModel) -> None:
        """Load the weights of the run ``init_from``, if set, into ``separator``; UserError if they do not fit.

        A head that the run lacks, as masks after deep clustering, starts from random weights, with a note.
        """
        initial_run = _initial_run(self.config, self.layout)
        if initial_run is not None:
            for head in checkpoint.load_initial_weights(initial_run._trained(), separator):
                say(f"--init-from {initial_run.path}: it has no head for {head}, which starts from random weights")

    def lock(self) -> AbstractContextManager[None]:
        """Lock the run for this process, until the end of the block or a kill; UserError if another one trains it."""
        return hold(self.path)

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def tidy(self) -> None:
        """Remove what a killed training has left behind, and checkpoints beyond ``train.keep``; needs the lock."""
        remove_leftovers(self.path, self.path / "checkpoints")
        checkpoint.tidy(self.checkpoint_path("last"), self.config.train.keep)
        checkpoint.tidy(self.checkpoint_path("best"))

    def checkpoint_path(self, which: str) -> Path:
        """Return the folder of the checkpoint ``last`` or ``best``."""
        return self.checkpoints / which

    def separator(
        self, device: torch.device, options: InferenceOptions = InferenceOptions(), kmeans: str | None = None
    ) -> BlockSeparator:
        """Return the separator with its best weights, ready for use; with the last ones if none were best yet.

        ``kmeans`` changes settings of that section, such as ``"masks=soft"``. Raises UserError if the run has no
        checkpoint, or cannot separate as the options ask for.
        """
        clusters = options.masks in ("binary", "soft")
        config = self.config if kmeans is None else with_kmeans(self.config, kmeans, clusters=clusters)
        # from the layout of the run, not of a set: separating needs no training data
        model = build_separator(config, self.layout)
        separator = BlockSeparator(model, options)  # before the weights are read: wrong options are found at once
        checkpoint.load_weights(self._trained(), model)
        model.to(device).eval()
        return separator

    def trained_at(self) -> float:
        """Return the time when the weights of :meth:`separator` were saved, in seconds since the epoch."""
        return (self._trained() / checkpoint.WEIGHTS).stat().st_mtime

    def _trained(self) -> Path:
        """Return the best checkpoint, or the last one if there is none yet."""
        # a run has no best checkpoint before its first validation, or if no score was finite
        for which in ("best", "last"):
            folder = checkpoint.find(self.checkpoint_path(which))
            if folder:
                return folder
        if (self.path / checkpoint.WEIGHTS).is_file():  # a model that ships with sepclip
            return self.path
        raise UserError(f"{self.path} has no checkpoint yet: continue it with `sepclip train`")


def _initial_run(config: Config, layout: Layout) -> Run | None:
    """Return the run ``init_from``, or None if not set. Raises UserError if it is not a run or has another layout."""
    if config.init_from is None:
        return None
    run = Run.open(Path(config.init_from))
    if run.layout != layout:
        raise UserError(f"--init-from {run.path}: it separates {run.layout}, these mixtures have {layout}")
    return run


def _with_full_path(config: Config) -> Config:
    """Return ``config`` with the full path of ``init_from``, as the run may be resumed from another folder.

    The name of a model stays a name, since the package may be elsewhere then.
    """
    path = config.init_from
    return (
        config if path is None or is_model(path) else config.model_copy(update={"init_from": str(Path(path).resolve())})
    )


class Busy(UserError):
    """Another process is working in the folder."""


@contextmanager
def hold(path: Path, doing: str = "being trained") -> Iterator[None]:
    """Lock a folder for this process, until the end of the block or a kill; Busy if another process has locked it."""
    # the folder itself is locked, so there is no lock file that a kill could leave behind; the kernel releases the lock
    # once the last process that inherited the handle has closed it
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"{path} is {doing} by another process: wait for it, or stop it") from error
    finally:
        os.close(handle)


def environment(device: torch.device) -> Environment:
    """Return what the results of a run on ``device`` depend on besides its configuration and data."""
    return {
        "sepclip": sepclip.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "git": git_state(Path(sepclip.__file__).parent),
    }


def git_state(folder: Path) -> GitState | None:
    """Return the git state of ``folder``; None if it is not in a git checkout, or git is not installed."""
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            # untracked files are not listed: in a checkout that holds runs and sets this would take long
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _read_environment(path: Path) -> RunFacts:
    """Return the facts about the run in ``path``. Raises UserError if their file is damaged."""
    try:
        facts: RunFacts = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
        _ = (facts["data"]["digest"], _layout(facts))  # what others rely on is checked here
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path / ENVIRONMENT} is damaged ({error!r}): start the run again in another folder"
        ) from error
    return facts


def _layout(facts: RunFacts) -> Layout:
    # JSON has lists only, and a layout with a list of names would equal no other
    saved = dict(facts["data"]["layout"])
    return Layout(**{**saved, "names": tuple(saved["names"])})

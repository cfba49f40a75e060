"""The state of a training: everything that must survive a restart, in one object."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sepclip import clip
from sepclip.audio.layout import Layout
from sepclip.config.schema import Config
from sepclip.mixing.chance import generator
from sepclip.model.separator import SeparationModel
from sepclip.training.average import WeightAverage
from sepclip.training.schedules import Schedule, build_optimizer


def build_separator(config: Config, layout: Layout) -> SeparationModel:
    """Build the untrained separator that ``config`` describes, for mixtures as ``layout`` says."""
    return SeparationModel(
        layout=layout,
        stft=config.stft.transform(layout.rate_hz),
        loss=config.loss.name,
        network=config.model.network,
        seed=config.seed,
        input_level_dbfs=config.model.input_level_dbfs,
        kmeans=config.kmeans,
        settings=config.network_settings(),
    )


class StateMismatch(ValueError):
    """A saved state is of another network or clip rule; the message names which, and the difference."""


# why a training has ended
STEPS, EARLY_STOPPING, TIME = "steps", "early stopping", "time"
UNKNOWN = "unknown"  # in a checkpoint of version 0.1
ENDS = ("", STEPS, EARLY_STOPPING, TIME, UNKNOWN)


@dataclass
class Progress:
    """The progress of a run as plain numbers and a word: the content of a checkpoint's ``state.json``."""

    step: int = 0
    seconds: float = 0.0  # total training time
    best_step: int = 0
    best_loss: float | None = None  # loss of the best validation
    best_score: float | None = None  # SI-SDR improvement of the best validation in dB
    since_best: int = 0  # validations since the best one
    refused: int = 0  # skipped steps that the clip rule accepted; TrainingState.skipped counts all
    refused_in_a_row: int = 0
    first_loss: float = 0.0  # running mean of the loss over the first steps
    stall_loss: float = 0.0  # running mean over the last steps before the check that the loss has fallen
    falls_to: int = 0  # total steps for which the rate of `hold` has begun to fall; 0: it has not
    ended: str = ""  # why the training ended at this checkpoint, one of ENDS; empty: it did not


@dataclass
class TrainingState:
    """Separator, averaged weights, optimizer, schedule, clip rule, gradient scaler and progress of a run.

    The step number is also the position in the data and the state of the random generators, since batches and dropout
    masks are functions of it.
    """

    separator: SeparationModel
    optimizer: Optimizer
    schedule: Schedule
    clip: clip.Rule
    scaler: GradScaler
    average: WeightAverage | None
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    recent: list[list[float]] = field(default_factory=list)  # (loss, norm, threshold) of each step since the last row
    recent_since: float = 0.0  # training time in seconds at the last row

    @classmethod
    def start(cls, config: Config, separator: SeparationModel, device: torch.device, steps: int) -> "TrainingState":
        """Return the state of a run before its first step; ``steps``: its total number, for the schedule."""
        # moved first, so that optimizer and average are built on the parameters of the device
        separator = separator.to(device, dtype_of(config))
        return cls(
            separator,
            build_optimizer(separator.parameters(), config.optimizer),
            Schedule(config.optimizer, steps),
            clip.parse(config.clip),
            # bfloat16 has the range of float32, so only the gradients of float16 need a scaler
            GradScaler(device.type, enabled=config.precision == "fp16"),
            None if config.train.average is None else WeightAverage(separator, config.train.average),
            device,
        )

    @property
    def step(self) -> int:
        """The number of finished steps, skipped ones included."""
        return self.progress.step

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.rate(self.step)

    @property
    def eval_separator(self) -> SeparationModel:
        """The separator for validation: the one with the averaged weights if the run averages them."""
        return self.separator if self.average is None else self.average.separator

    @property
    def skipped(self) -> int:
        """The number of skipped steps. Each is counted once: by the clip rule, or by :meth:`count_refused`."""
        return self.clip.skipped + self.progress.refused

    @property
    def skipped_in_a_row(self) -> int:
        """The number of skipped steps since the last one that was not skipped, or skipped for another reason."""
        return self.clip.skipped_in_a_row + self.progress.refused_in_a_row

    def count_refused(self, refused: bool) -> None:
        """Count a step if it was ``refused`` although the clip rule accepted it; the rule counts those it skips."""
        self.progress.refused += refused
        self.progress.refused_in_a_row = self.progress.refused_in_a_row + 1 if refused else 0

    def note_validation(self, loss: float, si_sdr_improvement: float, *, by: str) -> bool:
        """Update the schedule and the best scores after a validation; return whether it is the best so far.

        ``by``: what decides, ``"si-sdr"`` or ``"loss"``. A score that is not finite is never the best.
        """
        # the schedule follows the loss whatever decides which checkpoint is the best
        self.schedule.note_validation(loss)
        best = self.progress_if_best(loss, si_sdr_improvement, by=by)
        if best is not None:
            self.progress = best
            return True
        self.progress.since_best += 1
        return False

    def progress_if_best(self, loss: float, si_sdr_improvement: float, *, by: str) -> Progress | None:
        """Return the progress with these scores of a validation if they are the best so far, otherwise None."""
        progress = self.progress
        # as numbers of which the higher is better; None is the start, since JSON has no infinity
        score, best = (
            (si_sdr_improvement, progress.best_score)
            if by == "si-sdr"
            else (-loss, None if progress.best_loss is None else -progress.best_loss)
        )
        # ties keep the earlier checkpoint: fewer steps for the same score
        if not math.isfinite(score) or (best is not None and score <= best):
            return None
        return replace(progress, best_step=self.step, best_loss=loss, best_score=si_sdr_improvement, since_best=0)

    def rest(self) -> dict[str, Any]:
        """Return everything except weights and progress, as tensors and plain data."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "clip": self.clip.state_dict(),
            "scaler": self.scaler.state_dict(),
            "recent": self.recent,
            "recent_since": self.recent_since,
        }

    def require_compatible(self, rest: object, *, fresh_clip: bool = False) -> None:
        """Raise ValueError if ``rest`` does not have the structure of :meth:`rest`, so that it cannot be restored.

        Raises StateMismatch, which is one, if its optimizer is that of another network. ``fresh_clip``: the state of
        the clip rule will not be used.
        """
        optimizer = self.optimizer.state_dict()
        # the moments have no template: torch creates them in the first step, so a new state has none to compare with
        template = {**self.rest(), "optimizer": {"state": {}, "param_groups": []}}
        if not self.scaler.is_enabled():
            template.pop("scaler")
        if fresh_clip:
            template.pop("clip")
        _require_like(rest, template, "its state")
        assert isinstance(rest, dict)
        # what a template cannot say: three numbers in each row
        if any(not isinstance(row, list) or list(map(_is_number, row)) != [True] * 3 for row in rest["recent"]):
            raise ValueError("its recent steps are not loss, norm and threshold each")
        # the optimizer last, because its mismatch means another network instead of damage
        _require_groups(rest["optimizer"]["param_groups"], optimizer["param_groups"])
        _require_shapes(rest["optimizer"]["state"], list(self.separator.parameters()))

    def restore(self, progress: Progress, rest: dict[str, Any], *, fresh_clip: bool = False) -> None:
        """Continue from ``progress`` and from what :meth:`rest` returned; the weights are loaded separately.

        ``rest`` must be compatible: see :meth:`require_compatible`. Raises StateMismatch if it is of another clip rule,
        unless ``fresh_clip`` leaves the rule of this state as it is, without a history.
        """
        # the learning rate of the optimizer is loaded too, but every step sets it again from the schedule
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        try:
            if not fresh_clip:
                self.clip.load_state_dict(rest["clip"])
        except ValueError as error:  # the one documented error of a rule; any other is a bug in it
            raise StateMismatch(f"another clip rule ({error})") from error
        if self.scaler.is_enabled():  # the state of a disabled one is empty
            self.scaler.load_state_dict(rest["scaler"])
        # the steps since the last row: the next row has the means of an uninterrupted run
        self.recent = [[float(number) for number in row] for row in rest["recent"]]
        self.recent_since = float(rest["recent_since"])
        self.progress = progress


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # bool is a subclass of int


def _require_like(saved: object, template: object, name: str) -> None:
    """Raise ValueError if ``saved`` lacks a key of ``template`` or has a value of another kind; None matches all."""
    if isinstance(template, dict):
        if not isinstance(saved, dict):
            raise ValueError(f"{name} is not a mapping")
        # keys that are only in the saved state are left alone: later versions of torch may add some
        for key, value in template.items():
            if key not in saved:
                raise ValueError(f"{name} has no {key!r}")
            _require_like(saved[key], value, f"{name}, {key}")
    elif isinstance(template, list | str) and not isinstance(saved, type(template)):
        raise ValueError(f"{name} is {saved!r:.40}, not a {type(template).__name__}")
    elif _is_number(template) and saved is not None and not _is_number(saved):
        raise ValueError(f"{name} is {saved!r:.40}, not a number")


def _require_groups(saved: list[Any], groups: list[dict[str, Any]]) -> None:
    """Raise StateMismatch if the optimizer's parameter groups are of other sizes; ValueError if they are not groups."""
    for group in saved:
        _require_like(group, {"lr": 0.0, "params": []}, "its optimizer")
    # sizes only: the numbers of the parameters are their places in the list
    sizes = [[len(group["params"]) for group in entries] for entries in (saved, groups)]
    if sizes[0] != sizes[1]:
        raise StateMismatch(f"another network (the optimizer has {sizes[0]} parameters, not {sizes[1]})")


def _require_shapes(moments: dict[int, Any], parameters: list[torch.nn.Parameter]) -> None:
    """Raise StateMismatch if the optimizer's moments have other shapes, which torch does not check on loading."""
    for index, parameter in enumerate(parameters):
        _require_like(moments.get(index, {}), {}, "its optimizer")
        for name, value in moments.get(index, {}).items():
            # Adam's count of steps is a tensor without dimensions
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                raise StateMismatch(f"another network (the optimizer's {name} is {shapes})")


def dtype_of(config: Config) -> torch.dtype:
    """Return the type of parameters and audio; the lower precisions are left to autocast."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def seed_dropout(seed: int, step: int, rank: int = 0) -> None:
    """Seed the dropout masks of the step after ``step`` steps: a function of seed, step and process only."""
    # ranks have different excerpts, so their masks must differ too. This seeds the generators of all devices and costs
    # microseconds. 63 bits fit into a signed 64-bit seed
    torch.manual_seed(generator(seed, f"dropout {rank}", step).getrandbits(63))

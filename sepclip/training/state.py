"""Everything that must survive a restart, in one object."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sepclip import clip
from sepclip.audio.layout import Layout
from sepclip.config.schema import Config
from sepclip.mixing.chance import generator
from sepclip.model.separator import SeparationModel
from sepclip.training.average import Average
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


@dataclass
class Progress:
    """Where a run stands, as plain numbers that people may read."""

    step: int = 0
    seconds: float = 0.0  # of training in all
    best_step: int = 0
    best_loss: float | None = None  # of the best validation, as the score below
    best_score: float | None = None  # SI-SDR improvement in dB
    since_best: int = 0  # validations without a better one
    refused: int = 0  # steps that were not done, but for the clip rule's own
    refused_in_a_row: int = 0
    first_loss: float = 0.0  # mean over the first steps, so far
    stall_loss: float = 0.0  # mean over those at whose end the loss must have fallen, so far


@dataclass
class TrainingState:
    """Model, average of weights, optimizer, schedule, clip rule, scaler of gradients, and where the run stands.

    The position in the data is the step, and so is the state of the random generators: batches and dropout masks are
    functions of it.
    """

    separator: SeparationModel
    optimizer: Optimizer
    schedule: Schedule
    clip: clip.Rule
    scaler: GradScaler
    average: Average | None
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    recent: list[list[float]] = field(default_factory=list)  # loss, norm, threshold of each step since the last row
    recent_since: float = 0.0  # seconds

    @classmethod
    def start(cls, config: Config, separator: SeparationModel, device: torch.device, steps: int) -> "TrainingState":
        """Return the state of a run before its first step."""
        separator = separator.to(device, dtype_of(config))
        return cls(
            separator,
            build_optimizer(separator.parameters(), config.optimizer),
            Schedule(config.optimizer, steps),
            clip.parse(config.clip),
            GradScaler(device.type, enabled=config.precision == "fp16"),
            None if config.train.average is None else Average(separator, config.train.average),
            device,
        )

    @property
    def step(self) -> int:
        """The number of steps done."""
        return self.progress.step

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.rate(self.step)

    @property
    def judged(self) -> SeparationModel:
        """The separator that validation and users take: that of the averaged weights, where there is an average."""
        return self.separator if self.average is None else self.average.separator

    def note_validation(self, loss: float, si_sdr_improvement: float, *, by: str) -> bool:
        """Adapt the schedule and the best score to a validation; True where it is the best so far."""
        self.schedule.note_validation(loss)
        mine = self.progress
        score, best = (
            (si_sdr_improvement, mine.best_score)
            if by == "si-sdr"
            else (-loss, None if mine.best_loss is None else -mine.best_loss)
        )
        if math.isfinite(score) and (best is None or score > best):
            mine.best_step, mine.best_loss, mine.best_score = self.step, loss, si_sdr_improvement
            mine.since_best = 0
            return True
        mine.since_best += 1
        return False

    def rest(self) -> dict[str, Any]:
        """Return what is neither weights nor progress, as tensors and plain data."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "clip": self.clip.state_dict(),
            "scaler": self.scaler.state_dict(),
            "recent": self.recent,
            "recent_since": self.recent_since,
        }

    def restore(self, progress: Progress, rest: dict[str, Any]) -> None:
        """Go on from what :meth:`rest` returned and from ``progress``; the weights are loaded by themselves.

        Raises ValueError, KeyError and the like where it is not of this state.
        """
        self._require_shapes(rest["optimizer"]["state"])
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        self.clip.load_state_dict(rest["clip"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(rest["scaler"])
        recent, since = rest["recent"], rest["recent_since"]
        self.recent, self.recent_since = [[float(x) for x in row] for row in recent], float(since)
        if any(len(row) != 3 for row in self.recent):
            raise ValueError("its recent steps are not loss, norm and threshold each")
        self.progress = progress

    def _require_shapes(self, moments: dict[int, dict[str, Any]]) -> None:
        """Raise ValueError where the optimizer's moments are not of these parameters, which torch does not look at."""
        for index, parameter in enumerate(self.separator.parameters()):
            for name, value in moments.get(index, {}).items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"the optimizer's {name} is {tuple(value.shape)}, not {tuple(parameter.shape)}")


def dtype_of(config: Config) -> torch.dtype:
    """Return in what parameters and audio are kept; lower precisions are autocast's."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def seed_dropout(seed: int, step: int, rank: int = 0) -> None:
    """Make the dropout masks of the step that follows ``step`` steps depend on nothing but these and the process."""
    torch.manual_seed(generator(seed, f"dropout {rank}", step).getrandbits(63))

"""Everything that must survive a restart, in one object."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from sepclip import clip
from sepclip.audio.layout import Layout
from sepclip.model.separator import Separator
from sepclip.settings import Config


def build_separator(config: Config, layout: Layout) -> Separator:
    """Build the untrained separator that ``config`` describes, for mixtures as ``layout`` says."""
    return Separator(
        layout=layout,
        stft=config.stft.transform(layout.rate_hz),
        loss=config.loss.name,
        network=config.model.network,
        seed=config.seed,
        input_level_dbfs=config.model.input_level_dbfs,
        kmeans=config.kmeans.settings(),
        **config.network_settings(),
    )


@dataclass
class TrainingState:
    """Model, optimizer, schedule, clip rule, counters, best score and random generators of a run.

    The position in the data is the step: batches are functions of it.
    """

    separator: Separator
    optimizer: Optimizer
    schedule: LRScheduler
    clip: clip.Rule
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    recent: list[list[float]] = field(default_factory=list)  # loss, norm, threshold of each step since the last row
    recent_since: float = 0.0  # seconds

    @classmethod
    def start(cls, config: Config, separator: Separator, device: torch.device, steps: int) -> "TrainingState":
        """Return the state of a run before its first step."""
        torch.manual_seed(config.seed)
        separator = separator.to(device)
        settings = config.optimizer
        optimizer = Adam(
            separator.parameters(),
            lr=settings.learning_rate,
            eps=settings.epsilon,
            fused=device.type != "mps",
        )
        schedules: dict[str, Callable[[], LRScheduler]] = {
            "constant": lambda: ConstantLR(optimizer, factor=1.0, total_iters=0),
            "cosine": lambda: CosineAnnealingLR(optimizer, steps),
            "plateau": lambda: ReduceLROnPlateau(optimizer, factor=0.5, patience=settings.patience),
        }
        return cls(separator, optimizer, schedules[settings.schedule](), clip.parse(config.clip), device)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def note_validation(self, loss: float, si_sdr_improvement: float) -> bool:
        """Adapt the schedule and the best score to a validation; True where it is the best so far."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(loss)
        better = self.best_score is None or si_sdr_improvement > self.best_score
        if math.isfinite(si_sdr_improvement) and better:
            self.best_score, self.best_step = si_sdr_improvement, self.step
            return True
        return False

    def counters(self) -> dict[str, Any]:
        """Return what is plain enough to be read by people: where the run stands."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "best_score": self.best_score,
            "best_step": self.best_step,
        }

    def rest(self) -> dict[str, Any]:
        """Return what is neither weights nor counters, as tensors and plain data."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "clip": self.clip.state_dict(),
            "recent": self.recent,
            "recent_since": self.recent_since,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, counters: dict[str, Any], rest: dict[str, Any]) -> None:
        """Go on from what :meth:`counters` and :meth:`rest` returned; the weights are loaded by themselves."""
        self.step, self.seconds = counters["step"], counters["seconds"]
        self.best_score, self.best_step = counters["best_score"], counters["best_step"]
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        self.clip.load_state_dict(rest["clip"])
        self.recent, self.recent_since = rest["recent"], rest["recent_since"]
        torch.set_rng_state(rest["random"])
        if self.device.type == "cuda" and rest["random_cuda"] is not None:
            torch.cuda.set_rng_state(rest["random_cuda"], self.device)

"""What Figure 1 of the AutoClip paper shows, recorded while a run trains: step size, loss, gradient norm, smoothness.

The local smoothness of the step from θ to θ + d, as in the code of Zhang et al. 2020 ("Why gradient clipping
accelerates training"), which has γ = 1/2 alone:

    L = max over γ of |∇f(θ + γ d) - ∇f(θ)| / (γ |d|)

f is the loss of the step's own batch with the step's own dropout mask, in the precision of the training; ∇f is not
clipped. The gradients are taken after the step and everything is put back, so that a watched run is, to the last bit,
the run that nobody watches.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from sepclip.clip import global_norm
from sepclip.config.schema import Dynamics
from sepclip.errors import UserError
from sepclip.training.run import DYNAMICS, Run
from sepclip.training.run_log import append_row, cut_metrics, finite
from sepclip.training.state import TrainingState

_COLUMNS = ("loss", "grad_norm", "threshold", "step_size", "smoothness")
_TITLES = {
    "correlation": "r, log gradient norm and log smoothness",
    "correlation_records": "records in r",
    "records": "records",
    "steps": "steps",
    "loss_at_end": "training loss, mean of the last tenth",
    "step_size_median": "step size, median",
    "step_size_largest": "step size, largest",
    "grad_norm_median": "gradient norm, median",
    "smoothness_median": "local smoothness, median",
    "threshold_at_end": "threshold at the end",
    "clipped_share": "share of records clipped",
}
_LEAST = 3  # records below which a correlation says nothing: two always lie on a line


def parse_dynamics(text: str) -> int:
    """Return the steps between records from ``"every=20"``. Raises UserError, which says what is allowed."""
    name, _, value = text.replace(" ", "").partition("=")
    if name != "every" or not value.isdecimal() or int(value) < 1:
        raise UserError(f"--dynamics {text}: write it as every=N, N whole and 1 or more, such as every=20")
    return int(value)


class Watch:
    """Records every so many steps of a training in ``path``; rows after the state's step are cut off first."""

    def __init__(self, path: Path, settings: Dynamics, state: TrainingState):
        self._path, self._settings, self._state = path, settings, state
        if settings.every is not None:
            cut_metrics(path, state.step)

    @contextmanager
    def step(self, loss: Callable[[], Tensor]) -> Iterator[None]:
        """Watch the one training step made inside; ``loss`` computes its loss anew."""
        state, every = self._state, self._settings.every
        if every is None or (state.step + 1) % every:
            yield
            return
        separator = state.separator
        parameters = [parameter for parameter in separator.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in parameters]
        surroundings = Surroundings(separator, state.device)
        yield
        afterwards = Surroundings(separator, state.device)

        def again() -> Tensor:
            surroundings.put_back()
            return loss()

        try:
            step_size, smoothness = local_smoothness(again, parameters, start, self._settings.points)
        finally:
            afterwards.put_back()
        batch_loss, norm, threshold = state.recent[-1]
        values = (batch_loss, norm, threshold, step_size, smoothness)
        append_row(self._path, {"step": state.step, **{k: finite(v) for k, v in zip(_COLUMNS, values, strict=True)}})


class Surroundings:
    """What a loss depends on beside parameters and data: buffers, such as running means, and random generators."""

    def __init__(self, module: nn.Module, device: torch.device):
        self._buffers = list(module.buffers())
        self._values = [buffer.clone() for buffer in self._buffers]
        self._device = device
        self._random = torch.get_rng_state()
        self._random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def put_back(self) -> None:
        """Make all of it what it was."""
        for buffer, value in zip(self._buffers, self._values, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(self._random)
        if self._random_cuda is not None:
            torch.cuda.set_rng_state(self._random_cuda, self._device)


def local_smoothness(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], start: Sequence[Tensor], points: Sequence[float]
) -> tuple[float, float]:
    """Return |d| and the local smoothness of the step d from ``start`` to where ``parameters`` are now.

    ``loss`` must be the same function of the parameters at every call. The smoothness is NaN where there was no step or
    a gradient is not finite. Parameters and their ``grad`` are left as they were.
    """
    end = [parameter.detach().clone() for parameter in parameters]
    way = torch._foreach_sub(end, list(start))
    step_size = global_norm(list(way))
    if step_size == 0 or not math.isfinite(step_size):
        return step_size, math.nan
    try:
        at_start = _gradient(loss, parameters, start)
        ratios = []
        for point in points:
            between = torch._foreach_add(list(start), way, alpha=point)
            change = torch._foreach_sub(_gradient(loss, parameters, between), at_start)
            ratios.append(global_norm(list(change)) / (point * step_size))
    finally:
        _move(parameters, end)
    return step_size, max(ratios) if all(map(math.isfinite, ratios)) else math.nan


def _gradient(loss: Callable[[], Tensor], parameters: Sequence[Tensor], place: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient at ``place``; not by ``backward``, which would add to the parameters' own."""
    _move(parameters, place)
    with torch.enable_grad():
        return list(torch.autograd.grad(loss(), list(parameters), allow_unused=True, materialize_grads=True))


@torch.no_grad()
def _move(parameters: Sequence[Tensor], place: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, place, strict=True):
        parameter.copy_(value)


@dataclass(frozen=True)
class Records:
    """The records of a run as columns of equal length; NaN where there was no finite number."""

    run: Path
    clip: str
    step: NDArray[np.float64]
    loss: NDArray[np.float64]
    grad_norm: NDArray[np.float64]
    threshold: NDArray[np.float64]
    step_size: NDArray[np.float64]
    smoothness: NDArray[np.float64]

    @classmethod
    def read(cls, run: Path) -> "Records":
        """Read the records of a run, also of one in training. Raises UserError where there are none."""
        clip = Run.open(run).config.clip
        path = run / DYNAMICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = text[: text.rfind("\n") + 1].splitlines()  # behind it may be a row that is just being written
        if not rows:
            raise UserError(f"{run} has no records of its training: train it with --dynamics every=20")
        try:
            table = np.array(
                [[row[name] for name in ("step", *_COLUMNS)] for row in map(json.loads, rows)], dtype=np.float64
            )  # (rows, 6)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): its lines are rows of --dynamics") from error
        return cls(run, clip, *table.T)

    def logarithms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return log10 of gradient norm and smoothness; NaN where either of them has none."""
        usable = (self.grad_norm > 0) & (self.smoothness > 0)  # NaN is not above 0
        values = (np.where(usable, column, np.nan) for column in (self.grad_norm, self.smoothness))
        norm, smoothness = (np.log10(column) for column in values)
        return norm, smoothness

    def correlation(self) -> float | None:
        """Return Pearson's r of log gradient norm and log smoothness; None where they say nothing about it."""
        return correlation(*self.logarithms())

    def summary(self) -> dict[str, Any]:
        """Return what the figure says, in numbers."""
        last = self.loss[-max(1, len(self.loss) // 10) :]
        return {
            "run": str(self.run),
            "clip": self.clip,
            "records": len(self.step),
            "steps": [int(self.step[0]), int(self.step[-1])],
            "correlation": self.correlation(),
            "correlation_records": int(np.isfinite(self.logarithms()[0]).sum()),
            "loss_at_end": _or_none(np.mean, last),
            "grad_norm_median": _or_none(np.median, self.grad_norm),
            "smoothness_median": _or_none(np.median, self.smoothness),
            "step_size_median": _or_none(np.median, self.step_size),
            "step_size_largest": _or_none(np.max, self.step_size),
            "threshold_at_end": _or_none(lambda column: column[-1], self.threshold),
            "clipped_share": float(np.mean(self.grad_norm > self.threshold)),
        }


def summary_table(runs: Sequence[Records]) -> Table:
    """Return the summaries as a table for the terminal: a column a run."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    summaries = [records.summary() for records in runs]
    for summary in summaries:
        table.add_column(Text(f"{summary['run']}\n--clip {summary['clip']}"), justify="right", overflow="fold")
    for key, title in _TITLES.items():
        table.add_row(title, *(_cell(summary[key]) for summary in summaries))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return "-" if value is None else f"{value:.4g}"


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return Pearson's correlation where both are finite; None for fewer than three such pairs, or for constants."""
    usable = np.isfinite(one) & np.isfinite(other)
    a, b = one[usable], other[usable]
    if len(a) < _LEAST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _or_none(statistic: Callable[[NDArray[np.float64]], Any], column: NDArray[np.float64]) -> float | None:
    usable = column[np.isfinite(column)]
    return float(statistic(usable)) if len(usable) else None

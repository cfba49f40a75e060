"""Training dynamics, recorded while a run trains: step size, loss, gradient norm and smoothness.

They are the quantities of Figure 1 of the AutoClip paper.

The local smoothness of the step from θ to θ + d, as in the code of Zhang et al. 2020 ("Why gradient clipping
accelerates training"), which has γ = 1/2 alone:

    L = max over γ of |∇f(θ + γ d) - ∇f(θ)| / (γ |d|)

f is the loss of the step's own batch with the step's own dropout mask, in the precision of the training; ∇f is not
clipped. The gradients are computed after the step and then everything is restored, so that recording does not change
a single bit of the run.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

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
from sepclip.training.run_log import append_row, cut_rows, finite_or_none
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
_LEAST_RECORDS = 3  # for a correlation: two points always lie on a line


def parse_dynamics(text: str) -> int:
    """Return the number of steps between records from ``"every=20"``. Raises UserError for any other form."""
    name, _, value = text.replace(" ", "").partition("=")
    # isdecimal, because int() alone accepts signs, underscores and spaces
    if name != "every" or not value.isdecimal() or int(value) < 1:
        raise UserError(f"--dynamics {text}: write it as every=N with a whole number N of at least 1, such as every=20")
    return int(value)


class DynamicsSummary(TypedDict):
    """The records of a run in numbers: one entry of the JSON document of ``sepclip dynamics``."""

    run: str
    clip: str
    records: int
    steps: list[int]  # of the first and the last record
    correlation: float | None
    correlation_records: int
    loss_at_end: float | None
    grad_norm_median: float | None
    smoothness_median: float | None
    step_size_median: float | None
    step_size_largest: float | None
    threshold_at_end: float | None
    clipped_share: float


class DynamicsRecorder:
    """Appends a record of every so many training steps to the file ``path``; does nothing if ``every`` is None.

    Records after the step of the state are cut off first, as a resumed run records them again.
    """

    def __init__(self, path: Path, settings: Dynamics, state: TrainingState):
        self._path, self._settings, self._state = path, settings, state
        if settings.every is not None:
            cut_rows(path, state.step)  # or these steps would have two rows each

    @contextmanager
    def record_step(self, loss: Callable[[], Tensor]) -> Iterator[None]:
        """Record the one training step in the block if it is due; ``loss`` computes the loss of its batch again.

        The cost is two gradients more for a record with one point, and one more for each further point.
        """
        state, every = self._state, self._settings.every
        # a function of the step number, so that a resumed run records the same steps
        if every is None or (state.step + 1) % every:
            yield
            return
        # before the step: remember the parameters, and everything else that its loss depends on
        separator = state.separator
        parameters = [parameter for parameter in separator.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in parameters]
        # in float16 the gradient of the loss itself would be zero; this factor, 1 in other precisions, suits the step
        factor = state.scaler.get_scale()
        before = LossEnvironment(separator, state.device)
        yield
        after = LossEnvironment(separator, state.device)

        def same_loss() -> Tensor:
            # the same dropout mask for every gradient, or the difference would measure the masks as well
            before.restore()
            return loss() * factor

        # after the step: measure it, and let the training continue as if nothing had happened
        try:
            step_size, smoothness = local_smoothness(same_loss, parameters, start, self._settings.points)
            smoothness /= factor  # it is proportional to the loss; exact, because the factor is a power of two
        finally:
            after.restore()  # bit for bit: test_recording_does_not_change_a_run
        # as in metrics.jsonl, before clipping
        batch_loss, norm, threshold = state.recent[-1]
        values = (batch_loss, norm, threshold, step_size, smoothness)
        row = {column: finite_or_none(value) for column, value in zip(_COLUMNS, values, strict=True)}
        append_row(self._path, {"step": state.step, **row})


class LossEnvironment:
    """A copy of what a loss depends on besides parameters and data: buffers, such as running means, and generators."""

    def __init__(self, module: nn.Module, device: torch.device):
        # buffers because a forward pass in training mode updates running means, and cloned because it does so in place
        self._buffers = list(module.buffers())
        self._values = [buffer.clone() for buffer in self._buffers]
        self._device = device
        # both generators: on a GPU, dropout draws from that of the device
        self._random = torch.get_rng_state()
        self._random_gpu = torch.get_device_module(device).get_rng_state(device) if device.type != "cpu" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Set buffers and random generators to their copies."""
        for buffer, value in zip(self._buffers, self._values, strict=True):
            buffer.copy_(value)
        torch.set_rng_state(self._random)
        if self._random_gpu is not None:
            torch.get_device_module(self._device).set_rng_state(self._random_gpu, self._device)


def local_smoothness(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], start: Sequence[Tensor], points: Sequence[float]
) -> tuple[float, float]:
    """Return |d| and the local smoothness of the step d from ``start`` to where ``parameters`` are now.

    ``loss`` must be the same function of the parameters at every call. The smoothness is NaN if there was no step or a
    gradient is not finite. The parameters and their ``grad`` are left as they were.
    """
    # a record holds about six copies of the weights at a time; it takes twice as long as a step (docs/RESULTS.md)
    end = [parameter.detach().clone() for parameter in parameters]
    direction = torch._foreach_sub(end, list(start))
    step_size = global_norm(list(direction))
    # a skipped step does not move, and 0/0 is not a smoothness
    if step_size == 0 or not math.isfinite(step_size):
        return step_size, math.nan
    try:
        start_gradient = _gradient_at(loss, parameters, start)
        ratios = []
        # one gradient for each point γ between start and end
        for point in points:
            between = torch._foreach_add(list(start), direction, alpha=point)
            # |∇f(θ + γ d) - ∇f(θ)|, for the whole network as one vector
            change = torch._foreach_sub(_gradient_at(loss, parameters, between), start_gradient)
            ratios.append(global_norm(list(change)) / (point * step_size))
    finally:
        # copied back, not computed: start + d would differ from end in the last bit
        _set_parameters(parameters, end)
    # checked first, because the result of ``max`` with a NaN depends on the order
    return step_size, max(ratios) if all(map(math.isfinite, ratios)) else math.nan


def _gradient_at(loss: Callable[[], Tensor], parameters: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient at ``values``; not with ``backward``, which would add to the ``grad`` of the parameters."""
    _set_parameters(parameters, values)
    with torch.enable_grad():
        # parameters without a part in the loss, such as unused heads, count as gradient zero
        return list(torch.autograd.grad(loss(), list(parameters), allow_unused=True, materialize_grads=True))


@torch.no_grad()
def _set_parameters(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@dataclass(frozen=True)
class Records:
    """The records of a run as columns of equal length; NaN stands for values that were not finite."""

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
        """Read the records of a run, which may be in training. Raises UserError if there are none or one is damaged."""
        # the clip rule labels each run, since it is usually what the compared runs differ in
        clip = Run.open(run).config.clip
        path = run / DYNAMICS
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = text[: text.rfind("\n") + 1].splitlines()  # after it there may be a row that is being written
        if not rows:
            raise UserError(f"{run} has no records of its training: train it with --dynamics every=20")
        try:
            # null becomes NaN in an array of floats
            table = np.array(
                [[row[name] for name in ("step", *_COLUMNS)] for row in map(json.loads, rows)], dtype=np.float64
            )  # (rows, 6)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): its lines are rows of --dynamics") from error
        return cls(run, clip, *table.T)

    def logarithms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return log10 of gradient norm and smoothness; NaN for records in which either of them has none."""
        # both from the same records, so that the pairs of the correlation stay pairs
        usable = (self.grad_norm > 0) & (self.smoothness > 0)  # NaN is not above 0
        values = (np.where(usable, column, np.nan) for column in (self.grad_norm, self.smoothness))
        norm, smoothness = (np.log10(column) for column in values)
        return norm, smoothness

    def correlation(self) -> float | None:
        """Return Pearson's r of log gradient norm and log smoothness; None if it is undefined."""
        return correlation(*self.logarithms())

    def summary(self) -> DynamicsSummary:
        """Return what the figure shows, in numbers."""
        # a mean, since the loss of a single batch says little
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
            # comparisons with NaN are false, so a step without a usable norm does not count as clipped
            "clipped_share": float(np.mean(self.grad_norm > self.threshold)),
        }


def summary_table(runs: Sequence[Records]) -> Table:
    """Return the summaries as a table for the terminal, with one column for each run."""
    # quantities as rows, so that few runs with many quantities fit into 80 columns
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    summaries = [records.summary() for records in runs]
    for summary in summaries:
        table.add_column(Text(f"{summary['run']}\n--clip {summary['clip']}"), justify="right", overflow="fold")
    for key, title in _TITLES.items():
        table.add_row(title, *(_cell(dict(summary)[key]) for summary in summaries))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return "-" if value is None else f"{value:.4g}"


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Return Pearson's correlation over the finite pairs; None for fewer than three of them, or for constants."""
    # a pair of which one value is missing is left out
    usable = np.isfinite(x) & np.isfinite(y)
    a, b = x[usable], y[usable]
    if len(a) < _LEAST_RECORDS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    # centred before the products, which would otherwise cancel; rounding may exceed 1 by a bit
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _or_none(statistic: Callable[[NDArray[np.float64]], Any], column: NDArray[np.float64]) -> float | None:
    usable = column[np.isfinite(column)]
    return float(statistic(usable)) if len(usable) else None

"""Why a training failed or will fail: non-finite steps, out of memory, a loss that does not fall, a starved device.

``python -m sepclip.training.diagnosis RUN/nonfinite/step-N.pt`` repeats a step whose loss or gradient was not finite.
"""

import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml

from sepclip.audio.files import replace_file
from sepclip.audio.layout import Layout
from sepclip.config.schema import Config
from sepclip.errors import UserError, is_out_of_memory
from sepclip.mixing.batches import Batch
from sepclip.model.embedding import RawEmbedding
from sepclip.model.separator import SeparationModel
from sepclip.terminal import say, say_some, warn
from sepclip.training.distributed import Ranks
from sepclip.training.run import NONFINITE
from sepclip.training.state import Progress, TrainingState, build_separator, dtype_of, seed_dropout
from sepclip.training.step import StepResult, compute_loss

_MOST_FILES = 3  # per run, since each contains all weights
_MOST_NAMES = 5  # in a message
_STARVED_SHARE = 0.2  # share of the time spent waiting for data from which a warning is printed
_STARVED_SECONDS = 10.0  # of training, before which waiting is not reported
_LEAST_FALL = 1e-3  # share of the first loss by which the loss must have fallen


@dataclass(frozen=True)
class NonFiniteTensors:
    """What is not finite in a step: mixtures by name, outputs of the network, and gradients by parameter."""

    mixtures: list[str]
    outputs: list[str]
    gradients: list[str]

    def describe(self) -> str:
        """Return a description in one line."""
        parts = {"mixtures": self.mixtures, "outputs": self.outputs, "gradients of": self.gradients}
        texts = [f"{kind} {_first_names(names)}" for kind, names in parts.items() if names]
        return "; ".join(texts) or "nothing, when the step was repeated: it depends on the dropout or the precision"


class NonFiniteReporter:
    """Reports steps whose loss or gradient is not finite, saves the first few, and stops if the settings say so."""

    def __init__(self, run: Path, config: Config, ranks: Ranks):
        self._folder, self._config, self._ranks = run / NONFINITE, config, ranks
        self._reported = 0

    def check(self, result: StepResult, batch: Batch, state: TrainingState) -> None:
        """Report the step that has just ended if it is not finite; UserError if ``train.on_nonfinite`` is ``stop``."""
        # the scaler of float16 tries ever larger factors until one overflows: such a step is not a failure
        expected = state.scaler.is_enabled() and all(map(math.isfinite, result.losses))
        stops = self._config.train.on_nonfinite == "stop"
        # losses and norm are equal on every rank, so all return here or none: one alone would hang in the gather
        if result.finite or expected or (self._reported >= _MOST_FILES and not stops):
            return
        self._reported += 1
        # repeat the step in every process: apart from its number the state is still the one before the step, since a
        # skipped step changes nothing else
        seed_dropout(self._config.seed, state.step - 1, self._ranks.rank)
        local = find_nonfinite(state.separator, batch, self._config)
        # join what all processes have found, and their shares of the batch
        gathered = self._ranks.gather_objects((local, batch.mixture.cpu(), batch.sources.cpu(), batch.names))
        causes, mixtures, sources, names = zip(*gathered, strict=True)
        # the same on every rank, as is the message; the file is written by the first one only
        cause = NonFiniteTensors(
            *(_unique(getattr(part, field.name) for part in causes) for field in fields(NonFiniteTensors))
        )
        whole = Batch(torch.cat(mixtures), torch.cat(sources), tuple(itertools.chain(*names)))
        path = self._save(whole, state) if self._ranks.first else None
        message = f"step {state.step}: loss or gradient is not finite in {cause.describe()}"
        saved = f"; kept in {path}, which `python -m sepclip.training.diagnosis` repeats" if path else ""
        # after the file is written, so that a stopped run can be diagnosed without repeating it
        if stops:
            raise UserError(f"{message}{saved}; to continue without such steps, add --on-nonfinite skip")
        say(message + saved)

    def _save(self, batch: Batch, state: TrainingState) -> Path | None:
        """Save what :func:`repeat_step` needs, and return where; None if there are enough such files already."""
        # files are counted on the disk, so that a run that is resumed again and again does not fill it
        path = self._folder / f"step-{state.step:08d}.pt"
        if len(list(self._folder.glob("step-*.pt"))) >= _MOST_FILES and not path.exists():
            return None
        # plain data and tensors only, so that the file loads with weights_only on any machine
        content = {
            "config": self._config.to_yaml(),
            "step": state.step,
            "layout": asdict(state.separator.layout),
            "sources": batch.sources,
            "mixture": batch.mixture,
            "names": list(batch.names),
            "weights": {name: value.cpu() for name, value in state.separator.state_dict().items()},
        }
        replace_file(path, lambda temporary: torch.save(content, temporary))
        return path


def find_nonfinite(separator: SeparationModel, batch: Batch, config: Config) -> NonFiniteTensors:
    """Repeat the step of a batch and return what is not finite; running statistics stay as they were.

    If every loss is finite and the gradient is not, the mixtures are tried one by one.
    """
    buffers_before = [buffer.clone() for buffer in separator.buffers()]
    try:
        return _find_nonfinite(separator, batch, config)
    finally:
        for buffer, value in zip(separator.buffers(), buffers_before, strict=True):
            buffer.copy_(value)


def _find_nonfinite(separator: SeparationModel, batch: Batch, config: Config) -> NonFiniteTensors:
    # in the precision of the training, whose range may be the cause
    result = compute_loss(separator, batch, config)
    tensors = {name: x.raw if isinstance(x, RawEmbedding) else x for name, x in result.outputs.items()}
    outputs = [name for name, x in tensors.items() if isinstance(x, torch.Tensor) and not x.isfinite().all()]
    losses = result.loss.tolist()
    mixtures = [name for name, loss in zip(batch.names, losses, strict=False) if not math.isfinite(loss)]
    gradients = _nonfinite_gradients(separator, result.loss)
    # the gradient of the batch does not say from which mixture it comes: one more backward pass for each
    if gradients and not mixtures:
        for single in batch.split(len(batch.mixture)):
            if _nonfinite_gradients(separator, compute_loss(separator, single, config).loss):
                mixtures += single.names
    return NonFiniteTensors(mixtures, outputs, gradients)


def _nonfinite_gradients(separator: SeparationModel, loss: torch.Tensor) -> list[str]:
    """Return the names of the parameters whose gradient of the mean ``loss`` is not finite."""
    # not backward(), which would leave gradients in ``grad`` for the next step; without the factor of a scaler
    names, parameters = zip(*separator.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
    return [n for n, g in zip(names, gradients, strict=True) if g is not None and not g.isfinite().all()]


def repeat_step(path: Path) -> NonFiniteTensors:
    """Repeat the step saved in ``path``, on the CPU. Raises UserError if the file does not contain a step."""
    # every reader below raises errors of its own for a file of another kind; all mean the same to the user
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        config = Config.of(yaml.safe_load(content["config"]))
        layout = Layout(**{**content["layout"], "names": tuple(content["layout"]["names"])})
        separator = build_separator(config, layout)
        separator.to(dtype_of(config)).load_state_dict(content["weights"])
        batch = Batch(content["mixture"], content["sources"], tuple(content["names"]))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not contain a training step: {str(error).splitlines()[0]}") from error
    # the masks of rank 0 on a CPU: those of a GPU or of another rank cannot be drawn again here
    seed_dropout(config.seed, content["step"] - 1)
    return find_nonfinite(separator.train(), batch, config)


@contextmanager
def out_of_memory_as_user_error(config: Config) -> Iterator[None]:
    """Raise UserError that names the settings to lower if the block runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        data, parts = config.data, config.train.accumulate
        # accumulate first: it is the only remedy that leaves the result of the training as it is, up to rounding
        raise UserError(
            f"out of memory, on {config.device} with {data.batch_size} excerpts of {data.segment_frames} frames in "
            f"{config.precision}: --set train.accumulate={2 * parts} needs less and gives the same; so do a lower "
            f"data.batch_size, data.segment_frames or data.memory_gib ({data.memory_gib:g} now), or another network"
        ) from error


class ProgressMonitor:
    """Warns once if the loss does not fall, and once if the device waits too long for its data."""

    def __init__(self, config: Config):
        self._stall_steps = config.train.stall_steps
        self._starvation_reported, self._seconds, self._waited = False, 0.0, 0.0

    def check(self, state: TrainingState, result: StepResult, waited: float, seconds: float) -> None:
        """Check the step that has just ended, which took ``seconds``, ``waited`` of them spent waiting for data."""
        # sums since the start of the process, since the first batches are slow: files are read, caches fill
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        starved = self._seconds > _STARVED_SECONDS and self._waited > _STARVED_SHARE * self._seconds
        if starved and not self._starvation_reported:
            self._starvation_reported = True
            warn(
                f"{self._waited / self._seconds:.0%} of the time is spent waiting for audio: raise data.memory_gib "
                f"or, on Linux, data.workers, or put the mixtures on a faster disk"
            )
        # later steps are not looked at: a loss that no longer falls late in a training is normal
        if self._stall_steps is not None and state.step <= self._stall_steps:
            self._check_loss(state.progress, fmean(result.losses), self._stall_steps)

    def _check_loss(self, progress: Progress, loss: float, steps: int) -> None:
        """Compare the mean loss over the first and the last fifth of ``steps``; both are saved for a resumed run."""
        # means over a fifth of the steps, since the losses of single batches differ too much to be compared
        window = max(1, steps // 5)
        share = loss / window if math.isfinite(loss) else 0.0
        if progress.step <= window:
            progress.first_loss += share
        if progress.step > steps - window:
            progress.stall_loss += share
        first, last = progress.first_loss, progress.stall_loss
        # abs, since SNR losses are negative; ``not <`` instead of ``>=`` so that NaN warns too
        if progress.step == steps and not last < first - _LEAST_FALL * abs(first):
            warn(
                f"the loss has not moved in {steps} steps ({first:.4g}, now {last:.4g}): is optimizer.learning_rate "
                f"too low or too high, the clip rule too strict, the data silent?"
            )


def _unique(lists: Iterable[list[str]]) -> list[str]:
    """Return the items of all lists, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(itertools.chain.from_iterable(lists)))


def _first_names(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def main(paths: list[str]) -> int:
    """Repeat saved steps and print what is not finite in them."""
    for path in paths:
        cause = repeat_step(Path(path))
        say_some(f"{path}: {cause.describe()}", [*cause.mixtures, *cause.outputs, *cause.gradients], 100)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

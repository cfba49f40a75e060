"""Why a training died, or will come to nothing: non-finite steps, want of memory, a loss that stands, a starved device.

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
from sepclip.errors import UserError
from sepclip.mixing.batches import Batch
from sepclip.model.embedding import RawEmbedding
from sepclip.model.separator import SeparationModel
from sepclip.terminal import say, say_some, warn
from sepclip.training.distributed import Ranks
from sepclip.training.run import NONFINITE
from sepclip.training.state import Progress, TrainingState, build_separator, dtype_of, seed_dropout
from sepclip.training.step import StepResult, compute_loss

_MOST_FILES = 3  # in a run: each holds all weights
_MOST_NAMES = 5  # in a message
_STARVED = 0.2  # share of the time from which waiting for data is worth a word
_STARVED_SECONDS = 10.0  # of training, before which nothing is said of it
_MOVED = 1e-3  # share of the first loss by which it must have fallen


@dataclass(frozen=True)
class Finding:
    """What is not finite in a step: mixtures by name, outputs of the network, and gradients of parameters."""

    mixtures: list[str]
    outputs: list[str]
    gradients: list[str]

    def words(self) -> str:
        """Say it in a line."""
        found = {"mixtures": self.mixtures, "outputs": self.outputs, "gradients of": self.gradients}
        told = [f"{what} {_some(names)}" for what, names in found.items() if names]
        return "; ".join(told) or "nothing, when the step was repeated: it depends on the dropout or the precision"


class NonFinite:
    """Tells of steps whose loss or gradient is not finite, keeps the first few, and stops where it is asked to."""

    def __init__(self, run: Path, config: Config, ranks: Ranks):
        self._folder, self._config, self._ranks = run / NONFINITE, config, ranks
        self._told = 0

    def look(self, done: StepResult, batch: Batch, state: TrainingState) -> None:
        """Look at a step that was just done; UserError where ``train.on_nonfinite`` is ``stop``."""
        # the scaler of float16 tries ever larger factors, until one is too large: its overflows are no failures
        expected = state.scaler.is_enabled() and all(map(math.isfinite, done.losses))
        stops = self._config.train.on_nonfinite == "stop"
        if done.finite or expected or (self._told >= _MOST_FILES and not stops):
            return
        self._told += 1
        # the state is that before the step, but for the count: a refused step leaves it alone
        seed_dropout(self._config.seed, state.step - 1, self._ranks.rank)
        mine = find(state.separator, batch, self._config)
        found = self._ranks.collect((mine, batch.mixture.cpu(), batch.sources.cpu(), batch.names))
        findings, mixtures, sources, names = zip(*found, strict=True)
        finding = Finding(*(_joined(getattr(one, field.name) for one in findings) for field in fields(Finding)))
        whole = Batch(torch.cat(mixtures), torch.cat(sources), tuple(itertools.chain(*names)))
        path = self._keep(whole, state) if self._ranks.first else None
        message = f"step {state.step}: loss or gradient is not finite in {finding.words()}"
        kept = f"; kept in {path}, which `python -m sepclip.training.diagnosis` repeats" if path else ""
        if stops:
            raise UserError(f"{message}{kept}; --on-nonfinite skip goes on without such steps")
        say(message + kept)

    def _keep(self, batch: Batch, state: TrainingState) -> Path | None:
        path = self._folder / f"step-{state.step:08d}.pt"
        if len(list(self._folder.glob("step-*.pt"))) >= _MOST_FILES and not path.exists():
            return None
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


def find(separator: SeparationModel, batch: Batch, config: Config) -> Finding:
    """Repeat the step of a batch and name what is not finite; running statistics stay as they were.

    Where every loss is finite and the gradient is not, the mixtures are taken one by one.
    """
    before = [buffer.clone() for buffer in separator.buffers()]
    try:
        return _find(separator, batch, config)
    finally:
        for buffer, value in zip(separator.buffers(), before, strict=True):
            buffer.copy_(value)


def _find(separator: SeparationModel, batch: Batch, config: Config) -> Finding:
    result = compute_loss(separator, batch, config)
    tensors = {name: x.raw if isinstance(x, RawEmbedding) else x for name, x in result.outputs.items()}
    outputs = [name for name, x in tensors.items() if isinstance(x, torch.Tensor) and not x.isfinite().all()]
    guilty = [name for name, value in zip(batch.names, result.loss.tolist(), strict=False) if not math.isfinite(value)]
    gradients = _broken_gradients(separator, result.loss)
    if gradients and not guilty:
        for one in batch.split(len(batch.mixture)):
            if _broken_gradients(separator, compute_loss(separator, one, config).loss):
                guilty += one.names
    return Finding(guilty, outputs, gradients)


def _broken_gradients(separator: SeparationModel, loss: torch.Tensor) -> list[str]:
    names, parameters = zip(*separator.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
    return [n for n, g in zip(names, gradients, strict=True) if g is not None and not g.isfinite().all()]


def repeat(path: Path) -> Finding:
    """Repeat the step that is kept in ``path``, on the CPU; UserError where it holds none."""
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        config = Config.of(yaml.safe_load(content["config"]))
        layout = Layout(**{**content["layout"], "names": tuple(content["layout"]["names"])})
        separator = build_separator(config, layout)
        separator.to(dtype_of(config)).load_state_dict(content["weights"])
        batch = Batch(content["mixture"], content["sources"], tuple(content["names"]))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no step of a training: {str(error).splitlines()[0]}") from error
    seed_dropout(config.seed, content["step"] - 1)
    return find(separator.train(), batch, config)


@contextmanager
def memory_told(config: Config) -> Iterator[None]:
    """Say which settings to lower where there is not enough memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("can't allocate memory", "not enough memory", "bad alloc", "could not create a memory")
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and not any(word in str(error) for word in words):
            raise
        data, parts = config.data, config.train.accumulate
        raise UserError(
            f"out of memory, on {config.device} with {data.batch_size} excerpts of {data.segment_frames} frames in "
            f"{config.precision}: --set train.accumulate={2 * parts} needs less and gives the same; so do a lower "
            f"data.batch_size, data.segment_frames or data.memory_gib ({data.memory_gib:g} now), or another network"
        ) from error


class Watchdog:
    """Warns once each, when the loss does not move or the device waits for its data."""

    def __init__(self, config: Config):
        self._stall_steps = config.train.stall_steps
        self._starved, self._seconds, self._waited = False, 0.0, 0.0

    def look(self, state: TrainingState, done: StepResult, waited: float, seconds: float) -> None:
        """Look at a step that was just done, and that took ``seconds``, for whose data it ``waited`` seconds."""
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        if not self._starved and self._seconds > _STARVED_SECONDS and self._waited > _STARVED * self._seconds:
            self._starved = True
            warn(
                f"{self._waited / self._seconds:.0%} of the time goes into waiting for audio: raise data.memory_gib "
                f"or, on Linux, data.workers, or put the mixtures on a faster disk"
            )
        if self._stall_steps is not None and state.step <= self._stall_steps:
            self._look_at_loss(state.progress, fmean(done.losses), self._stall_steps)

    def _look_at_loss(self, progress: Progress, loss: float, steps: int) -> None:
        """Compare the means over the first and the last fifth of ``steps``; they stand in the state, for a resume."""
        window = max(1, steps // 5)
        share = loss / window if math.isfinite(loss) else 0.0
        if progress.step <= window:
            progress.first_loss += share
        if progress.step > steps - window:
            progress.stall_loss += share
        first, last = progress.first_loss, progress.stall_loss
        if progress.step == steps and not last < first - _MOVED * abs(first):
            warn(
                f"the loss has not moved in {steps} steps ({first:.4g}, now {last:.4g}): is optimizer.learning_rate "
                f"too low or too high, the clip rule too strict, the data silent?"
            )


def _joined(lists: Iterable[list[str]]) -> list[str]:
    """Return what is in any of the lists, each once."""
    return list(dict.fromkeys(itertools.chain.from_iterable(lists)))


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def main(paths: list[str]) -> int:
    """Repeat kept steps and print what is not finite in them."""
    for path in paths:
        finding = repeat(Path(path))
        say_some(f"{path}: {finding.words()}", [*finding.mixtures, *finding.outputs, *finding.gradients], 100)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

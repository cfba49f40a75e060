"""Selects the mixtures to listen to, the best, the median and the worst, and loads their waves again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sepclip.audio.permutation import best_permutation
from sepclip.audio.si_sdr import pairwise_si_sdr, si_sdr
from sepclip.errors import UserError
from sepclip.evaluation.folders import folder_items
from sepclip.evaluation.sets import set_items
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.report.scores import Scores
from sepclip.scoring.items import Item, Waves
from sepclip.training.hardware import resolve_device
from sepclip.training.run import Run

_MOST_VALIDATED = 6  # validation mixtures to choose from if a run has no scores
_INFINITE_DB = 300.0  # replaces an infinite SI-SDR, so that the mean of every permutation is a number


@dataclass(frozen=True)
class ExampleSource:
    """The origin of the mixtures of an evaluation: a function that returns the items of some names."""

    items: Callable[[Sequence[str]], Iterable[Item]]


def select_examples(by_file: Mapping[str, float]) -> dict[str, str]:
    """Return the names of the best, median and worst files, each with its rank; fewer if these are the same file."""
    order = sorted(by_file, key=lambda name: (-by_file[name], name))
    if not order:
        return {}
    examples: dict[str, str] = {}
    for rank, index in {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}.items():
        examples.setdefault(order[index], rank)
    return examples


def example_source(scores: Scores) -> ExampleSource:
    """Return the origin of the mixtures of ``scores``. Raises UserError if they are no longer available."""
    origin = scores.origin
    # an evaluation of a run: separate the mixtures again
    if "run" in origin:
        data = _find_again(origin["data"], scores.folder)
        return _run_source(_run_folder(scores), data, origin.get("split") or "tt")
    # an evaluation of files: read them again
    if "estimates" in origin:
        estimates, references = (
            _find_again(folder, scores.folder) for folder in (origin["estimates"], origin["references"])
        )
        mixtures = origin.get("mixtures")
        return ExampleSource(
            lambda names: folder_items(
                estimates,
                references,
                _find_again(mixtures, scores.folder) if mixtures else None,
                only=names,
                fixed_order=scores.grouping == "source",
                trim_seconds=origin.get("trim_seconds"),
                estimate_pattern=origin.get("estimate_pattern"),
                reference_pattern=origin.get("reference_pattern"),
            )
        )
    raise UserError("scores.json does not say what was scored")


def _run_folder(scores: Scores) -> Path:
    """Return the run that contains the scores; if they are elsewhere, the run that they name."""
    parent = scores.folder.parent.parent
    return parent if (parent / "config.yaml").is_file() else Path(scores.origin["run"])


def _find_again(saved: str, folder: Path) -> Path:
    """Return a path of an evaluation. A relative one is looked for below ``folder`` and each folder above it.

    It was relative to the folder in which the command was run, which is not recorded.
    """
    path = Path(saved)
    if path.is_absolute() or path.exists():
        return path
    return next((parent / path for parent in folder.resolve().parents if (parent / path).exists()), path)


def _run_source(run_folder: Path, data: Path, split: str) -> ExampleSource:
    run = Run.open(run_folder)
    mixtures = MixtureSet.open(data)
    device = resolve_device("cpu")
    separator = run.separator(device)
    return ExampleSource(lambda names: set_items(separator, mixtures, split, device=device, only=names))


def validation_source(run: Run, data: Path) -> tuple[ExampleSource, dict[str, float]]:
    """Return the validation mixtures of a run, and the SI-SDR improvement of the first few by name, in dB."""
    source = _run_source(run.path, data, "cv")
    names = [recipe.name for recipe in MixtureSet.open(data).recipes("cv")[:_MOST_VALIDATED]]
    improvements = {}
    for item in source.items(names):
        waves = item.waves()
        if isinstance(waves, Waves):
            improvement = float(np.mean(match_estimates(waves)[1]))
            if np.isfinite(improvement):
                improvements[item.rows[0].name] = improvement
    return source, improvements


def match_estimates(waves: Waves) -> tuple[list[int], list[float]]:
    """Return for each reference the index of its estimate, and the SI-SDR improvement of that in dB."""
    # the channels of a source are one long signal, as in scoring
    est, ref = (
        torch.from_numpy(np.ascontiguousarray(wave.reshape(1, len(wave), -1))) for wave in (waves.est, waves.ref)
    )  # (1, S, T x C)
    pairwise = pairwise_si_sdr(est=est, ref=ref).nan_to_num(-_INFINITE_DB, _INFINITE_DB, -_INFINITE_DB)  # (1, est, ref)
    order = best_permutation(pairwise, maximise=True, fixed_order=waves.fixed_order)[1][0]
    mixture = torch.from_numpy(waves.mixture.copy()).reshape(1, 1, -1).expand_as(ref)
    improvements = (si_sdr(est=est[:, order], ref=ref) - si_sdr(est=mixture, ref=ref))[0]  # (S,)
    return order.tolist(), improvements.tolist()

"""Which mixtures the page lets one hear, the best, the median and the worst, and how to get them again."""

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

_MOST_TRIED = 6  # validation mixtures of a run that has no scores


@dataclass(frozen=True)
class ExampleSource:
    """Where the mixtures of an evaluation come from: the items of some names, or a reason why they cannot be had."""

    items: Callable[[Sequence[str]], Iterable[Item]]


def chosen(by_file: Mapping[str, float]) -> dict[str, str]:
    """Return the names of the best, the median and the worst file with those words; fewer where they are the same."""
    order = sorted(by_file, key=lambda name: (-by_file[name], name))
    if not order:
        return {}
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    found: dict[str, str] = {}
    for word, place in places.items():
        found.setdefault(order[place], word)
    return found


def source_of(scores: Scores) -> ExampleSource:
    """Return where the mixtures of ``scores`` come from. Raises UserError where they cannot be had any more."""
    about = scores.about
    if "run" in about:
        return _of_run(_run_folder(scores), _moved(about["data"], scores.folder), about.get("split") or "tt")
    if "estimates" in about:
        estimates, references = (_moved(about[key], scores.folder) for key in ("estimates", "references"))
        mixtures = about.get("mixtures")
        patterns = {key: about.get(key) for key in ("estimate_pattern", "reference_pattern")}
        return ExampleSource(
            lambda names: folder_items(
                estimates,
                references,
                mixtures and Path(mixtures),
                only=names,
                fixed_order=scores.part == "source",
                **patterns,
            )
        )
    raise UserError("scores.json does not say what was scored")


def _run_folder(scores: Scores) -> Path:
    """Return the run that the scores lie in, or the one that they name."""
    above = scores.folder.parent.parent
    return above if (above / "config.yaml").is_file() else Path(scores.about["run"])


def _moved(told: str, folder: Path) -> Path:
    """Return a path as the evaluation was told it; from where that was is not known, so the folders above are tried."""
    path = Path(told)
    if path.is_absolute() or path.exists():
        return path
    return next((above / path for above in folder.resolve().parents if (above / path).exists()), path)


def _of_run(run_folder: Path, data: Path, split: str) -> ExampleSource:
    run = Run.open(run_folder)
    mixtures = MixtureSet.open(data)
    device = resolve_device("cpu")
    separator = run.separator(device)
    return ExampleSource(lambda names: set_items(separator, mixtures, split, device=device, only=names))


def validation_source(run: Run, data: Path) -> tuple[ExampleSource, dict[str, float]]:
    """Return the validation mixtures of a run and the SI-SDR improvement of the first few of them in dB."""
    source = _of_run(run.path, data, "cv")
    names = [recipe.name for recipe in MixtureSet.open(data).recipes("cv")[:_MOST_TRIED]]
    gains = {}
    for item in source.items(names):
        waves = item.waves()
        if isinstance(waves, Waves):
            gain = float(np.mean(matched(waves)[1]))
            if np.isfinite(gain):
                gains[item.rows[0].name] = gain
    return source, gains


def matched(waves: Waves) -> tuple[list[int], list[float]]:
    """Return the estimate of each reference, and its SI-SDR improvement in dB."""
    est, ref = (
        torch.from_numpy(np.ascontiguousarray(found.reshape(1, len(found), -1))) for found in (waves.est, waves.ref)
    )
    pairwise = pairwise_si_sdr(est=est, ref=ref).nan_to_num(-300, 300, -300)  # (1, est, ref)
    order = best_permutation(pairwise, maximise=True, fixed_order=waves.fixed_order)[1][0]
    mixture = torch.from_numpy(waves.mixture.copy()).reshape(1, 1, -1).expand_as(ref)
    gains = (si_sdr(est=est[:, order], ref=ref) - si_sdr(est=mixture, ref=ref))[0]
    return order.tolist(), gains.tolist()

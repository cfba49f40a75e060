"""Evaluation of a run on a mixture set: mixtures are separated one by one while others are scored."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sepclip.errors import UserError
from sepclip.evaluation.document import Provenance, ScoreDocument
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe
from sepclip.mixing.render import FULL_SCALE
from sepclip.model.inference import BlockSeparator
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan, Waves
from sepclip.separation.stream import separate_wave

if TYPE_CHECKING:
    from typing import Unpack

    from sepclip.evaluation.evaluate_items import EvaluationOptions


def evaluate_set(
    separator: BlockSeparator,
    data: MixtureSet,
    split: str,
    folder: Path,
    about: Provenance,
    *,
    device: torch.device,
    plan: ScoringPlan = ScoringPlan(),
    limit: int | None = None,
    **options: "Unpack[EvaluationOptions]",
) -> ScoreDocument:
    """Separate and score the mixtures of a split into ``folder``, with the oracles in the separator's transform.

    ``about`` says what ``separator`` is, for the document; ``data`` and ``split`` are added to it. ``options`` are
    those of :func:`evaluate_items`. Raises UserError if the data is not what the separator was trained to separate.
    """
    from sepclip.evaluation.evaluate_items import evaluate_items  # imports scipy, which set_items does not need

    items = set_items(separator, data, split, device=device, limit=limit)
    plan = replace(plan, stft=separator.stft)
    return evaluate_items(items, folder, {**about, "data": str(data.path), "split": split}, plan, **options)


@dataclass(frozen=True)
class _SeparateMixture:
    """The loader of one item: reads a mixture with its sources, and separates it when called."""

    separator: BlockSeparator
    data: MixtureSet
    split: str
    recipe: Recipe
    device: torch.device

    def __call__(self) -> Waves:
        waves = self.data.waves(self.split, self.recipe).astype(np.float32) / FULL_SCALE  # (1 + S, T) or (1 + S, C, T)
        waves = waves.reshape(len(waves), -1, waves.shape[-1])  # (1 + S, C, T)
        mixture = torch.from_numpy(waves[0])
        estimates = separate_wave(self.separator, mixture, self.data.rate_hz, self.device).cpu().numpy()  # (S, C, T)
        est, waves = estimates.transpose(0, 2, 1), waves.transpose(0, 2, 1)  # (S, T, C), (1 + S, T, C)
        return Waves(self.data.rate_hz, est=est, ref=waves[1:], mixture=waves[0])


def set_items(
    separator: BlockSeparator,
    data: MixtureSet,
    split: str,
    *,
    device: torch.device,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> list[Item]:
    """Return the mixtures of a split as items, each separated when it is loaded.

    ``limit``: the first so many; ``only``: those with these names. Raises UserError if the data is not what the
    separator was trained to separate, or if there is no mixture.
    """
    layout = data.layout
    if separator.layout != layout:
        raise UserError(f"the run separates {separator.layout}; {data.path} has {layout}")
    recipes = [recipe for recipe in data.recipes(split)[:limit] if only is None or recipe.name in only]
    if not recipes:
        raise UserError(f"{data.path} has no mixtures in {split}")
    if not data.audio:
        data.require_root()
    weights = _weights_digest(separator)
    items = []
    for recipe in recipes:
        rows = [
            ScoreRow(recipe.name, part, recipe.group, source.voice, recipe.sexes)
            for part, source in zip(layout.names, recipe.sources, strict=True)
        ]
        item = Item(
            rows,
            _SeparateMixture(separator, data, split, recipe, device),
            load_in_parent=True,
            total_samples=recipe.length * layout.sources * layout.channels,
            channels=layout.channels,
            identity=f"{weights} {data.digest} {recipe.to_line()}",
            fixed_order=layout.fixed_order,
        )
        items.append(item)
    return items


def _weights_digest(separator: BlockSeparator) -> str:
    """Return a digest of everything that decides what the separator makes of a mixture."""
    digest = hashlib.sha256(repr((separator.stft, separator.kmeans, separator.seed, separator.clusters)).encode())
    for name, weights in separator.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""A run on the mixtures of a set: separated one by one while others are scored."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sepclip.errors import UserError
from sepclip.mixing.mixture_set import MixtureSet
from sepclip.mixing.recipe import Recipe
from sepclip.mixing.render import FULL_SCALE
from sepclip.model.inference import BlockSeparator
from sepclip.scoring.items import Item, ScoreRow, ScoringPlan, Waves
from sepclip.separation.stream import separate_wave


def evaluate_set(
    separator: BlockSeparator,
    data: MixtureSet,
    split: str,
    folder: Path,
    about: dict[str, Any],
    *,
    device: torch.device,
    plan: ScoringPlan = ScoringPlan(),
    limit: int | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Separate and score the mixtures of a split into ``folder``, the oracles in the separator's own transform.

    ``how`` goes to :func:`evaluate`. Raises UserError where the data is not what the separator learned to separate.
    """
    from sepclip.evaluation.evaluating import evaluate  # a report, too, wants items alone; this takes scipy

    items = set_items(separator, data, split, device=device, limit=limit)
    plan = replace(plan, stft=separator.stft)
    return evaluate(items, folder, {**about, "data": str(data.path), "split": split}, plan, **how)


@dataclass(frozen=True)
class _Separated:
    """The waves of one mixture, separated when they are asked for."""

    separator: BlockSeparator
    data: MixtureSet
    split: str
    recipe: Recipe
    device: torch.device

    def __call__(self) -> Waves:
        read = self.data.waves(self.split, self.recipe).astype(np.float32) / FULL_SCALE  # (1 + S, T) or (1 + S, C, T)
        waves = read.reshape(len(read), -1, read.shape[-1])  # (1 + S, C, T)
        mixture = torch.from_numpy(waves[0])
        estimates = separate_wave(self.separator, mixture, self.data.rate_hz, self.device).cpu().numpy()  # (S, C, T)
        est, true = estimates.transpose(0, 2, 1), waves.transpose(0, 2, 1)  # (S, T, C), (1 + S, T, C)
        return Waves(self.data.rate_hz, est=est, ref=true[1:], mixture=true[0])


def set_items(
    separator: BlockSeparator,
    data: MixtureSet,
    split: str,
    *,
    device: torch.device,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> list[Item]:
    """Return the mixtures of a split, each separated when it is loaded; ``only`` those of some names.

    Raises UserError where the data is not what the separator learned to separate.
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
            _Separated(separator, data, split, recipe, device),
            here=True,
            values=recipe.length * layout.sources * layout.channels,
            channels=layout.channels,
            identity=f"{weights} {data.digest} {recipe.to_line()}",
            fixed_order=layout.fixed_order,
        )
        items.append(item)
    return items


def _weights_digest(separator: BlockSeparator) -> str:
    digest = hashlib.sha256(repr((separator.stft, separator.kmeans, separator.seed, separator.clusters)).encode())
    for name, weights in separator.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

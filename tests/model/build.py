"""Small networks and separators with random weights, and the settings of base.yaml with the changes of a test."""

from dataclasses import replace
from typing import Any

from sepclip.audio.layout import Layout
from sepclip.audio.stft import STFT
from sepclip.config.load import load_config
from sepclip.model.clustering import KMeansSettings
from sepclip.model.inference import BlockSeparator, InferenceOptions
from sepclip.model.losses import LossSettings
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import SeparationModel

_DEFAULTS = load_config()
SMALL: dict[str, dict[str, Any]] = {
    "blstm": {"layers": 1, "hidden": 8, "dropout": 0.0, "embedding_size": 5},
    "conv-tasnet": {"filters": 16, "filter_length": 8, "bottleneck": 6, "hidden": 8, "blocks": 2, "repeats": 1},
}


def loss_settings(**changes: Any) -> LossSettings:
    """Return the default settings with ``changes``, which are not validated: a test may need a ridge of zero."""
    settings = replace(_DEFAULTS.loss)
    for name, value in changes.items():
        object.__setattr__(settings, name, value)
    return settings


def kmeans_settings(**changes: Any) -> KMeansSettings:
    return replace(_DEFAULTS.kmeans, **changes)


def network_settings(network: str, **changes: Any) -> object:
    return replace(getattr(_DEFAULTS, NETWORKS[network].section), **{**SMALL.get(network, {}), **changes})


def build_model(loss: str = "mi", network: str = "blstm", **options: Any) -> SeparationModel:
    """Return an untrained model in evaluation mode; ``options`` are those of its class."""
    options = {"layout": Layout(8000, 2), "stft": STFT(), "input_level_dbfs": -25.0, "seed": 0, **options}
    return SeparationModel(
        loss=loss, network=network, settings=network_settings(network), kmeans=_DEFAULTS.kmeans, **options
    ).eval()


def build_block_separator(
    loss: str = "mi", network: str = "blstm", inference: InferenceOptions = InferenceOptions(), **options: Any
) -> BlockSeparator:
    """Return an untrained separator; ``options`` are those of its model."""
    return BlockSeparator(build_model(loss, network, **options), inference)

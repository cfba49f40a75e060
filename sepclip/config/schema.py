"""The typed configuration: every section and key of configs/base.yaml, with the values that it allows."""

import re
from functools import lru_cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as settings_dataclass

from sepclip import clip
from sepclip.audio.stft import STFT, Scale
from sepclip.mixing.conversation import CORPUS_FROM, Conversation, overlap_range
from sepclip.mixing.dynamic_voices import Augmentation
from sepclip.model.clustering import KMeansSettings
from sepclip.model.losses import LOSSES, LossSettings
from sepclip.model.network_base import STRICT
from sepclip.model.networks import NETWORKS, BlstmSettings
from sepclip.model.separator import losses_of

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"]
# keys that version 0.1 did not have, each with the value at which it behaves as 0.1 did: configurations without them
# are read with it, and it leaves the identity of a sweep's cell as it was
ADDED = {
    "data.overlap": None,
    "data.single": 0.0,
    "data.same_corpus": None,
    "data.corpus_from": CORPUS_FROM,
    "data.equaliser_db": None,
    "data.telephone": 0.0,
    "data.coloured_noise_db": None,
    "data.segments": None,
}
_MOST_THREADS = 1024
_MOST_WORKERS = 64
DEVICE = r"auto|cpu|cuda(:\d{1,2})?"  # regular expression of device names


class _Section(BaseModel):
    """Base class of sections: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _number_or_auto(number: Any, least: int, most: int) -> int | Literal["auto"]:
    """Return ``number`` as an integer, or ``auto``. Raises ValueError if it is out of range."""
    if number == "auto":
        return "auto"
    if not (str(number).isdecimal() and least <= int(number) <= most):
        raise ValueError(f"choose auto, or a number from {least} to {most}")
    return int(number)


Speed = Annotated[float, Field(ge=0.5, le=2)]


class Stft(_Section):
    """Section ``stft``."""

    window_seconds: float = Field(gt=0, le=10)
    hop_seconds: float = Field(gt=0)
    window_length: int | None = Field(ge=16)
    hop_length: int | None = Field(ge=1)
    scale: Scale

    @field_validator("hop_seconds")
    @classmethod
    def _check_hop(cls, hop: float, info: Any) -> float:
        window = info.data.get("window_seconds", 0)
        if round(window / hop) < 2:
            raise ValueError(f"must fit into window_seconds ({window:g}) at least twice")
        return hop

    @field_validator("hop_length")
    @classmethod
    def _check_lengths(cls, hop: int | None, info: Any) -> int | None:
        window = info.data.get("window_length")
        if (window is None) != (hop is None):
            raise ValueError("give both window_length and hop_length, or neither")
        if window is not None and hop is not None and (window % hop or hop > window // 2):
            raise ValueError(f"must divide window_length ({window}) at least twice, or the transform has no inverse")
        return hop

    def at(self, rate_hz: int) -> "Stft":
        """Return a copy with the lengths in samples for sound of ``rate_hz``."""
        stft = self.transform(rate_hz)
        return self.model_copy(update={"window_length": stft.window_length, "hop_length": stft.hop_length})

    def transform(self, rate_hz: int) -> STFT:
        """Return the transform for sound of ``rate_hz``."""
        if self.window_length is not None and self.hop_length is not None:
            return STFT(self.window_length, self.hop_length, self.scale)
        return STFT.of_seconds(self.window_seconds, self.hop_seconds, rate_hz, self.scale)


@settings_dataclass(frozen=True, config=STRICT, kw_only=True)
class Model(BlstmSettings):
    """Section ``model``: the name of the network, the input level of all networks, and the settings of the BLSTM."""

    network: str
    input_level_dbfs: float | None

    @field_validator("network")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _check_choice(name, NETWORKS)


@settings_dataclass(frozen=True, config=STRICT, kw_only=True)
class LossSection(LossSettings):
    """Section ``loss``: the name of the loss, and the settings of all losses."""

    name: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _check_choice(name, LOSSES)


class Data(_Section):
    """Section ``data``."""

    segment_frames: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    excerpts: int = Field(ge=1)
    valid_excerpts: int = Field(ge=1)
    dynamic: bool
    speed: tuple[Speed, Speed] | None
    noise_snr_db: tuple[float, float] | None
    overlap: list[list[float]] | None
    single: float = Field(ge=0, lt=1)
    same_corpus: float | None = Field(ge=0, le=1)
    corpus_from: str
    equaliser_db: float | None = Field(gt=0, le=24)
    telephone: float = Field(ge=0, le=1)
    coloured_noise_db: tuple[float, float] | None
    segments: list[tuple[Annotated[int, Field(ge=2)], Annotated[float, Field(gt=0)]]] | None
    memory_gib: float = Field(ge=0)
    workers: int | Literal["auto"]

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, number: Any) -> Any:
        return _number_or_auto(number, 0, _MOST_WORKERS)

    @field_validator("overlap", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        if value is None:
            return None
        ranges = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
        for numbers in ranges:
            if not isinstance(numbers, list | tuple) or not all(isinstance(n, int | float) for n in numbers):
                raise ValueError(
                    "write it as [0.5, 1], or as several ranges with weights: [[0.5, 1, 60], [0, 0.5, 25]]"
                )
            overlap_range(numbers)
        return [list(map(float, numbers)) for numbers in ranges]

    @field_validator("corpus_from")
    @classmethod
    def _expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return text

    @field_validator("overlap", "single", "same_corpus", "equaliser_db", "telephone", "segments")
    @classmethod
    def _of_dynamic_voices(cls, value: Any, info: Any) -> Any:
        if value and not info.data.get("dynamic"):
            raise ValueError("is for mixtures made in training: add data.dynamic=true, or leave it out")
        return value

    def augmentation(self) -> Augmentation:
        """Return what is varied in dynamic mixtures of voices."""
        overlap = tuple(overlap_range(numbers) for numbers in self.overlap or ())
        return Augmentation(
            self.speed,
            self.noise_snr_db,
            Conversation(overlap, self.single),
            self.same_corpus,
            self.corpus_from if self.same_corpus is not None else "",
            self.equaliser_db,
            self.telephone,
            self.coloured_noise_db,
        )

    @field_validator("speed", "noise_snr_db", "coloured_noise_db")
    @classmethod
    def _check_range(cls, limits: tuple[float, float] | None, info: Any) -> tuple[float, float] | None:
        if limits is None:
            return None
        low, high = limits
        if low > high:
            raise ValueError("give the lowest and the highest, in this order")
        # speeds are drawn in whole percents
        if info.field_name == "speed" and not [p for p in range(50, 201) if low <= p / 100 <= high]:
            raise ValueError("the range contains no whole percent: give a range such as [0.95, 1.05]")
        if not info.data.get("dynamic"):
            raise ValueError("is for mixtures made in training: add data.dynamic=true, or leave it out")
        return limits


class Optimizer(_Section):
    """Section ``optimizer``."""

    name: Literal["adam", "adamw", "sgd"]
    learning_rate: float = Field(gt=0)
    epsilon: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "hold", "cosine", "plateau"]
    patience: int = Field(ge=0)
    warmup_steps: int = Field(ge=0)


class Train(_Section):
    """Section ``train``."""

    epochs: int = Field(ge=1)
    steps: int | None = Field(ge=1)
    max_minutes: float | None = Field(gt=0)
    early_stopping: int | None = Field(ge=1)
    accumulate: int = Field(ge=1)
    average: float | None = Field(gt=0, lt=1)
    skip_norm: float | None = Field(gt=0)
    on_nonfinite: Literal["skip", "stop"]
    stall_steps: int | None = Field(ge=2)
    best_by: Literal["si-sdr", "loss"]
    valid_every: int | None = Field(ge=1)
    log_every: int = Field(ge=1)
    save_every: str
    keep: int = Field(ge=1)

    @field_validator("save_every", mode="before")
    @classmethod
    def _check_spacing(cls, text: Any) -> str:
        parse_spacing(str(text))
        return str(text).replace(" ", "")

    def saves_at(self, step: int, seconds: float) -> bool:
        """Return whether a checkpoint is due after ``step`` steps, ``seconds`` after the last checkpoint."""
        number, unit = parse_spacing(self.save_every)
        return seconds > number * unit if unit else step % int(number) == 0


def parse_spacing(text: str) -> tuple[float, int]:
    """Parse ``500`` (steps), ``10min`` or ``60s`` into the number and the seconds of its unit, 0 for steps.

    Raises ValueError, which says what is allowed, if the text is not a spacing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|s|)", text.replace(" ", ""))
    if not match or not float(match[1]) or (not match[2] and not match[1].isdecimal()):
        raise ValueError("write it as steps, such as 500, or as time, such as 10min or 60s")
    return float(match[1]), {"min": 60, "s": 1, "": 0}[match[2]]


class Dynamics(_Section):
    """Section ``dynamics``."""

    every: int | None = Field(ge=1)
    points: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)


class Config(_Section):
    """A whole configuration: the keys below, and the section of every network of ``NETWORKS`` that has its own.

    Create it with :meth:`of`, which adds the sections of all networks.
    """

    seed: int = Field(ge=0)
    init_from: str | None
    device: str
    precision: Precision
    threads: int | Literal["auto"]
    allocator: Literal["auto", "keep", "system"]
    deterministic: bool
    clip: str
    stft: Stft
    model: Model
    loss: LossSection
    kmeans: KMeansSettings
    data: Data
    optimizer: Optimizer
    train: Train
    dynamics: Dynamics

    @classmethod
    def of(cls, tree: Any) -> "Config":
        """Return the configuration in a ``tree`` of sections and keys. Raises pydantic's ValidationError if invalid."""
        sections = {network.section: network.settings for network in NETWORKS.values()}
        network_sections = tuple((name, settings) for name, settings in sections.items() if name != "model")
        return _with_sections(network_sections).model_validate(with_added_keys(tree))

    @field_validator("device")
    @classmethod
    def _check_device(cls, name: str) -> str:
        if not re.fullmatch(DEVICE, name):
            raise ValueError("choose auto, cpu, cuda or cuda:N" + "; Apple's mps is not supported" * ("mps" in name))
        return name

    @field_validator("threads", mode="before")
    @classmethod
    def _check_threads(cls, number: Any) -> Any:
        return _number_or_auto(number, 1, _MOST_THREADS)

    @field_validator("clip")
    @classmethod
    def _check_rule(cls, text: str) -> str:
        return repr(clip.parse(text))

    @model_validator(mode="after")
    def _check_trainable(self) -> "Config":
        allowed = losses_of(self.model.network)
        if self.loss.name not in allowed:
            needs = " and ".join(LOSSES[self.loss.name].heads)
            raise ValueError(
                f"the network {self.model.network} cannot be trained with the loss {self.loss.name}, which needs its "
                f"{needs}: choose loss.name {' or '.join(allowed)}, or another model.network"
            )
        return self

    @model_serializer(mode="wrap")
    def _order_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the keys in the order of base.yaml: sections of networks after ``model``, names of choices first."""
        tree: dict[str, Any] = dump(self)
        ordered: dict[str, Any] = {}
        for key in Config.model_fields:
            ordered[key] = tree[key]
            if key == "model":
                ordered |= {name: section for name, section in tree.items() if name not in Config.model_fields}
        for section, key in (("model", "network"), ("loss", "name")):
            ordered[section] = {key: ordered[section][key], **ordered[section]}
        return ordered

    def network_settings(self) -> object:
        """Return the settings of the network ``model.network``, from its section."""
        return getattr(self, NETWORKS[self.model.network].section)

    def to_yaml(self) -> str:
        """Return the configuration as YAML, in the order of base.yaml."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def with_added_keys(tree: Any) -> Any:
    """Return a ``tree`` of sections and keys with the keys that it lacks because an earlier version wrote it."""
    if not isinstance(tree, dict):
        return tree
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        if isinstance(tree.get(section), dict):
            tree[section].setdefault(name, value)
    return tree


@lru_cache
def _with_sections(sections: tuple[tuple[str, type[Any]], ...]) -> type[Config]:
    """Return the class of configurations with these additional ``sections``, each with the class of its settings."""
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in sections}
    return create_model("Config", __base__=Config, **fields)


def _check_choice(name: str, table: dict[str, Any]) -> str:
    """Return ``name``. Raises ValueError if it is not a key of ``table``."""
    if name not in table:
        raise ValueError(f"choose one of {', '.join(table)}")
    return name

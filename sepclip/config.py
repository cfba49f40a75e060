"""The typed configuration: base.yaml holds every key, a recipe file and ``--set`` change some of them."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sepclip import clip
from sepclip.errors import UserError
from sepclip.model.losses import LOSSES
from sepclip.model.networks import NETWORKS

DEVICE = r"auto|cpu|cuda(:\d{1,2})?"  # what names a device, as a regular expression


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stft(_Section):
    """Section ``stft``."""

    window_length: int = Field(ge=16)
    hop_length: int = Field(ge=1)
    scale: Literal["window_sum", "none"]

    @field_validator("hop_length")
    @classmethod
    def _overlap(cls, hop: int, info: Any) -> int:
        window = info.data.get("window_length", 0)
        if window % hop or hop > window // 2:
            raise ValueError(f"must divide window_length ({window}) at least twice, or the transform has no inverse")
        return hop


class Model(_Section):
    """Section ``model``."""

    network: str
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    embedding_size: int = Field(ge=1)
    input_norm: Literal["all", "bins"]
    input_level_dbfs: float | None

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:
        return _one_of(name, NETWORKS)


class Loss(_Section):
    """Section ``loss``."""

    name: str
    target: Literal["tpsa", "psa", "msa"]
    weights: Literal["ratio", "vad", "none"]

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _one_of(name, LOSSES)


class Data(_Section):
    """Section ``data``."""

    segment_frames: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    dynamic: bool
    memory_gib: float = Field(ge=0)


class Optimizer(_Section):
    """Section ``optimizer``."""

    learning_rate: float = Field(gt=0)
    epsilon: float = Field(gt=0)
    schedule: Literal["constant", "cosine", "plateau"]
    patience: int = Field(ge=0)


class Train(_Section):
    """Section ``train``."""

    epochs: int = Field(ge=1)
    steps: int | None = Field(ge=1)
    valid_every: int | None = Field(ge=1)
    log_every: int = Field(ge=1)
    save_every_seconds: float = Field(gt=0)


class Config(_Section):
    """A whole configuration."""

    seed: int = Field(ge=0)
    device: str = Field(pattern=f"^({DEVICE})$")
    precision: Literal["auto", "fp32", "bf16"]
    clip: str
    stft: Stft
    model: Model
    loss: Loss
    data: Data
    optimizer: Optimizer
    train: Train

    @field_validator("clip")
    @classmethod
    def _rule(cls, text: str) -> str:
        return repr(clip.parse(text))

    def to_yaml(self) -> str:
        """Return the configuration as YAML, in the order of base.yaml."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def _one_of(name: str, table: dict[str, Any]) -> str:
    if name not in table:
        raise ValueError(f"choose one of {', '.join(table)}")
    return name


def configs_folder() -> Path:
    """Return the folder of the configurations that come with sepclip: in the clone, or in the installed package."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def load_config(
    recipe: str | None = None,
    settings: Iterable[str] = (),
    flags: dict[str, Any] | None = None,
    *,
    changes: Iterable[tuple[str, dict[str, Any]]] = (),
) -> Config:
    """Resolve a configuration: base.yaml, then ``recipe``, ``changes``, ``settings`` ("key=value") and ``flags``.

    ``recipe`` is a file, or the name of one that comes with sepclip. ``changes`` are keys with their values, sections
    or dotted, each with the words that say where they stand. ``flags`` maps dotted keys to values; None changes
    nothing. Raises UserError for unknown keys and values that are not allowed.
    """
    tree = read_yaml(configs_folder() / "base.yaml")
    if recipe is not None:
        own = read_yaml(shipped_path(recipe, "--config"))
        if "grid" in own:
            raise UserError(f"--config {recipe}: a grid of many configurations; `sepclip sweep {recipe} DATA` runs it")
        _merge(tree, own, recipe)
    for where, change in changes:
        _merge(tree, change, where)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: write it as key=value, such as model.layers=2")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: {value!r} is no YAML value") from error
        _set(tree, key.strip(), parsed, f"--set {setting}")
    for key, value in (flags or {}).items():
        if value is not None:
            _set(tree, key, value, f"--{key.split('.')[-1]}")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_told(problem) for problem in error.errors())) from error


def load_run_config(path: Path) -> Config:
    """Read the resolved configuration of a run."""
    try:
        return Config.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = "; ".join(_told(problem) for problem in error.errors())
        raise UserError(f"{path} is not the configuration of a run of this sepclip: {problems}") from error


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configurations differ, each with both values."""
    old, new = flatten(before.model_dump()), flatten(after.model_dump())
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of ``tree`` by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys and values; UserError where it is none. An empty one gives none."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise UserError(f"{path} holds no configuration: write `section:` and below it `  key: value`")
    return tree or {}


def shipped(*, grids: bool = False) -> list[str]:
    """Return the names of the configurations that come with sepclip: the recipes, or the grids for a sweep."""
    return sorted(path.stem for path in configs_folder().glob("*.yaml") if ("grid" in read_yaml(path)) == grids)


def shipped_path(name: str, asked_by: str, *, grids: bool = False) -> Path:
    """Return the file ``name``, or the one of that name that comes with sepclip; UserError where there is neither."""
    if Path(name).is_file():
        return Path(name)
    found = configs_folder() / f"{name}.yaml"
    if found.is_file():
        return found
    names = ", ".join(shipped(grids=grids))
    raise UserError(f"{asked_by} {name}: no such file, and none of those that come with sepclip ({names})")


def _merge(tree: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    for key, value in flatten(changes).items():
        _set(tree, key, value, where)


def _set(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    *sections, last = key.split(".")
    here: Any = tree
    for section in sections:
        here = here.get(section) if isinstance(here, dict) else None
    if not isinstance(here, dict) or last not in here or isinstance(here[last], dict):
        known = list(flatten(tree))
        by_leaf = [name for name in known if name.split(".")[-1] == last]
        near = by_leaf or difflib.get_close_matches(key, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "configs/base.yaml has all of them"
        raise UserError(f"{where}: there is no key {key!r}; {hint}")
    here[last] = value


def _told(problem: Any) -> str:
    """Say one of pydantic's errors in a line: key, value, what is allowed."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {problem['input']!r} is not allowed: {message[0].lower()}{message[1:]}"

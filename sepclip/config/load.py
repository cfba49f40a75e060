"""Where a configuration comes from: base.yaml holds every key, a recipe file and ``--set`` change some of them."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.model.losses import LOSSES


def configs_folder() -> Path:
    """Return the folder of the configurations that come with sepclip: in the clone, or in the installed package."""
    package = Path(__file__).parents[1]
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
        return Config.of(tree)
    except ValidationError as error:
        raise UserError("; ".join(_told(problem) for problem in error.errors())) from error


def load_run_config(path: Path) -> Config:
    """Read the resolved configuration of a run."""
    try:
        return Config.of(read_yaml(path))
    except ValidationError as error:
        problems = "; ".join(_told(problem) for problem in error.errors())
        raise UserError(f"{path} is not the configuration of a run of this sepclip: {problems}") from error


def with_kmeans(config: Config, text: str, *, clusters: bool = False) -> Config:
    """Return ``config`` with other settings of k-means, such as ``"masks=soft,fit=loudest"``.

    Raises UserError for unknown keys, values that are not allowed, and a separator that clusters nothing; one that has
    embeddings and is asked for it does (``clusters``).
    """
    loss = LOSSES[config.loss.name]
    if not clusters and loss.separates_by != "embedding":
        hint = "; with --masks binary or soft it does" if "embedding" in loss.heads else ""
        told = f"--kmeans {text}: the run was trained with --loss {config.loss.name} and clusters nothing{hint}"
        raise UserError(told)
    tree = config.model_dump()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--kmeans {text}: write it as key=value, such as masks=soft,fit=loudest")
        _set(tree, f"kmeans.{key.strip()}", value.strip(), f"--kmeans {text}")
    try:
        return Config.of(tree)
    except ValidationError as error:
        raise UserError("; ".join(_told(problem) for problem in error.errors())) from error


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
    """Return the names of the configurations that come with sepclip: the recipes, or the grids for a sweep, by path."""
    folder = configs_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.yaml")
        if ("grid" in read_yaml(path)) == grids
    )


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
    if not key:  # of the configuration as a whole
        return str(message)
    if message.startswith(repr(problem["input"])):  # it says by itself what is not allowed
        return f"{key}: {message}"
    return f"{key}: {problem['input']!r} is not allowed: {message[0].lower()}{message[1:]}"

"""Reading and resolving configurations: base.yaml has every key; a recipe file and ``--set`` change some of them."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.model.losses import LOSSES
from sepclip.unique_yaml import load_yaml


def configs_folder() -> Path:
    """Return the folder of the configurations that come with sepclip, in the clone or in the installed package."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def load_config(
    recipe: str | None = None,
    settings: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    changes: Iterable[tuple[str, dict[str, Any]]] = (),
    flag_names: Mapping[str, str] | None = None,
) -> Config:
    """Resolve a configuration: base.yaml, then ``recipe``, ``changes``, ``settings`` ("key=value") and ``flags``.

    ``recipe`` is a file, or the name of a recipe that comes with sepclip. ``changes`` are trees or dotted keys with
    their values, each with the name of its source for error messages. ``flags`` maps dotted keys to values, of which
    None changes nothing, and ``flag_names`` maps the same keys to names for error messages, such as ``"--loss"``.
    Raises UserError for unknown keys and values that are not allowed.
    """
    tree = read_yaml(configs_folder() / "base.yaml")
    flags = {key: value for key, value in (flags or {}).items() if value is not None}
    if recipe is not None:
        recipe_tree = read_yaml(shipped_path(recipe, "--config"))
        if "grid" in recipe_tree:
            raise UserError(f"--config {recipe}: a grid of many configurations; `sepclip sweep {recipe} DATA` runs it")
        _merge(tree, recipe_tree, recipe)
    for where, change in changes:
        _merge(tree, change, where)
    given: dict[str, Any] = {}  # by --set and flags
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {setting}: write it as key=value, such as model.layers=2")
        try:
            parsed = load_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: {value!r} is not a YAML value") from error
        given[key.strip()] = parsed
        _set(tree, key.strip(), parsed, f"--set {setting}")
    names = {key: name for key, name in (flag_names or {}).items() if key in flags}
    for key, value in flags.items():
        _set(tree, key, value, names.get(key, key))
    _choose_length(tree, given | flags, "the command")
    return _validated(tree, names)


def load_run_config(path: Path) -> Config:
    """Read the resolved configuration of a run."""
    try:
        return Config.of(read_yaml(path))
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise UserError(f"{path} is not the configuration of a run of this sepclip: {problems}") from error


def with_kmeans(config: Config, text: str, *, clusters: bool = False) -> Config:
    """Return ``config`` with other k-means settings, such as ``"masks=soft,fit=loudest"``.

    ``clusters`` says that ``--masks`` selects clustering for a run that also has masks of its network. Raises UserError
    for unknown keys, for values that are not allowed, and if the run does not cluster.
    """
    loss = LOSSES[config.loss.name]
    if not clusters and loss.separates_by != "embedding":
        hint = "; with --masks binary or soft it does" if "embedding" in loss.heads else ""
        raise UserError(
            f"--kmeans {text}: the run was trained with --loss {config.loss.name} and does not cluster{hint}"
        )
    tree = config.model_dump()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--kmeans {text}: write it as key=value, such as masks=soft,fit=loudest")
        _set(tree, f"kmeans.{key.strip()}", value.strip(), f"--kmeans {text}")
    return _validated(tree)


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configurations differ, each with both values."""
    old, new = flatten(before.model_dump()), flatten(after.model_dump())
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of ``tree`` by dotted keys."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:  # an empty section too, which is an error where it is used
            yield f"{prefix}{key}", value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty file has none.

    Raises UserError if the file cannot be read, is not YAML, or has no keys.
    """
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise UserError(f"{path} has no configuration: write `section:` and below it `  key: value`")
    return tree or {}


def shipped(*, grids: bool = False) -> list[str]:
    """Return the names of the recipes, or of the grids for a sweep, that come with sepclip, sorted by path."""
    folder = configs_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.yaml")
        if ("grid" in read_yaml(path)) == grids
    )


def shipped_path(name: str, asked_by: str, *, grids: bool = False) -> Path:
    """Return the file ``name``, or the configuration of that name that comes with sepclip.

    ``asked_by`` is the option or key for the error message. Raises UserError if there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    path = configs_folder() / f"{name}.yaml"
    if path.is_file():
        return path
    names = ", ".join(shipped(grids=grids))
    raise UserError(f"{asked_by} {name}: no such file, and not one of those that come with sepclip ({names})")


def _validated(tree: dict[str, Any], flag_names: Mapping[str, str] | None = None) -> Config:
    """Return the typed configuration of ``tree``. Raises UserError that names every wrong key."""
    try:
        return Config.of(tree)
    except ValidationError as error:
        raise UserError("; ".join(_describe(problem, flag_names or {}) for problem in error.errors())) from error


def _merge(tree: dict[str, Any], changes: dict[str, Any], source: str) -> None:
    """Set every leaf of ``changes`` in ``tree``; ``source`` is where they come from."""
    leaves = flatten(changes)
    for key, value in leaves.items():
        _set(tree, key, value, source)
    spellings = Counter(key for key, _ in _leaves(changes))
    if twice := [key for key, count in spellings.items() if count > 1]:
        raise UserError(f"{source}: {twice[0]} is given twice, below its section and with a dot: remove one")
    whole = {key for key in flatten(tree) if key.startswith("train.")} <= leaves.keys()
    if not whole:  # as in the configuration of a run, which has both keys
        _choose_length(tree, leaves, source)


def _choose_length(tree: dict[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Let ``train.epochs``, if it is one of the keys ``given`` by a source, override steps of the sources before."""
    if given.get("train.epochs") is None:
        return
    if given.get("train.steps") is not None:
        raise UserError(f"{source}: train.steps would override train.epochs: give one of them")
    tree["train"]["steps"] = None


def _set(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted key. Raises UserError with the nearest known key if ``tree`` does not have it."""
    *sections, last = key.split(".")
    branch: Any = tree
    for section in sections:
        branch = branch.get(section) if isinstance(branch, dict) else None
    if isinstance(branch, dict) and isinstance(branch.get(last), dict) and value in (None, {}):
        raise UserError(
            f"{source}: the section {key} is empty: write its keys with their values below it, or remove it"
        )
    if not isinstance(branch, dict) or last not in branch or isinstance(branch[last], dict):
        known = list(flatten(tree))
        by_leaf = [name for name in known if name.split(".")[-1] == last]
        near = by_leaf or difflib.get_close_matches(key, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "configs/base.yaml has all of them"
        raise UserError(f"{source}: there is no key {key!r}; {hint}")
    branch[last] = value


def _describe(problem: Any, flag_names: Mapping[str, str] | None = None) -> str:
    """Describe one of pydantic's errors in a line: flag or key, value, what is allowed."""
    key = ".".join(str(part) for part in problem["loc"])
    name = (flag_names or {}).get(key, key)
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:  # an error of the configuration as a whole
        return str(message)
    if message.startswith(repr(problem["input"])):  # the message already has the value
        return f"{name}: {message}"
    return f"{name}: {problem['input']!r} is not allowed: {message[0].lower()}{message[1:]}"

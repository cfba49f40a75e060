"""The grid of a sweep: a file of keys with lists of values becomes cells, each with its whole configuration.

A cell is known by its digest: of the mixtures, and of all keys that have a say in how training goes and ends. Two
sweeps that ask for the same training so find the same run, whatever the grid file or the order of its values.
"""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepclip.config.load import flatten, load_config, read_yaml, shipped_path
from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.training.run import MAY_CHANGE

SEED = "seed"
_SECTIONS = ("config", "set", "grid", "reference")
# a run may be resumed with more steps, but a cell with more steps is another result
_NO_PART_OF_A_CELL = MAY_CHANGE - {
    "train.steps",
    "train.epochs",
    "train.max_minutes",
    "train.early_stopping",
    "train.on_nonfinite",
}


@dataclass(frozen=True)
class Cell:
    """One training: its ``labels`` (a value for each key of the grid but the seed), its seed and its configuration."""

    labels: tuple[str, ...]
    seed: int
    config: Config
    digest: str

    @property
    def name(self) -> str:
        """A readable name, unique by the digest at its end: what the folder of a new run is called."""
        words = re.sub(r"[^\w.-]+", "", "_".join((*self.labels, f"seed{self.seed}")))
        return f"{words[:60]}-{self.digest}"


@dataclass(frozen=True)
class Grid:
    """All cells of a grid file. The first key makes the rows, the second the columns, others join the rows."""

    path: Path
    keys: tuple[str, ...]  # without the seed
    values: tuple[tuple[str, ...], ...]  # labels of each key, in the order of the file
    seeds: tuple[int, ...]
    reference: str | None  # of the first key
    cells: tuple[Cell, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the values of the first key and of those after the second, for each row."""
        return list(itertools.product(self.values[0], *self.values[2:]))

    def columns(self) -> list[str | None]:
        """Return the values of the second key; one column without a value where there is no second key."""
        return list(self.values[1]) if len(self.keys) > 1 else [None]

    def labels(self, row: tuple[str, ...], column: str | None) -> tuple[str, ...]:
        """Return the labels of the cells at a place of the table."""
        return row if column is None else (row[0], column, *row[1:])

    def row_title(self, row: tuple[str, ...]) -> str:
        """Return what stands before a row."""
        others = [f"{key}={value}" for key, value in zip(self.keys[2:], row[1:], strict=True)]
        return ", ".join([row[0], *others])

    def describe(self, cell: Cell) -> str:
        """Say which cell it is, such as ``clip=auto:10 loss.name=mi seed=0``."""
        pairs = zip((*self.keys, SEED), (*cell.labels, cell.seed), strict=True)
        return " ".join(f"{key}={value}" for key, value in pairs)


def load_grid(
    name: str,
    *,
    settings: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    precision: str = "auto",
    data_digest: str = "",
) -> Grid:
    """Read the grid file ``name``, or the one of that name that comes with sepclip, and resolve all its cells.

    ``settings`` ("key=value") and ``steps`` hold for all cells, ``seeds`` replace those of the file. ``precision`` is
    what ``auto`` stands for here. Raises UserError for everything that is wrong in any cell, before any is trained.
    """
    path = shipped_path(name, "GRID", grids=True)
    file = read_yaml(path)
    for section in file:
        if section not in _SECTIONS:
            near = difflib.get_close_matches(str(section), _SECTIONS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"a grid file has {', '.join(_SECTIONS)}"
            raise UserError(f"{path}: there is no {section!r}; {hint}")
    axes = _axes(path, file.get("grid"))
    if seeds is not None:
        axes[SEED] = [{SEED: seed} for seed in seeds]
    _refuse_settings_of_the_grid(path, axes, settings, steps)
    fixed = file.get("set") or {}
    if not isinstance(fixed, dict):
        raise UserError(f"{path}: set: {fixed!r} is not allowed: write keys with one value each below it")
    recipe = _recipe(path, file.get("config"))
    configs: list[tuple[dict[str, Any], Config]] = []
    for choice in itertools.product(*axes.values()):
        changes = {key: value for item in choice for key, value in item.items()}
        asked = " ".join(f"{key}={value}" for key, value in changes.items())
        try:
            config = load_config(
                recipe, settings, {"train.steps": steps}, changes=[("set", fixed), (f"grid, {asked}", changes)]
            )
        except UserError as error:
            raise UserError(f"{path}, cell {asked}: {error}") from error
        if config.precision == "auto":
            config = config.model_copy(update={"precision": precision})
        configs.append((changes, config))
    return _grid(path, axes, configs, file.get("reference"), data_digest)


def digest_of(config: Config, data_digest: str) -> str:
    """Return what tells a training from others: 12 characters made of its mixtures and its configuration.

    Left out is what changes neither its course nor its end: device, ``train.log_every``, ``train.save_every``,
    ``data.memory_gib``, and ``train.epochs`` where ``train.steps`` overrides it.
    """
    keys = {key: value for key, value in flatten(config.model_dump()).items() if key not in _NO_PART_OF_A_CELL}
    if keys["train.steps"] is not None:
        keys["train.epochs"] = None
    return hashlib.sha256(json.dumps([data_digest, keys], sort_keys=True).encode()).hexdigest()[:12]


def _grid(
    path: Path,
    axes: Mapping[str, Any],
    configs: list[tuple[dict[str, Any], Config]],
    reference: object,
    data_digest: str,
) -> Grid:
    """Put the cells together; UserError where two are the same training, or the reference is none of the values."""
    keys = tuple(key for key in axes if key != SEED)
    cells: dict[str, Cell] = {}
    for changes, config in configs:
        flat = flatten(config.model_dump())
        cell = Cell(tuple(_label(flat[key]) for key in keys), config.seed, config, digest_of(config, data_digest))
        if cell.digest in cells:
            asked = " ".join(f"{key}={value}" for key, value in changes.items())
            raise UserError(f"{path}: the cell {asked} is asked for twice, or differs in nothing that training knows")
        cells[cell.digest] = cell
    made = tuple(cells.values())
    values = tuple(tuple(dict.fromkeys(cell.labels[place] for cell in made)) for place in range(len(keys)))
    if len({(cell.labels, cell.seed) for cell in made}) < len(made):
        raise UserError(f"{path}: a value stands twice with other keys beside it: make those a key of the grid")
    if reference is not None:
        # the value as its configuration has it, auto:100.0 as auto:100
        asked_for = {_label(changes[keys[0]]): cell.labels[0] for (changes, _), cell in zip(configs, made, strict=True)}
        found = asked_for.get(_label(reference), _label(reference))
        if found not in values[0]:
            raise UserError(f"{path}: reference: {reference} is no value of {keys[0]} ({', '.join(values[0])})")
        reference = found
    return Grid(path, keys, values, tuple(dict.fromkeys(cell.seed for cell in made)), reference, made)


def _axes(path: Path, grid: object) -> dict[str, list[dict[str, Any]]]:
    """Return for each key of the grid what each of its values changes."""
    if not isinstance(grid, dict) or not grid:
        raise UserError(f"{path}: grid is missing: write `grid:` and below it keys with lists, `clip: [auto:1, none]`")
    axes: dict[str, list[dict[str, Any]]] = {}
    for key, values in flatten(grid).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid: {key}: {values!r} is not allowed: write a list, `{key}: [A, B]`")
        axes[key] = [_changes(path, key, value) for value in values]
    if set(axes) == {SEED}:
        raise UserError(f"{path}: grid: a grid needs a key beside {SEED}, such as clip or loss.name")
    for key, items in axes.items():
        others = {other for item in items for other in item} & set(axes) - {key}
        if others:
            raise UserError(f"{path}: grid: {key} also changes {min(others)}, which is a key of the grid itself")
    return axes


def _changes(path: Path, key: str, value: object) -> dict[str, Any]:
    if isinstance(value, list):
        raise UserError(f"{path}: grid: {key}: {value} is not allowed: a list in a list")
    if not isinstance(value, dict):
        return {key: value}
    changes = flatten(value)
    if key not in changes:
        raise UserError(f"{path}: grid: {key}: {value} says nothing of {key}: write {{{key}: VALUE, other.key: VALUE}}")
    return changes


def _refuse_settings_of_the_grid(
    path: Path, axes: dict[str, list[dict[str, Any]]], settings: Sequence[str], steps: int | None
) -> None:
    changed = {key for items in axes.values() for item in items for key in item}
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in changed:
            hint = "use --seeds" if key == SEED else f"change {path}"
            raise UserError(f"--set {setting}: the grid itself gives {key} its values; {hint}")
    if steps is not None and changed & {"train.steps", "train.epochs"}:
        raise UserError(f"--steps {steps}: the grid itself says how long to train; change {path}")


def _recipe(path: Path, recipe: object) -> str | None:
    """Return the recipe that all cells start from; a file is looked for beside the grid file first."""
    if recipe is None:
        return None
    if not isinstance(recipe, str):
        raise UserError(f"{path}: config: {recipe!r} is not allowed: write the name of one recipe, or a file")
    beside = path.parent / recipe
    try:
        return str(beside if beside.is_file() else shipped_path(recipe, "config:"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

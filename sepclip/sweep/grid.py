"""The grid of a sweep: expands a file of keys with lists of values to cells, each with its complete configuration.

A cell is identified by a digest of the mixtures and of all keys that influence the course or the end of its training.
Two sweeps that ask for the same training therefore share the run, whatever the grid file or the order of its values.
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
from sepclip.config.schema import ADDED, Config
from sepclip.errors import UserError
from sepclip.training.run import MAY_CHANGE

SEED = "seed"
_SECTIONS = ("config", "set", "grid", "reference")
# a run may be resumed with more steps, but a cell with more steps has other scores
_NOT_IN_DIGEST = MAY_CHANGE - {
    "train.steps",
    "train.epochs",
    "train.max_minutes",
    "train.early_stopping",
    "train.on_nonfinite",
}


@dataclass(frozen=True)
class Cell:
    """One training: its ``labels`` (one value per key of the grid except the seed), its seed and its configuration."""

    labels: tuple[str, ...]
    seed: int
    config: Config
    digest: str

    @property
    def name(self) -> str:
        """The folder name of a new run: readable, and unique because it ends in the digest."""
        prefix = re.sub(r"[^\w.-]+", "", "_".join((*self.labels, f"seed{self.seed}")))
        return f"{prefix[:60]}-{self.digest}"


@dataclass(frozen=True)
class Grid:
    """All cells of a grid file. The first key is the rows, the second the columns; further keys add rows."""

    path: Path
    keys: tuple[str, ...]  # without the seed
    values: tuple[tuple[str, ...], ...]  # the labels of each key, in the order of the file
    seeds: tuple[int, ...]
    reference: str | None  # the label of the first key that the others are compared with
    cells: tuple[Cell, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return for each row its labels of the first key and of the keys after the second."""
        return list(itertools.product(self.values[0], *self.values[2:]))

    def columns(self) -> list[str | None]:
        """Return the labels of the second key, or one column without a label if there is no second key."""
        return list(self.values[1]) if len(self.keys) > 1 else [None]

    def labels(self, row: tuple[str, ...], column: str | None) -> tuple[str, ...]:
        """Return the labels of the cells in one entry of the table, in the order of ``keys``."""
        return row if column is None else (row[0], column, *row[1:])

    def row_title(self, row: tuple[str, ...]) -> str:
        """Return the heading of a row."""
        further = [f"{key}={value}" for key, value in zip(self.keys[2:], row[1:], strict=True)]
        return ", ".join([row[0], *further])

    def describe(self, cell: Cell) -> str:
        """Return the settings of a cell as text, such as ``clip=auto:10 loss.name=mi seed=0``."""
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
    """Read the grid file ``name``, or the grid of that name that comes with sepclip, and resolve all its cells.

    ``settings`` ("key=value") and ``steps`` apply to all cells; ``seeds`` replace the seeds of the file. ``precision``
    is the meaning of ``auto`` on this machine. Raises UserError for any mistake in any cell, before any is trained.
    """
    path = shipped_path(name, "GRID", grids=True)
    file = read_yaml(path)
    _refuse_unknown_sections(path, file)
    # what varies: for each key, what each of its values changes
    axes = _axes(path, file.get("grid"))
    if seeds is not None:
        axes[SEED] = [{SEED: seed} for seed in seeds]
    _refuse_settings_of_the_grid(path, axes, settings, steps)
    # what all cells have in common
    fixed = file.get("set", {})
    if not isinstance(fixed, dict) or ("set" in file and not fixed):
        raise UserError(f"{path}: set: {fixed!r} is not allowed: write keys with one value each below it")
    recipe = _recipe(path, file.get("config"))
    # one configuration for each combination of values
    configs: list[tuple[dict[str, Any], Config]] = []
    for choice in itertools.product(*axes.values()):
        changes = {key: value for item in choice for key, value in item.items()}
        description = _describe(changes)
        try:
            config = load_config(
                recipe, settings, {"train.steps": steps}, changes=[("set", fixed), (f"grid, {description}", changes)]
            )
        except UserError as error:
            raise UserError(f"{path}, cell {description}: {error}") from error
        if config.precision == "auto":
            config = config.model_copy(update={"precision": precision})
        configs.append((changes, config))
    return _grid(path, axes, configs, file.get("reference"), data_digest)


def _refuse_unknown_sections(path: Path, file: Mapping[str, object]) -> None:
    for section in file:
        if section not in _SECTIONS:
            near = difflib.get_close_matches(str(section), _SECTIONS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"a grid file has {', '.join(_SECTIONS)}"
            raise UserError(f"{path}: there is no section {section!r}; {hint}")


def digest_of(config: Config, data_digest: str) -> str:
    """Return the identity of a training: 12 characters of the hash of its mixtures and its configuration.

    Excludes keys that change neither its course nor its end, such as ``device``, ``train.log_every``,
    ``train.save_every`` and ``data.memory_gib``, and ``train.epochs`` if ``train.steps`` overrides it.
    """
    keys = {key: value for key, value in flatten(config.model_dump()).items() if key not in _NOT_IN_DIGEST}
    # a key that 0.1 did not have counts only if it is used, so that the cells of earlier sweeps keep their identity
    keys = {key: value for key, value in keys.items() if key not in ADDED or value != ADDED[key]}
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
    """Return the grid of ``configs``. Raises UserError for duplicate cells, or a reference that is not a value."""
    # the cells, by digest: two of the same digest would be the same training
    keys = tuple(key for key in axes if key != SEED)
    cells: dict[str, Cell] = {}
    for changes, config in configs:
        flat = flatten(config.model_dump())
        cell = Cell(tuple(_label(flat[key]) for key in keys), config.seed, config, digest_of(config, data_digest))
        if cell.digest in cells:
            raise UserError(
                f"{path}: the cell {_describe(changes)} is listed twice, or differs from another cell in nothing that "
                f"changes training: remove one of the two"
            )
        cells[cell.digest] = cell
    ordered = tuple(cells.values())
    # the table has one entry for each combination of labels, so these must be unique as well
    values = tuple(tuple(dict.fromkeys(cell.labels[axis] for cell in ordered)) for axis in range(len(keys)))
    if len({(cell.labels, cell.seed) for cell in ordered}) < len(ordered):
        raise UserError(
            f"{path}: a value is listed twice with different keys beside it: make each of those a key of the grid"
        )
    # the reference as the resolved configuration spells it: auto:100.0 becomes auto:100
    label = None
    if reference is not None:
        spellings = {
            _label(changes[keys[0]]): cell.labels[0] for (changes, _), cell in zip(configs, ordered, strict=True)
        }
        label = spellings.get(_label(reference), _label(reference))
        if label not in values[0]:
            raise UserError(f"{path}: reference: {reference} is not a value of {keys[0]} ({', '.join(values[0])})")
    return Grid(path, keys, values, tuple(dict.fromkeys(cell.seed for cell in ordered)), label, ordered)


def _describe(changes: Mapping[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in changes.items())


def _axes(path: Path, grid: object) -> dict[str, list[dict[str, Any]]]:
    """Return for each key of the grid the changes that each of its values makes to the configuration."""
    if not isinstance(grid, dict) or not grid:
        raise UserError(
            f"{path}: grid is missing: write `grid:` and below it lists for keys, such as `clip: [auto:1, none]`"
        )
    axes: dict[str, list[dict[str, Any]]] = {}
    for key, values in flatten(grid).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid: {key}: {values!r} is not allowed: write a list, `{key}: [A, B]`")
        axes[key] = [_changes(path, key, value) for value in values]
    if set(axes) == {SEED}:
        raise UserError(f"{path}: grid: a grid needs a key beside {SEED}, such as clip or loss.name")
    for key, items in axes.items():
        conflicts = {changed for item in items for changed in item} & set(axes) - {key}
        if conflicts:
            raise UserError(f"{path}: grid: {key} also changes {min(conflicts)}, which is a key of the grid itself")
    return axes


def _changes(path: Path, key: str, value: object) -> dict[str, Any]:
    """Return the changes that one value of a key makes: to the key alone, or, for a mapping, to several keys."""
    if isinstance(value, list):
        raise UserError(f"{path}: grid: {key}: {value} is not allowed: it is a list in a list")
    if not isinstance(value, dict):
        return {key: value}
    changes = flatten(value)
    if key not in changes:
        raise UserError(f"{path}: grid: {key}: {value} does not set {key}: write {{{key}: VALUE, other.key: VALUE}}")
    return changes


def _refuse_settings_of_the_grid(
    path: Path, axes: dict[str, list[dict[str, Any]]], settings: Sequence[str], steps: int | None
) -> None:
    """Raise UserError if ``--set`` or ``--steps`` would override a key of the grid in all cells."""
    changed = {key for items in axes.values() for item in items for key in item}
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in changed:
            hint = "use --seeds" if key == SEED else f"change {path}"
            raise UserError(f"--set {setting}: the grid itself sets {key}; {hint}")
    if steps is not None and changed & {"train.steps", "train.epochs"}:
        raise UserError(f"--steps {steps}: the grid itself sets the length of training; change {path}")


def _recipe(path: Path, recipe: object) -> str | None:
    """Return the recipe that all cells start from. A file beside the grid file takes precedence."""
    if recipe is None:
        return None
    if not isinstance(recipe, str):
        raise UserError(f"{path}: config: {recipe!r} is not allowed: write the name of one recipe, or of a file")
    local = path.parent / recipe
    try:
        return str(local if local.is_file() else shipped_path(recipe, "config:"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

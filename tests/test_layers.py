"""The arrows between the modules run one way; asserted from the imports."""

import ast
import re
from pathlib import Path

import pytest

import sepclip

PACKAGE = Path(sepclip.__file__).parent
# each layer may import those named, and itself: DESIGN's order, from the bottom
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "startup": set(),
    "unique_yaml": set(),
    "pretrained": {"errors"},
    "clip": set(),
    "integrations": {"clip"},
    "terminal": {"errors"},
    "parallel": {"errors", "terminal"},
    "audio": {"errors"},
    "mixing": {"audio", "errors", "terminal"},
    "corpora": {"mixing", "audio", "parallel", "errors", "terminal", "unique_yaml"},
    "scoring": {"audio", "parallel", "errors", "terminal"},
    "model": {"audio", "errors"},
    "config": {"clip", "model", "mixing", "audio", "errors", "unique_yaml"},
}
LAYERS["training"] = {"config", "model", "mixing", "audio", "clip", "parallel", "startup", "errors", "terminal"}
LAYERS["training"] |= {"pretrained"}
LAYERS["separation"] = {"training", "pretrained", "model", "audio", "parallel", "errors", "terminal"}
LAYERS["evaluation"] = {"separation", "scoring", "model", "mixing", "audio", "errors", "terminal"}
LAYERS["sweep"] = {"evaluation", "scoring", *LAYERS["training"], "training"} - {"clip", "model"}
LAYERS["report"] = {"sweep", "evaluation", "scoring", *LAYERS["training"], "training"} - {"clip", "parallel", "startup"}
LAYERS["environment"] = {"training", "config", "model", "corpora", "scoring", "audio", "parallel", "startup", "errors"}
LAYERS["demo"] = {"report", "evaluation", "scoring", "separation", "training", "config", "corpora", "mixing", "audio"}
LAYERS["demo"] |= {"pretrained", "model", "errors", "terminal"}
LAYERS["commands"] = set(LAYERS)
LAYERS["cli"] = set(LAYERS)
LAYERS["__main__"] = {"cli"}
SOURCES = {".py", ".js", ".css", ".html"}
LIGHT = {"typer", "rich", "sepclip"}  # what `--help` may import at the top, beside the standard library


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name below ``sepclip``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if name != "__init__":
            found[name] = path
    return found


def imported(path: Path, *, top_only: bool = False) -> set[str]:
    """Return the names imported by a file, at its top only or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", modules())
def test_imports_stay_within_the_layers(name: str) -> None:
    layer = name.split(".")[0]
    assert layer in LAYERS, f"{name}: a new layer; give it its place in DESIGN's order"
    for target in imported(modules()[name]):
        parts = target.split(".")
        if parts[0] == "sepclip" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in LAYERS[layer] | {layer}, f"{name} must not import {target}"


def graph() -> dict[str, set[str]]:
    """Return which module imports which, at the top or inside a function."""
    every = modules()
    arrows: dict[str, set[str]] = {}
    for name, path in every.items():
        arrows[name] = set()
        for target in imported(path):
            below = target.removeprefix("sepclip.")
            if target.startswith("sepclip.") and below not in every:
                below = below.rpartition(".")[0]  # a name within a module
            if below in every and below != name:
                arrows[name].add(below)
    return arrows


def test_no_two_files_import_each_other() -> None:
    left = graph()
    while left:  # take away what imports nothing that is left, until nothing is left but cycles
        free = {name for name, below in left.items() if not below & set(left)}
        assert free, f"import cycle among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in free}


def test_a_file_name_stands_for_one_thing() -> None:
    """The same name in several folders is the same thing: the command, plan and lists of each corpus."""
    stems: dict[str, list[str]] = {}
    for name, path in modules().items():
        if path.name != "__init__.py" and not name.startswith("commands."):
            stems.setdefault(path.stem, []).append(name)
    several = {stem: names for stem, names in stems.items() if len(names) > 1}
    for stem in ("command", "plan", "lists"):
        assert all(name.startswith("corpora.") for name in several.pop(stem))
    assert not several


def is_corpus_command(name: str) -> bool:
    """Tell whether a module is where typer may be used in ``corpora``: ``command.py``, or a corpus of one file."""
    return bool(re.fullmatch(r"corpora\.(\w+\.)?command", name)) or (
        name.startswith("corpora.") and "CORPORA = " in modules()[name].read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", modules())
def test_typer_is_used_by_commands_alone(name: str) -> None:
    if name != "cli" and not name.startswith("commands") and not is_corpus_command(name):
        assert "typer" not in {target.split(".")[0] for target in imported(modules()[name])}


def test_no_folder_holds_most_of_the_package() -> None:
    lines = {path: len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*") if path.suffix in SOURCES}
    folders: dict[str, int] = {}
    for path, count in lines.items():
        below = path.relative_to(PACKAGE).parts
        if len(below) > 1:
            folders[below[0]] = folders.get(below[0], 0) + count
    largest = max(folders, key=lambda folder: folders[folder])
    assert folders[largest] < 0.17 * sum(lines.values()), largest


def test_layers_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(LAYERS):
        free = {layer for layer, below in LAYERS.items() if layer not in done and below <= done}
        assert free, f"cycle among {set(LAYERS) - done}"
        done |= free


def test_clip_can_be_copied_into_any_script() -> None:
    import sys

    assert {name.split(".")[0] for name in imported(PACKAGE / "clip.py")} <= {*sys.stdlib_module_names, "torch"}


def test_adapters_are_imported_by_nobody_and_their_libraries_at_the_last_moment() -> None:
    import sys

    for name, path in modules().items():
        if name.split(".")[0] == "integrations":
            tops = {target.split(".")[0] for target in imported(path)}
            assert tops <= {*sys.stdlib_module_names, "torch", "sepclip"}
        else:
            assert not [target for target in imported(path) if target.startswith("sepclip.integrations")]


@pytest.mark.parametrize(
    ("package", "home"), [("torchaudio", "audio/resample.py"), ("museval", "scoring/museval_adapter.py")]
)
def test_troubled_packages_are_imported_in_one_place(package: str, home: str) -> None:
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in modules().values()
        if any(name.split(".")[0] == package for name in imported(path))
        or re.search(rf'(import_module|find_spec)\("{package}', path.read_text(encoding="utf-8"))
    ]
    assert users == [home]


@pytest.mark.parametrize(
    "name",
    [n for n in modules() if n in {"cli", "errors", "terminal", "corpora"} or "commands" in n or is_corpus_command(n)],
)
def test_what_help_imports_is_light(name: str) -> None:
    import sys

    tops = {target.split(".")[0] for target in imported(modules()[name], top_only=True)}
    assert tops <= {*sys.stdlib_module_names, *LIGHT}


@pytest.mark.parametrize("name", modules())
def test_files_stay_readable(name: str) -> None:
    # clip.py is made to be copied, so it must stay one file; all keys and all losses are each to be read in one place
    most = {"clip": 1000, "config.schema": 400, "model.losses": 400}.get(name, 350)
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= most


def test_no_file_is_a_drawer() -> None:
    assert not {name.split(".")[-1] for name in modules()} & {"utils", "common", "helpers", "misc", "core"}

"""The arrows between the modules run one way; asserted from the imports."""

import ast
import re
from pathlib import Path

import pytest

import sepclip

PACKAGE = Path(sepclip.__file__).parent
# each layer may import those named, and itself
LAYERS = {
    "errors": set(),
    "clip": set(),
    "integrations": {"clip"},
    "startup": set(),
    "processor": set(),
    "terminal": {"errors"},
    "audio": {"errors"},
    "model": {"audio", "errors"},
    "mixing": {"audio", "processor", "errors", "terminal"},
    "settings": {"clip", "model", "audio"},
    "config": {"settings", "model", "errors"},
    "training": {
        "audio",
        "mixing",
        "model",
        "clip",
        "config",
        "settings",
        "startup",
        "processor",
        "errors",
        "terminal",
    },
    "separation": {"training", "audio", "model", "processor", "errors", "terminal"},
    "scoring": {"audio", "processor", "errors", "terminal"},
    "evaluation": {"scoring", "separation", "audio", "mixing", "model", "errors", "terminal"},
    "sweep": {
        "evaluation",
        "scoring",
        "training",
        "mixing",
        "audio",
        "config",
        "settings",
        "startup",
        "processor",
        "errors",
        "terminal",
    },
    "demo": {
        "report",
        "evaluation",
        "scoring",
        "separation",
        "training",
        "mixing",
        "audio",
        "config",
        "settings",
        "errors",
        "terminal",
    },
    "pictures": {"training", "audio", "errors"},
    "report": {
        "pictures",
        "sweep",
        "evaluation",
        "scoring",
        "training",
        "mixing",
        "model",
        "audio",
        "config",
        "settings",
        "errors",
        "terminal",
    },
    "information": {"training", "model", "mixing", "audio", "config", "settings", "startup", "processor", "errors"},
}
LAYERS["commands"] = set(LAYERS)
LAYERS["cli"] = set(LAYERS)
LAYERS["__main__"] = {"cli"}
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


@pytest.mark.parametrize(("package", "home"), [("torchaudio", "audio/resample.py"), ("museval", "audio/bsseval.py")])
def test_troubled_packages_are_imported_in_one_place(package: str, home: str) -> None:
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in modules().values()
        if any(name.split(".")[0] == package for name in imported(path))
        or re.search(rf'(import_module|find_spec)\("{package}', path.read_text(encoding="utf-8"))
    ]
    assert users == [home]


@pytest.mark.parametrize(
    "name", [n for n in modules() if n in {"cli", "errors", "terminal", "mixing"} or "commands" in n or "corpora" in n]
)
def test_what_help_imports_is_light(name: str) -> None:
    import sys

    tops = {target.split(".")[0] for target in imported(modules()[name], top_only=True)}
    assert tops <= {*sys.stdlib_module_names, *LIGHT}


@pytest.mark.parametrize("name", modules())
def test_files_stay_readable(name: str) -> None:
    most = 750 if name == "clip" else 350  # clip.py is made to be copied, so it must stay one file
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= most


def test_no_file_is_a_drawer() -> None:
    assert not {name.split(".")[-1] for name in modules()} & {"utils", "common", "helpers", "misc", "core"}

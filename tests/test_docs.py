"""README, help and commands agree."""

import re
import shlex

import pytest
from typer.main import get_command

from sepclip.cli import app
from sepclip.config.load import flatten, load_config, shipped
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README, re.DOTALL)
LINES = [
    line.removeprefix("$ ")
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\$ )?sepclip ", line)
]


def resolve(words: list[str]):  # type: ignore[no-untyped-def]
    """Return the command that a command line calls, and the words after it."""
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command, words


def options(command) -> dict[str, object]:  # type: ignore[no-untyped-def]
    return {name: item for item in command.params for name in (*item.opts, *item.secondary_opts) if name[0] == "-"}


def leaves(command, path=()):  # type: ignore[no-untyped-def]
    children = getattr(command, "commands", None)
    if not children:
        yield " ".join(path)
    for name in children or ():
        yield from leaves(children[name], (*path, name))


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_of_the_readme_is_valid(line: str) -> None:
    command, words = resolve(shlex.split(line.split(" #")[0])[1:])
    known = {**options(command), "--help": None, "-h": None}
    arguments = 0
    while words:
        word = words.pop(0).split("=")[0]
        if not word.startswith("-"):
            arguments += 1
            continue
        assert word in known, f"{line}: no option {word}"
        if known[word] is not None and not known[word].is_flag and not known[word].multiple:  # type: ignore[attr-defined]
            words.pop(0)
        elif known[word] is not None and not known[word].is_flag:  # type: ignore[attr-defined]
            assert "=" in words.pop(0) or "=" not in str(known[word].metavar)  # type: ignore[attr-defined]
    if "commands" in vars(command):
        return  # such as `sepclip prepare --list`
    required = [item for item in command.params if item.param_type_name == "argument" and item.required]
    assert arguments >= len(required) or "--help" in line, f"{line}: {len(required)} arguments are needed"


@pytest.mark.parametrize("command", list(leaves(get_command(app))))
def test_every_command_has_an_example_in_the_readme(command: str) -> None:
    assert any(f"sepclip {command} " in f"{line} " for line in LINES)


def test_every_option_named_in_the_readme_exists() -> None:
    known: set[str] = {"--help", "--version", "--constraint", "--index-url", "--nproc-per-node"}
    known |= set(options(resolve(["prepare"])[0]))
    for name in leaves(get_command(app)):
        known |= set(options(resolve(name.split())[0]))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_every_shipped_configuration_is_in_the_readme() -> None:
    for name in shipped():
        assert f"`{name}`" in README


def test_every_function_and_key_named_in_paper_md_exists() -> None:
    text = (REPOSITORY / "docs" / "PAPER.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+\.py): (\w+)`", text)
    assert len(places) > 20
    for file, name in places:
        source = (REPOSITORY / "sepclip" / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), f"{file}: {name}"
    keys = flatten(load_config().model_dump())
    for key in re.findall(r"`([a-z]+\.[a-z_]+)`", text):
        assert key in keys or key.endswith(".py"), key


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/DECISIONS.md", "docs/METHOD.md", "docs/PAPER.md"])
def test_every_path_named_in_a_guide_exists(page: str) -> None:
    paths = re.findall(r"`((?:[\w.]+/)+[\w.]*\.(?:py|yaml|md))\b", (REPOSITORY / page).read_text(encoding="utf-8"))
    assert len(paths) > 5
    for path in paths:
        assert (REPOSITORY / path).exists() or (REPOSITORY / "sepclip" / path).exists(), f"{page}: {path}"


def test_every_link_has_a_target() -> None:
    pages = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    for page in [*pages, REPOSITORY / "data" / "README.md", REPOSITORY / "data" / "speech" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_demo_voices_come_with_their_licences() -> None:
    speech = REPOSITORY / "data" / "speech"
    texts = {path.name: path.read_text(encoding="utf-8") for path in (speech / "licences").iterdir()}
    for name, words in {
        "CC-BY-SA-3.0.txt": "ShareAlike",
        "CC-BY-3.0.txt": "Attribution",
        "CC-BY-SA-3.0-IT.txt": "Menardi",
        "GPL-2.txt": "GNU GENERAL PUBLIC LICENSE",
        "BSD-armelle.txt": "Michel Gutierrez",
    }.items():
        assert words in texts[name]
    voices = {path.name for path in speech.iterdir() if path.is_dir()} - {"licences"}
    assert len(voices) == 8
    readme = (REPOSITORY / "data" / "README.md").read_text(encoding="utf-8")
    for voice in voices:
        assert f"`{voice}`" in readme

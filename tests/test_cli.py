import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import sepclip as package
from sepclip.cli import app
from sepclip.clip import RULES
from sepclip.commands.train import FLAG_KEYS
from sepclip.config.load import flatten, load_config
from sepclip.corpora import corpora
from sepclip.model.losses import LOSSES
from sepclip.model.networks import NETWORKS
from sepclip.model.separator import losses_of
from tests.conftest import SPEECH, TINY, assert_told, sepclip

COMMANDS = ["demo", "prepare", "train", "separate", "models", "eval", "sweep", "dynamics", "report", "info"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["prepare", "speakers"]])
def test_every_help_works_without_heavy_imports(command: list[str]) -> None:
    result = sepclip(*command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sepclip", *command, "--help"],
        capture_output=True,
        text=True,
        timeout=600,
    ).stderr
    for heavy in ("torch", "numpy", "scipy", "pandas", "soundfile", "museval"):
        assert f" {heavy}\n" not in loaded, f"{heavy} is imported for --help"


def test_the_help_names_every_loss() -> None:
    (loss,) = [option for option in get_command(app).commands["train"].params if option.name == "loss"]
    assert loss.help.startswith(f"Loss to minimise: {', '.join(LOSSES)}.")


def test_the_help_describes_every_clipping_rule() -> None:
    (clip,) = [option for option in get_command(app).commands["train"].params if option.name == "clip"]
    grammars = clip.help.removeprefix("Clipping rule: ").partition(". The threshold")[0].split("; ")
    assert sorted(grammars) == sorted(rule.grammar for rule in RULES.values())


def test_the_flags_of_train_name_existing_keys_in_their_help() -> None:
    options = {option.name: option for option in get_command(app).commands["train"].params}
    known = flatten(load_config().model_dump())
    for flag, key in FLAG_KEYS.items():
        assert key in known
        assert f"--{flag.replace('_', '-')}" in options[flag].opts
        assert options[flag].help.endswith(f" Key: {key}.")


def test_a_wrong_flag_of_train_is_named_in_the_error(tmp_path: Path) -> None:
    assert_told(
        sepclip("train", tmp_path, "--run", tmp_path / "run", "--loss", "sdr"),
        "--loss: 'sdr' is not allowed: choose one of mi",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command: str) -> None:
    def with_subcommands(parent):
        yield parent
        for child in getattr(parent, "commands", {}).values():
            yield from with_subcommands(child)

    for item in with_subcommands(get_command(app).commands[command]):
        assert item.help
        for parameter in item.params:
            assert getattr(parameter, "help", None), f"{command}: {parameter.name}"


def test_version() -> None:
    assert sepclip("--version").stdout == f"sepclip {package.__version__}\n"


def test_info_reports_what_works() -> None:
    facts = json.loads(sepclip("info", "--json").stdout)
    assert facts["resampling"] == facts["bsseval"] == "works"
    assert {"base", "paper/mi", "paper/dc", "small", "demo"} <= set(facts["configs"])
    assert facts["networks"] == {name: losses_of(name) for name in NETWORKS}
    assert facts["corpora"] == sorted(corpora())
    assert "RAW" not in facts["sound_formats"]
    assert f"sepclip {package.__version__}" in sepclip("info").stdout


def test_wrong_usage_exits_with_2() -> None:
    assert sepclip("train").returncode == 2
    assert sepclip("trian").returncode == 2
    assert sepclip("eval", "--nonsense").returncode == 2
    assert_told(sepclip("prepare", "speakers", "x"), "out", code=2)


def test_stdout_is_one_document_with_json(small_set: Path, tmp_path: Path) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    result = sepclip("train", small_set, "--run", tmp_path / "run", "--steps", 10, *settings, "--json")
    assert json.loads(result.stdout)["steps"] == 10
    file = SPEECH / "en-f" / "0000.flac"
    result = sepclip("separate", tmp_path / "run", file, tmp_path / "no.wav", "--out", tmp_path / "out", "--json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert list(document["written"]) == [str(file)]
    assert document["failed"] == {str(tmp_path / "no.wav"): "no such file"}


def test_a_closed_pipe_prints_no_traceback() -> None:
    command = f"{sys.executable} -m sepclip info | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in result.stderr


def test_names_with_brackets_and_spaces_are_printed_as_they_are(tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a [red] file.wav"
    path.write_bytes((SPEECH / "en-f" / "0000.flac").read_bytes())
    result = sepclip("separate", tiny_run, path, "--out", tmp_path / "out")
    assert "a [red] file_s1.wav" in result.stdout

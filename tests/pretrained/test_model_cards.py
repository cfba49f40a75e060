import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepclip import Separator
from sepclip.errors import UserError
from sepclip.pretrained.model_cards import DEFAULT, find_run, is_model, model_names, read_card
from sepclip.pretrained.pack import pack
from sepclip.training.run import Run
from tests.conftest import SPEECH, assert_told, sepclip

MOST_MB = 8


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mixture of two voices that no model was trained on."""
    waves = [soundfile.read(sorted(SPEECH.glob(f"{voice}/*"))[0])[0][:16000] for voice in ("fr-f", "ru-m")]
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, (waves[0] + waves[1]) / 2, 8000)
    return path


@pytest.mark.parametrize("name", model_names())
def test_every_model_is_small_documented_and_separates(name: str) -> None:
    card = read_card(name)
    assert card.megabytes <= MOST_MB
    assert card.task
    assert card.training_data
    assert card.licence
    assert card.limits
    for word in ("sepclip prepare", "sepclip train", "CC BY 4.0", "Panayotov", "Zhang"):
        assert word in card.text, f"the card of {name} lacks {word}"
    run = Run.open(Path(name))
    assert run.layout.rate_hz == card.rate_hz
    separator = Separator.load(name)
    waves = separator.separate(np.random.default_rng(0).normal(0, 0.1, card.rate_hz).astype(np.float32), card.rate_hz)
    assert waves.shape == (2, card.rate_hz)
    assert np.isfinite(waves).all()


def test_the_default_model_ships_and_comes_first() -> None:
    assert model_names()[0] == DEFAULT


def test_separate_without_a_run_uses_the_default_model_and_states_its_limits(talk: Path, tmp_path: Path) -> None:
    result = sepclip("separate", talk, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert read_card(DEFAULT).limits in result.stderr
    waves = [soundfile.read(tmp_path / "out" / f"talk_{source}.wav")[0] for source in ("s1", "s2")]
    mixture, _ = soundfile.read(talk)
    assert [wave.shape for wave in waves] == [mixture.shape] * 2
    # the same from Python, up to the 16 bits of the files
    expected = Separator.load().separate(mixture.astype(np.float32), 8000)
    assert np.abs(np.stack(waves) - expected).max() < 1e-3


def test_three_ways_to_name_a_model_write_the_same_files(talk: Path, tmp_path: Path) -> None:
    ways = [["--model", DEFAULT, talk], [DEFAULT, talk], ["--run", DEFAULT, talk]]
    results = []
    for index, way in enumerate(ways):
        assert sepclip("separate", *way, "--out", tmp_path / str(index)).returncode == 0
        results.append((tmp_path / str(index) / "talk_s1.wav").read_bytes())
    assert results[0] == results[1] == results[2]


def test_a_run_that_does_not_exist_is_not_replaced_by_the_default_model(talk: Path, tmp_path: Path) -> None:
    result = sepclip("separate", tmp_path / "runs" / "mine", talk, "--out", tmp_path / "out")
    assert_told(result, "no such run or model", DEFAULT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "two-speaker", "FILE"], ("there is no model 'two-speaker'", DEFAULT)),
        (["--model", DEFAULT, "--run", "x", "FILE"], ("either --model or --run",)),
        ([DEFAULT], ("give the files to separate after",)),
        ([DEFAULT, "--model", DEFAULT, "FILE"], ("leave one out",)),
        (["--run", "nowhere", "FILE"], ("nowhere: no such run or model",)),
    ],
)
def test_a_wrong_choice_of_model_is_an_error_with_the_remedy(talk, tmp_path, arguments, words) -> None:
    result = sepclip("separate", *(talk if word == "FILE" else word for word in arguments), cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_models_lists_every_model_and_prints_cards() -> None:
    listed = json.loads(sepclip("models", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == model_names()
    table = sepclip("models").stdout
    for name in model_names():
        card = sepclip("models", name).stdout
        assert card.strip() == read_card(name).text
        assert name in table
    assert_told(sepclip("models", "nope"), "there is no model 'nope'", DEFAULT)


def test_a_run_goes_before_a_model_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_model(DEFAULT)
    (tmp_path / DEFAULT).mkdir()
    assert is_model(DEFAULT)  # a folder of scores is not a run
    (tmp_path / DEFAULT / "config.yaml").touch()
    assert find_run(DEFAULT) == Path(DEFAULT)


def test_a_packed_run_separates_as_before_up_to_half_precision(tmp_path: Path) -> None:
    run = find_run(DEFAULT)
    # a run in full precision, of the weights that ship
    best = tmp_path / "run" / "checkpoints" / "best"
    best.mkdir(parents=True)
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_bytes((run / name).read_bytes())
    (best / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    pack(tmp_path / "run", tmp_path / "packed", "voices")
    assert json.loads((tmp_path / "packed" / "environment.json").read_text())["data"]["path"] == "voices"
    wave = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    first, second = (
        Separator.load(folder, device="cpu").separate(wave, 16000) for folder in (run, tmp_path / "packed")
    )
    assert torch.equal(first, second)


def test_models_are_listed_without_heavy_imports() -> None:
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sepclip", "models"], capture_output=True, text=True, timeout=600
    ).stderr
    assert " torch\n" not in loaded


def test_a_model_that_is_missing_from_python_is_named() -> None:
    with pytest.raises(UserError, match=r"no such run or model.*the models are"):
        Separator.load("nowhere")

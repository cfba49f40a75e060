from pathlib import Path

import pytest
import yaml

from sepclip.config import Config, configs_folder, differences, flatten, load_config, shipped
from sepclip.errors import UserError

RECIPES = shipped()


def test_base_holds_every_key_with_a_comment() -> None:
    text = (configs_folder() / "base.yaml").read_text(encoding="utf-8")
    assert set(flatten(load_config().model_dump())) == set(flatten(yaml.safe_load(text)))
    for line in text.splitlines():
        if line and not line.startswith("#") and not line.endswith(":"):
            assert " # " in line, f"no comment: {line}"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_changes_something(name: str) -> None:
    config = load_config(name)
    tree = yaml.safe_load((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    if name != "base":
        assert len((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 20
    values = flatten(config.model_dump())
    for key, value in flatten(tree).items():
        assert values[key] == value or values[key] == float(value)


def test_numbers_without_a_point_are_numbers() -> None:
    # PyYAML reads 1e-3 as a string
    assert load_config().optimizer.learning_rate == 0.001
    assert load_config(settings=["optimizer.learning_rate=3e-4"]).optimizer.learning_rate == 0.0003


def test_later_settings_win(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\nmodel:\n  layers: 2\n  hidden: 7\n")
    config = load_config(str(recipe), ["model.hidden=8", "seed=2"], {"seed": 3, "clip": None})
    assert (config.seed, config.model.layers, config.model.hidden, config.clip) == (3, 2, 8, "auto:10")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.layer=2", ["model.layers"]),
        ("layers=2", ["did you mean model.layers"]),
        ("model=2", ["no key 'model'"]),
        ("zzz=2", ["base.yaml has all"]),
        ("model.layers", ["key=value"]),
        ("model.layers=[", ["YAML"]),
        ("model.layers=two", ["model.layers", "'two'"]),
        ("model.layers=0", ["model.layers", "greater than or equal to 1"]),
        ("model.dropout=1", ["less than 1"]),
        ("stft.hop_length=100", ["divide window_length"]),
        ("clip=auto:101", ["auto:P", "0 <= P <= 100"]),
        ("clip=auto", ["no clipping rule"]),
        ("loss.name=sdr", ["mi, dc"]),
        ("loss.target=irm", ["tpsa"]),
        ("model.network=unet", ["blstm"]),
        ("device=tpu", ["device"]),
        ("precision=fp8", ["bf16"]),
    ],
)
def test_a_wrong_setting_is_told(setting: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config(settings=[setting])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper-mi"):
        load_config("papermi")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(UserError, match="no YAML"):
        load_config(str(broken))
    broken.write_text("just words")
    with pytest.raises(UserError, match="holds no configuration"):
        load_config(str(broken))
    broken.write_text("modle:\n  layers: 2\n")
    with pytest.raises(UserError, match=r"did you mean model\.layers"):
        load_config(str(broken))


def test_a_grid_is_no_recipe() -> None:
    assert shipped(grids=True) == ["table1"]
    assert "table1" not in RECIPES
    with pytest.raises(UserError, match="sepclip sweep table1 DATA"):
        load_config("table1")


def test_changes_come_between_recipe_and_settings_and_are_told_by_their_place() -> None:
    changes = [("a file", {"model": {"layers": 1}, "clip": "none"}), ("cell 3", {"model.hidden": 5})]
    config = load_config("demo", ["clip=auto:1"], changes=changes)
    assert (config.model.layers, config.model.hidden, config.clip) == (1, 5, "auto:1")
    with pytest.raises(UserError, match=r"cell 3: there is no key 'model\.hiden'; did you mean model\.hidden"):
        load_config(changes=[("cell 3", {"model.hiden": 5})])


def test_a_resolved_configuration_reads_back_the_same() -> None:
    config = load_config("demo", ["clip=norm:0.5"])
    assert Config.model_validate(yaml.safe_load(config.to_yaml())) == config


def test_differences_name_both_values() -> None:
    before, after = load_config(), load_config(settings=["seed=5", "model.layers=1"])
    assert differences(before, after) == {"seed": (0, 5), "model.layers": (4, 1)}


def test_the_paper_recipes_are_the_papers() -> None:
    for name, loss in (("paper-mi", "mi"), ("paper-dc", "dc")):
        config = load_config(name)
        assert (config.model.layers, config.model.hidden, config.model.embedding_size) == (4, 600, 20)
        assert (config.stft.window_length, config.stft.hop_length) == (256, 64)
        assert (config.data.segment_frames, config.data.batch_size, config.train.epochs) == (400, 25, 100)
        assert (config.optimizer.learning_rate, config.loss.name, config.clip) == (0.001, loss, "auto:10")
        assert config.model.input_level_dbfs is None
        assert config.precision == "fp32"

import json
import re
from pathlib import Path

import pytest
import yaml

from sepclip.audio.stft import STFT
from sepclip.config.load import configs_folder, differences, flatten, load_config, shipped, with_kmeans
from sepclip.config.schema import Config
from sepclip.errors import UserError
from sepclip.model.networks import NETWORKS
from sepclip.unique_yaml import load_yaml


def test_base_holds_every_key_with_a_comment() -> None:
    text = (configs_folder() / "base.yaml").read_text(encoding="utf-8")
    assert set(flatten(load_config().model_dump())) == set(flatten(yaml.safe_load(text)))
    for line in text.splitlines():
        if line and not line.startswith("#") and not line.endswith(":"):
            assert " # " in line, f"no comment: {line}"


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_is_valid_and_changes_something(name: str) -> None:
    config = load_config(name)
    tree = yaml.safe_load((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    if name != "base":
        assert len((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 20
    values = flatten(config.model_dump())
    for key, value in flatten(tree).items():
        plain = json.loads(json.dumps(values[key]))  # tuples as lists, as YAML has them
        assert plain == value or plain == float(value)


def test_recipes_of_clustering_losses_make_masks_as_nussl() -> None:
    for name in ("paper/dc", "paper/wkm"):
        kmeans = load_config(name).kmeans
        assert (kmeans.masks, kmeans.fit) == ("soft", "loudest")


def test_spaces_around_the_options_of_a_clip_rule_are_allowed() -> None:
    assert load_config(settings=["clip=auto:10, window =5"]).clip == "auto:10,window=5"


def test_numbers_without_a_point_are_numbers() -> None:
    # PyYAML reads 1e-3 as a string
    assert load_config().optimizer.learning_rate == 0.001
    assert load_config(settings=["optimizer.learning_rate=3e-4"]).optimizer.learning_rate == 0.0003


def test_later_settings_win(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\nmodel:\n  layers: 2\n  hidden: 7\n")
    config = load_config(str(recipe), ["model.hidden=8", "seed=2"], {"seed": 3, "clip": None})
    assert (config.seed, config.model.layers, config.model.hidden, config.clip) == (3, 2, 8, "auto:10")


def test_an_error_names_the_flag_that_set_the_key() -> None:
    names = {"train.save_every": "--save-every", "loss.name": "--loss"}
    with pytest.raises(UserError, match=r"^--save-every: 'now' is not allowed: write it as steps"):
        load_config(flags={"train.save_every": "now"}, flag_names=names)
    with pytest.raises(UserError, match=r"^train\.save_every: 'now' is not allowed"):
        load_config(settings=["train.save_every=now"], flags={"train.save_every": None}, flag_names=names)


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
        ("stft.hop_seconds=0.03", ["stft.hop_seconds", "window_seconds (0.032) at least twice"]),
        ("stft.hop_length=64", ["stft.hop_length", "both window_length and hop_length, or neither"]),
        ("clip=auto:101", ["auto:P", "0 <= P <= 100"]),
        ("clip=auto", ["not a clipping rule"]),
        ("clip=auto10", ["clip: 'auto10' is not a clipping rule (no such name; did you mean auto:10?)"]),
        ("loss.name=sdr", ["mi, dc"]),
        ("loss.alpha=1.1", ["loss.alpha", "less than or equal to 1"]),
        ("loss.ridge=0", ["loss.ridge", "unit", "1e-05"]),
        ("loss.ridge=one", ["loss.ridge: 'one'", "unit"]),
        ("loss.clustering=mi", ["wkm", "dc"]),
        ("model.recurrence=rnn", ["lstm", "gru"]),
        ("model.mask_activation=tanh", ["softmax"]),
        ("model.init=zeros", ["nussl"]),
        ("conv_tasnet.filter_length=1", ["conv_tasnet.filter_length"]),
        ("conv_tasnet.kernel=5", ["no key"]),
        ("model.network=conv-tasnet", ["conv-tasnet", "loss mi, which needs its mask", "snr or si-sdr"]),
        ("loss.target=irm", ["tpsa"]),
        ("model.network=unet", ["blstm"]),
        ("device=tpu", ["device"]),
        ("precision=fp8", ["bf16"]),
    ],
)
def test_a_wrong_setting_raises_an_error_that_says_what_is_allowed(setting: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config(settings=[setting])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_recipe_raises_an_error_that_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper/mi"):
        load_config("papermi")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_config(str(broken))
    broken.write_text("just words")
    with pytest.raises(UserError, match="has no configuration"):
        load_config(str(broken))
    broken.write_text("modle:\n  layers: 2\n")
    with pytest.raises(UserError, match=r"did you mean model\.layers"):
        load_config(str(broken))


def test_a_grid_is_not_accepted_as_a_recipe() -> None:
    assert shipped(grids=True) == ["table1", "table1-small"]
    assert "table1" not in shipped()
    with pytest.raises(UserError, match="sepclip sweep table1 DATA"):
        load_config("table1")


def test_changes_come_between_recipe_and_settings_and_errors_name_their_source() -> None:
    changes = [("a file", {"model": {"layers": 1}, "clip": "none"}), ("cell 3", {"model.hidden": 5})]
    config = load_config("demo", ["clip=auto:1"], changes=changes)
    assert (config.model.layers, config.model.hidden, config.clip) == (1, 5, "auto:1")
    with pytest.raises(UserError, match=r"cell 3: there is no key 'model\.hiden'; did you mean model\.hidden"):
        load_config(changes=[("cell 3", {"model.hiden": 5})])


def test_a_resolved_configuration_survives_a_round_trip() -> None:
    config = load_config("demo", ["clip=norm:0.5"])
    assert Config.of(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("settings", "rate_hz", "window", "hop"),
    [
        ([], 8000, 256, 64),
        ([], 16000, 512, 128),
        ([], 44100, 1440, 360),  # 352.8 samples, of which 2^3 3^2 5 is the nearest product of 2, 3 and 5
        (["stft.window_seconds=0.0929", "stft.hop_seconds=0.0232"], 44100, 4096, 1024),
        (["stft.window_length=400", "stft.hop_length=100"], 44100, 400, 100),
    ],
)
def test_the_window_keeps_its_seconds_at_any_rate(settings: list[str], rate_hz: int, window: int, hop: int) -> None:
    stft = load_config(settings=settings).stft.at(rate_hz)
    assert (stft.window_length, stft.hop_length) == (window, hop)
    assert stft.at(8000) == stft  # fixed once, in the configuration of a run
    assert stft.transform(rate_hz) == STFT(window, hop)


def test_a_hop_that_does_not_divide_its_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"stft\.hop_length: 100 is not allowed: must divide window_length \(256\)"):
        load_config(settings=["stft.window_length=256", "stft.hop_length=100"])


def test_differences_name_both_values() -> None:
    before, after = load_config(), load_config(settings=["seed=5", "model.layers=1"])
    assert differences(before, after) == {"seed": (0, 5), "model.layers": (4, 1)}


PAPER = {"dc": "dc", "wkm": "wkm", "mi": "mi", "chimera": "chimera", "snr": "snr", "figure1": "mi"}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_recipes_have_the_settings_of_the_paper(name: str) -> None:
    config = load_config(f"paper/{name}")
    model, loss = config.model, config.loss
    assert (model.layers, model.hidden) == ((2, 300) if name == "figure1" else (4, 600))
    assert (model.network, model.recurrence, model.embedding_size) == ("blstm", "lstm", 20)
    assert (model.mask_activation, model.embedding_activation) == ("sigmoid", "sigmoid")
    assert (loss.name, loss.target, loss.weights) == (PAPER[name], "tpsa", "ratio")
    assert (loss.alpha, loss.clustering) == (0.75, "wkm")
    assert config.stft.transform(8000) == STFT(256, 64, "window_sum")
    assert (config.data.segment_frames, config.data.batch_size, config.data.dynamic) == (400, 25, False)
    assert (config.train.epochs, config.train.steps, config.seed) == (100, None, 0)
    assert (config.optimizer.learning_rate, config.optimizer.epsilon, config.clip) == (1e-3, 1e-8, "auto:10")
    assert config.model.input_level_dbfs is None
    assert config.precision == "fp32"


def test_every_paper_recipe_is_tested() -> None:
    assert {name for name in shipped() if name.startswith("paper/")} == {f"paper/{name}" for name in PAPER}


def test_settings_of_losses_and_networks_match_their_code() -> None:
    assert load_config(settings=["loss.ridge=2e-4"]).loss.ridge == 2e-4
    assert load_config(settings=["loss.ridge=unit"]).loss.ridge == "unit"
    for name, network in NETWORKS.items():
        config = load_config(settings=[f"model.network={name}", "loss.name=snr"])
        assert isinstance(config.network_settings(), network.settings)


def test_a_loss_that_does_not_fit_the_network_is_refused() -> None:
    assert load_config("conv-tasnet").loss.name == "si-sdr"
    with pytest.raises(UserError, match="needs its mask and embedding: choose loss") as error:
        load_config("conv-tasnet", flags={"loss.name": "chimera"})
    assert str(error.value).startswith("the network conv-tasnet cannot be trained with the loss chimera")


def test_kmeans_settings_can_change_after_training() -> None:
    config = load_config(settings=["loss.name=dc"])
    changed = with_kmeans(config, "masks=soft, restarts=3")
    assert differences(config, changed) == {"kmeans.masks": ("binary", "soft"), "kmeans.restarts": (8, 3)}


@pytest.mark.parametrize(
    ("loss", "text", "word"),
    [
        ("mi", "masks=soft", "does not cluster"),
        ("dc", "soft", "key=value"),
        ("dc", "", "key=value"),
        ("dc", "mask=soft", "did you mean kmeans.masks"),
        ("dc", "masks=hard", "'binary' or 'soft'"),
        ("dc", "restarts=0", "kmeans.restarts"),
        ("dc", "restarts=few", "kmeans.restarts"),
    ],
)
def test_a_wrong_kmeans_setting_is_refused(loss: str, text: str, word: str) -> None:
    with pytest.raises(UserError, match=re.escape(word)):
        with_kmeans(load_config(settings=[f"loss.name={loss}"]), text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  steps: 5\n  steps: 6\n", ["recipe.yaml is not YAML", "'steps' is given twice", "line 3"]),
        ("train:\n  steps: 5\nclip: none\ntrain:\n  keep: 2\n", ["'train' is given twice", "line 4"]),
        ("train: {steps: 5}\ntrain.steps: 6\n", ["train.steps is given twice"]),
        ("train:\nclip: none\n", ["recipe.yaml: the section train is empty", "or remove it"]),
        ("train: {}\n", ["section train is empty"]),
        ("train: {steps: {}}\n", ["train.steps"]),
        ("train:\n  steps: 5\n  epochs: 6\n", ["train.steps would override train.epochs"]),
    ],
)
def test_recipe_with_a_key_twice_or_an_empty_section_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "recipe.yaml"))
    for word in words:
        assert word in str(error.value)


def test_merged_yaml_mappings_may_repeat_a_key() -> None:
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\n") == {"a": {"x": 1}, "b": {"x": 2}}


def test_epochs_replace_the_steps_of_a_recipe(tmp_path: Path) -> None:
    assert load_config("demo").train.steps == 1200
    for config in (
        load_config("demo", ["train.epochs=3"]),
        load_config("demo", flags={"train.epochs": 3}),
        load_config("demo", changes=[("set", {"train": {"epochs": 3}})]),
    ):
        assert (config.train.epochs, config.train.steps) == (3, None)
    assert load_config("demo", ["train.epochs=3", "train.steps=null"]).train.epochs == 3
    for settings, flags in ((["train.epochs=3", "train.steps=4"], {}), (["train.epochs=3"], {"train.steps": 4})):
        with pytest.raises(UserError, match=r"train\.steps would override train\.epochs"):
            load_config("demo", settings, flags)
    # the configuration of a run has both keys
    (tmp_path / "config.yaml").write_text(load_config("demo").to_yaml())
    again = load_config(str(tmp_path / "config.yaml"))
    assert (again.train.steps, again.train.epochs) == (1200, 100)
    assert load_config(str(tmp_path / "config.yaml"), flags={"train.epochs": 3}).train.steps is None

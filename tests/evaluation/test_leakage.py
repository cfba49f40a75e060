"""Which scored mixtures contain what the run was trained on, with sets whose corpora lie in different places."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from sepclip.errors import UserError
from sepclip.evaluation.document import Leakage
from sepclip.evaluation.leakage import find_leakage, leakage_lines
from sepclip.mixing.mixture_set import SET_FILE, MixtureSet
from sepclip.mixing.recipe import Recipe
from sepclip.report.run_page import scored_data
from sepclip.report.scores import Scores
from tests.conftest import SPEECH, sepclip


@pytest.fixture
def copy(small_set: Path, tmp_path: Path) -> Path:
    """Return another set with the same recipes, which a test may change."""
    shutil.copytree(small_set, tmp_path / "set")
    change(tmp_path / "set", digest="of another set")
    return tmp_path / "set"


def leakage_of(data: Path, trained_on: Path, **options) -> Leakage:
    training = MixtureSet.open(trained_on)
    return find_leakage(MixtureSet.open(data), "tt", lambda: [(trained_on, training.digest)], **options)


def change(data: Path, recipes: list[Recipe] | None = None, split: str = "tt", **about: object) -> None:
    """Write other recipes, or other facts, into a set."""
    if recipes is not None:
        (data / f"{split}.jsonl").write_text("".join(f"{recipe.to_line()}\n" for recipe in recipes))
    document = json.loads((data / SET_FILE).read_text())
    (data / SET_FILE).write_text(json.dumps({**document, **about}))


def test_a_prepared_set_does_not_leak(small_set: Path) -> None:
    leakage = leakage_of(small_set, small_set)
    assert leakage == {
        "trained_on": [str(small_set)], "unknown": None, "mixtures": 6, "recordings": [], "unseen": 3, "voices": [],
    }  # fmt: skip
    assert leakage_lines(leakage) == [
        "leakage: none of 6 mixtures contain a recording that the run was trained on",
        "leakage: none of 3 mixtures called unseen contain a voice of the training",
    ]


def with_training_source(data: Path, *, group: str = "seen", index: int = 0) -> str:
    """Put a recording of the training into one test mixture, and return the name of that mixture."""
    mixtures = MixtureSet.open(data)
    trained, recipes = mixtures.recipes("tr")[0].sources[0], mixtures.recipes("tt")
    place = [number for number, recipe in enumerate(recipes) if recipe.group == group][index]
    recipes[place] = replace(recipes[place], sources=(trained, *recipes[place].sources[1:]))
    change(data, recipes)
    return recipes[place].name


def test_recordings_and_voices_of_the_training_are_counted(copy: Path, small_set: Path) -> None:
    seen = with_training_source(copy)
    unseen = with_training_source(copy, group="unseen", index=1)
    leakage = leakage_of(copy, small_set)
    assert (leakage["recordings"], leakage["voices"]) == ([seen, unseen], [unseen])
    assert leakage_lines(leakage) == [
        f"leakage: 2 of 6 mixtures contain a recording that the run was trained on, such as {seen}",
        f"leakage: 1 of 3 mixtures called unseen contains a voice of the training, such as {unseen}",
    ]
    assert leakage_of(copy, small_set, limit=1)["recordings"] == [seen]


def test_other_stretches_of_one_recording_are_not_leakage(copy: Path, small_set: Path) -> None:
    """A long recording is cut into utterances, some to train and some to test on."""
    with_training_source(copy)
    recipes = MixtureSet.open(copy).recipes("tt")
    source = recipes[0].sources[0]
    stretches = {stretch for one in MixtureSet.open(copy).recipes("tr") for stretch in one.sources}
    end = max(one.offset + one.length for one in stretches if one.path == source.path)
    for offset, count in ((end, 0), (end - 1, 1)):
        recipes[0] = replace(recipes[0], sources=(replace(source, offset=offset), *recipes[0].sources[1:]))
        change(copy, recipes)
        assert len(leakage_of(copy, small_set)["recordings"]) == count


def test_copies_of_a_corpus_are_found_by_digest_and_by_path(copy: Path, small_set: Path, tmp_path: Path) -> None:
    name = with_training_source(copy)
    root = tmp_path / "elsewhere" / "corpus"
    # by the corpus digest alone: nothing is there that could be compared
    change(copy, root=str(root))
    assert leakage_of(copy, small_set)["recordings"] == [name]
    # another digest: a copy of the corpus below another root, with more folders above the voices
    shutil.copytree(SPEECH, root / "wav")
    mixtures = MixtureSet.open(copy)
    for split in ("tr", "cv", "tt"):
        deeper = [
            replace(one, sources=tuple(replace(source, path=f"wav/{source.path}") for source in one.sources))
            for one in mixtures.recipes(split)
        ]
        change(copy, deeper, split)
    change(copy, corpus_digest="another")
    assert leakage_of(copy, small_set)["recordings"] == [name]
    # a recording of the same name that is another one
    (source, *_) = next(one for one in MixtureSet.open(copy).recipes("tt") if one.name == name).sources
    seconds = soundfile.info(root / source.path).duration
    other = next(path for path in sorted(SPEECH.glob("*/*.flac")) if soundfile.info(path).duration > seconds + 1)
    shutil.copyfile(other, root / source.path)
    assert leakage_of(copy, small_set)["recordings"] == []
    # one file by two ways
    (root / source.path).unlink()
    (root / source.path).symlink_to(SPEECH / source.path.removeprefix("wav/"))
    assert leakage_of(copy, small_set)["recordings"] == [name]


def test_a_training_set_that_is_gone_is_told(small_set: Path, tmp_path: Path) -> None:
    def gone() -> list[tuple[Path, str]]:
        return [(tmp_path / "gone", "digest")]

    def without_initial_run() -> list[tuple[Path, str]]:
        raise UserError("no such run")

    data = MixtureSet.open(small_set)
    for training_sets in (gone, without_initial_run, lambda: [(small_set, "other digest")]):
        leakage = find_leakage(data, "tt", training_sets)
        assert leakage["unknown"]
        assert leakage["recordings"] == []
        (line,) = leakage_lines(leakage)
        assert line.startswith("leakage unknown: the set of the training cannot be read (")
    # a set that was moved has the same digest
    assert find_leakage(data, "tt", lambda: [(tmp_path / "gone", data.digest)])["unknown"] is None


def test_eval_counts_leakage_in_table_page_and_json(small_set: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    arguments = ("--split", "tr", "--metrics", "si_sdr", "--oracles", "none", "--jobs", 1, "--limit", 2, "--out", out)
    result = sepclip("eval", tiny_run, small_set, *arguments)
    assert result.returncode == 0, result.stderr
    line = "eakage: 2 of 2 mixtures contain a recording that the run was trained on, such as 00000"
    assert f"l{line}" in result.stdout
    assert f"L{line}" in (out / "scores.md").read_text()
    assert f"L{line}" in scored_data(Scores.read(out))
    leakage = json.loads((out / "scores.json").read_text())["summary"]["leakage"]
    assert leakage["trained_on"] == [str(small_set.resolve())]
    assert len(leakage["recordings"]) == leakage["mixtures"] == 2

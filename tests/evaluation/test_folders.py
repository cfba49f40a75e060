import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.errors import UserError
from sepclip.evaluation.evaluate_items import evaluate_items
from sepclip.evaluation.folders import find_sources, folder_items
from sepclip.evaluation.pair_table import pair_items
from sepclip.scoring.items import ScoringPlan
from sepclip.scoring.score_many import score
from tests.conftest import assert_told, sepclip

PLAN = ScoringPlan(("si_sdr",), ())


def wave(path: Path, seed: int, rate_hz: int = 8000, channels: int = 1, other: Path | None = None) -> Path:
    """Write 0.1 s of noise; with ``other``, noise at -20 dB added to that."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (800, channels))
    if other:
        samples = soundfile.read(other, always_2d=True)[0] + 0.1 * samples
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{name}/{source}", "{name}/{source}.wav"),
        ("{source}/{name}", "{source}/{name}.wav"),
        ("x/*/{name}-{source}_est", "x/anything/{name}-{source}_est.wav"),
    ],
)
def test_patterns_say_where_name_and_source_stand(pattern: str, path: str, tmp_path: Path) -> None:
    for name in ("one", "two.b"):
        for seed, source in enumerate(("vocals", "drums")):
            true = wave(tmp_path / "ref" / name / f"{source}.wav", seed, 96000, 2)
            wave(tmp_path / "est" / path.format(name=name, source=source), 9, 96000, 2, other=true)
    wave(tmp_path / "ref" / "one" / "mixture.wav", 0)
    wave(tmp_path / "est" / "unlike.wav", 0)
    items = folder_items(
        tmp_path / "est", tmp_path / "ref",
        estimate_pattern=pattern, reference_pattern="{name}/{source}", fixed_order=True,
    )  # fmt: skip
    assert [(row.name, row.source) for item in items for row in item.rows] == [
        ("one", "drums"), ("one", "vocals"), ("two.b", "drums"), ("two.b", "vocals"),
    ]  # fmt: skip
    assert {(item.total_samples, item.channels) for item in items} == {(2 * 2 * 800, 2)}
    for row in score(items, PLAN, jobs=0):
        assert row.scores["si_sdr"] == pytest.approx(20, abs=1)


def test_ten_sources_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(1, 12):
        wave(tmp_path / f"a_s{number}.wav", number)
    assert list(find_sources(tmp_path)["a"]) == [f"s{number}" for number in range(1, 12)]


def test_different_sources_of_a_file_are_the_reason(tmp_path: Path) -> None:
    for source in ("s1", "s2"):
        wave(tmp_path / "ref" / f"a_{source}.wav", 1)
    for source in ("s1", "s3"):
        wave(tmp_path / "est" / f"a_{source}.wav", 1)
    (row, _) = score(folder_items(tmp_path / "est", tmp_path / "ref"), PLAN, jobs=0)
    assert row.reason == "different sources: estimates of s1, s3, references of s1, s2"


@pytest.mark.parametrize("pattern", ["{name}", "{source}/{name}/{name}", "nothing"])
def test_a_pattern_needs_both_words_once(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give \{name\} and \{source\} once each"):
        find_sources(tmp_path, pattern)


HEAD = "name,source,estimate,reference,mixture\n"


def test_a_table_of_pairs_is_scored(tmp_path: Path) -> None:
    lines = []
    for name in ("b", "a"):
        for seed, source in enumerate(("vocals", "bass")):
            true = wave(tmp_path / f"{name}-{source}.wav", seed)
            wave(tmp_path / "deep" / f"{name}-{source}.flac.wav", 9, other=true)
            lines.append(f"{name},{source},deep/{name}-{source}.flac.wav,{name}-{source}.wav,{name}-mix.wav\n")
        wave(tmp_path / f"{name}-mix.wav", 5)
    table = tmp_path / "pairs.csv"
    table.write_text(HEAD + "".join(lines))
    result = sepclip("eval", "--pairs", table, "--metrics", "si_sdr,snr", "--oracles", "none", "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.glob("scores*")) == ["scores.csv", "scores.json", "scores.md"]
    rows = score(pair_items(table), PLAN, jobs=0)
    assert [(row.name, row.source) for row in rows] == [("b", "vocals"), ("b", "bass"), ("a", "vocals"), ("a", "bass")]
    for row in rows:
        assert row.scores["si_sdr"] == pytest.approx(20, abs=1)
        assert row.scores["si_sdr_improvement"] > 30  # the mixture given has nothing of them


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,estimate\n", "no column name, source, estimate, reference"),
        ("name,source,estimate\na,b,c\n", "no column reference"),
        (HEAD + "a,s1,e.wav,,\n", "line 2: an empty field"),
        (HEAD + "a,s1,e.wav,r.wav,\na,s1,f.wav,r.wav,\n", "line 3: source s1 of a for the second time"),
        (HEAD + "a,s1,e.wav,r.wav,x.wav\na,s2,f.wav,r.wav,y.wav\n", "a has 2 mixtures"),
        (HEAD + "a,s1,e.wav,r.wav,\n", "no file could be scored: no such file"),
    ],
)
def test_a_wrong_table_of_pairs_is_an_error(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        evaluate_items(pair_items(tmp_path / "pairs.csv"), tmp_path, {}, PLAN, jobs=0)


def test_folders_and_a_table_exclude_each_other(tmp_path: Path) -> None:
    both = ("--pairs", tmp_path / "p.csv", "--mixtures", tmp_path)
    assert_told(sepclip("eval", *both), "names all files itself", code=2)
    assert_told(sepclip("eval", "--pairs", tmp_path / "p.csv"), "cannot be read")
    assert_told(sepclip("eval", "--pairs", tmp_path / "p.csv", "--metrics", "sisdr"), "choose from si_sdr")


def test_names_pair_in_any_spelling_of_unicode(tmp_path: Path) -> None:
    for folder, form in (("ref", "NFC"), ("est", "NFD")):
        for seed, source in enumerate(("batería", "voz")):
            name = unicodedata.normalize(form, f"José_{source}.wav")
            wave(tmp_path / folder / name, seed)
    pattern = unicodedata.normalize("NFD", "{name}_{source}")
    (item,) = folder_items(tmp_path / "est", tmp_path / "ref", estimate_pattern=pattern, reference_pattern=pattern)
    assert [(row.name, row.source) for row in item.rows] == [("José", "batería"), ("José", "voz")]
    assert not isinstance(item.load(), str)
    table = tmp_path / "pairs.csv"
    lines = [f"José,{source},est/José_{source}.wav,ref/José_{source}.wav" for source in ("batería", "voz")]
    table.write_text("\n".join(["name,source,estimate,reference", *lines, ""]), encoding="utf-8")
    (item,) = pair_items(table)
    assert not isinstance(item.load(), str)

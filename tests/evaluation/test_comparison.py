import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sepclip.errors import UserError
from sepclip.evaluation.comparison import compare, holm
from sepclip.evaluation.evaluate_items import build_document
from sepclip.evaluation.write_scores import write_scores
from sepclip.report.comparison_page import read_pair
from sepclip.scoring.items import ScoreRow, ScoringPlan
from sepclip.scoring.table import columns
from tests.conftest import assert_told, sepclip

PLAN = ScoringPlan(("si_sdr", "snr"), ())


def scores(
    folder: Path, values: list[float | None], *, snr: float = 0.0, plan: ScoringPlan = PLAN, first: int = 0
) -> Path:
    """Write scores of files with two sources each, 1 dB apart, whose mean is one of ``values``."""
    rows = []
    for index, value in enumerate(values):
        for source, offset in (("s1", -0.5), ("s2", 0.5)):
            row = ScoreRow(f"{first + index:03d}", source, scores=dict.fromkeys(columns(plan.metrics, plan.oracles)))
            row.scores |= {"si_sdr": None if value is None else value + offset, "snr": 1.0, "input_snr": snr}
            rows.append(row)
    write_scores(folder, build_document(rows, {}, plan))
    return folder


def test_differences_are_compared_file_by_file(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    base = chance.normal(5, 3, 40)  # files differ far more than systems do
    gain = chance.normal(0.5, 0.3, 40)
    one, other = scores(tmp_path / "one", base.tolist()), scores(tmp_path / "other", (base + gain).tolist())
    result = compare([one, other])
    (pair,) = result["scores"]["si_sdr"]["pairs"]
    assert (pair["first"], pair["second"], result["files"]) == ("one", "other", 40)
    assert pair["mean"] == pytest.approx(gain.mean())
    assert pair["interval"][0] < gain.mean() < pair["interval"][1]
    assert pair["interval"][1] - pair["interval"][0] == pytest.approx(2 * 1.96 * gain.std() / 40**0.5, rel=0.15)
    assert pair["wins"] == pytest.approx((gain > 0).mean())
    assert pair["p"] == pytest.approx(stats.wilcoxon(gain).pvalue, rel=1e-6)
    (same,) = result["scores"]["snr"]["pairs"]
    assert (same["mean"], same["wins"], same["p"]) == (0, 0.5, 1)


def test_three_systems_are_corrected_for_three_pairs(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    folders = [scores(tmp_path / name, chance.normal(5, 1, 12).tolist()) for name in "abc"]
    pairs = compare(folders, ["si_sdr"])["scores"]["si_sdr"]["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    smallest = min(pairs, key=lambda pair: pair["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 3 * smallest["p"]))
    # Holm's own example: sorted p times 4, 3, 2, 1, never falling
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == [
        pytest.approx(v) if v else v for v in (0.03, 0.06, None, 0.06, 0.02)
    ]


def test_correction_covers_all_scores_that_are_shown(tmp_path: Path) -> None:
    chance, plan, folders = np.random.default_rng(3), ScoringPlan(("si_sdr", "snr", "sd_sdr"), ()), []
    for name in "ab":
        rows = []
        for index in range(20):
            row = ScoreRow(f"{index}", "s1", scores=dict.fromkeys(columns(plan.metrics, ())))
            row.scores |= {"si_sdr": chance.normal(0.5 * (name == "b")), "snr": chance.normal(), "sd_sdr": 1.0}
            rows.append(row)
        write_scores(tmp_path / name, build_document(rows, {}, plan))
        folders.append(tmp_path / name)
    result = compare(folders)["scores"]
    si_sdr, snr, same = (result[name]["pairs"][0] for name in ("si_sdr", "snr", "sd_sdr"))
    low, high = sorted([si_sdr, snr], key=lambda pair: pair["p"])
    # two tests; the third score is the same in both systems, so that there is nothing to find
    assert low["p_holm"] == pytest.approx(min(1, 2 * low["p"]))
    assert high["p_holm"] == pytest.approx(max(high["p"], low["p_holm"]))
    assert (same["p"], same["p_holm"]) == (1, 1)
    alone = compare(folders, ["si_sdr"])["scores"]["si_sdr"]["pairs"][0]
    assert alone["p_holm"] == alone["p"] == si_sdr["p"]


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("long", [False, True])
def test_tables_fit_into_80_columns_with_any_number_of_systems(count: int, long: bool, tmp_path: Path) -> None:
    chance = np.random.default_rng(4)
    names = [f"{'a-system-with-quite-a-long-name-' if long else 's'}{index}" for index in range(count)]
    folders = [scores(tmp_path / name, (10 * chance.normal(size=4)).tolist()) for name in names]
    result = sepclip("compare", *folders)  # into a pipe
    assert result.returncode == 0, result.stderr
    titles = [f"{names[1]} - {names[0]}, 4 files"] if count == 2 else ["SI-SDR, 4 files", "SNR, 4 files"]
    for title in titles:
        assert title in result.stdout
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "long-name" not in line) <= 80
    assert "…" not in result.stdout
    for metric in compare(folders)["scores"].values():
        for pair in metric["pairs"]:
            low, high = pair["interval"]
            figures = rf"{pair['mean']:+.2f} +{low:+.2f} to {high:+.2f} ".replace("+", r"\+").replace(" \\+", " +", 1)
            line = next(line for line in lines if re.search(figures, line))
            assert len(line) <= 80
            assert f"{pair['p_holm']:.2g}" in line


def test_folders_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one/scores.json: no such file|one: no such file"):
        compare([tmp_path / "one", tmp_path / "two"])
    # two files in one folder are two systems
    folder = scores(tmp_path / "both", [1.0, 2.0])
    (folder / "before.json").write_text((folder / "scores.json").read_text())
    assert list(compare([folder, folder / "before.json"])["systems"]) == ["both", "before"]


def test_system_names_are_short_and_unique(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return list(compare([scores(tmp_path / path, [1.0, 2.0]) for path in paths])["systems"])

    assert names("a/eval/set-tt", "b/eval/set-tt", "other") == ["a", "b", "other"]
    assert names("a/eval/set-tt", "a/eval/set-cv") == ["set-tt", "set-cv"]
    assert names("x/a/scored", "y/a/scored", "one") == ["x/a/scored", "y/a/scored", "one"]


def test_differences_by_rounding_count_as_equal(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(5, 1, 20)
    one, other = scores(tmp_path / "one", values.tolist()), scores(tmp_path / "other", (values + 1e-8).tolist())
    (pair,) = compare([one, other], ["si_sdr"])["scores"]["si_sdr"]["pairs"]
    assert (pair["mean"], pair["wins"], pair["p"]) == (0, 0.5, 1)


def test_files_missing_in_one_system_are_left_out(tmp_path: Path) -> None:
    one = scores(tmp_path / "one", [1.0, 2.0, None, 4.0])
    other = scores(tmp_path / "other", [3.0, 4.0, 5.0], first=1)
    result = compare([one, other])
    assert result["files"] == 3
    assert result["left_out"] == ["000"]
    assert result["scores"]["si_sdr"]["names"] == ["001", "003"]
    with pytest.raises(UserError, match="no file with the same sources in common"):
        compare([one, scores(tmp_path / "far", [1.0], first=9)])


def test_scores_that_cannot_be_compared_are_an_error(tmp_path: Path) -> None:
    one = scores(tmp_path / "one", [1.0, 2.0])
    changed = json.loads((one / "scores.json").read_text())
    for name, words, change in (
        ("words", "si_sdr of one is", {"metrics": {**changed["metrics"], "si_sdr": "something else"}}),
        ("order", "score both alike", {"sources": "in their own order"}),
        ("older", "has version 1, this sepclip reads 2", {"schema_version": 1}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps({**changed, **change}))
        with pytest.raises(UserError, match=words):
            compare([one, tmp_path / name])
    with pytest.raises(UserError, match="000 is not the same in one and loud"):
        compare([one, scores(tmp_path / "loud", [1.0, 2.0], snr=3.0)])
    with pytest.raises(UserError, match="not all have sdr; all have si_sdr, snr"):
        compare([one, scores(tmp_path / "two", [1.0, 2.0])], ["sdr"])
    with pytest.raises(UserError, match="given twice"):
        compare([one, one / "scores.json"])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "scores.json").write_text("[]")
    for path, words in ((tmp_path / "none", "no such file"), (tmp_path / "bad", "cannot be read as scores")):
        with pytest.raises(UserError, match=words):
            compare([one, path])


def test_the_command_writes_table_picture_and_json(tmp_path: Path) -> None:
    one, other = scores(tmp_path / "one", [1.0, 2.0, 3.0]), scores(tmp_path / "other", [2.0, 4.0, 6.0])
    result = sepclip("compare", one, other, "--metrics", "si_sdr", "--out", tmp_path / "out", COLUMNS="90")
    assert result.returncode == 0, result.stderr
    assert "other - one, 3 files" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if "+2.00   +1.00 to +3.00" in line]
    assert "4.00, 2.00" in line
    assert "comparison.md, comparison.svg" in result.stdout
    assert "| SI-SDR | other - one | 3 | 4.00, 2.00 | +2.00 |" in (tmp_path / "out" / "comparison.md").read_text()
    assert "<svg" in (tmp_path / "out" / "comparison.svg").read_text()
    told = json.loads(sepclip("compare", one, other, "--json").stdout)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["scores"]["si_sdr"] == written["scores"]["si_sdr"]
    assert_told(sepclip("compare", one), "two scores or more")


def test_runs_are_replaced_by_their_scores_and_the_table_fits_into_a_terminal(tmp_path: Path) -> None:
    for run, values in (("plain", [1.0, 2.0, 3.0]), ("clipped", [2.0, 4.0, 6.0])):
        scores(tmp_path / run / "eval" / "mixtures-tt", values)
        (tmp_path / run / "config.yaml").touch()
    runs = [tmp_path / "plain", tmp_path / "clipped"]
    told = sepclip("compare", *runs, COLUMNS="80").stdout
    assert "clipped - plain, 3 files" in told
    assert "difference" in told
    assert "+2.00   +1.00 to +3.00" in told
    assert max(map(len, told.splitlines())) <= 80
    scores(tmp_path / "plain" / "eval" / "other-tt", [1.0])
    assert set(compare(runs)["systems"]) == {"plain", "clipped"}
    scores(tmp_path / "clipped" / "eval" / "other-tt", [1.0])
    with pytest.raises(UserError, match="mixtures-tt, other-tt; say which, such as"):
        compare(runs)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").touch()
    with pytest.raises(UserError, match="not scored on a set in common"):
        compare([*runs, tmp_path / "new"])


def test_page_has_the_intervals_of_the_command(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    base = chance.normal(5, 3, 30)
    one, other = (
        scores(tmp_path / "one", base.tolist()),
        scores(tmp_path / "other", (base + chance.normal(1, 1, 30)).tolist()),
    )
    document = json.loads((other / "scores.json").read_text())
    document["rows"] = document["rows"][20:] + document["rows"][:20]  # in another order
    (other / "scores.json").write_text(json.dumps(document))
    (pair,) = compare([one, other], ["si_sdr"])["scores"]["si_sdr"]["pairs"]
    page = read_pair(other, one).differences(["si_sdr"])["si_sdr"]
    assert [-value for value in reversed(page["interval"])] == pytest.approx(pair["interval"], abs=0.02)  # other draws
    page = read_pair(one, other).differences(["si_sdr"])["si_sdr"]
    assert (page["interval"], page["p_holm"]) == (pair["interval"], pair["p_holm"])

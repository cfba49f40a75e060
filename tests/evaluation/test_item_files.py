"""The mixtures of folders, and files that do not fit each other: which scores they cost, and what the rows say."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepclip.errors import UserError
from sepclip.evaluation.folders import folder_items
from sepclip.evaluation.item_files import NO_MIXTURE
from sepclip.evaluation.pair_table import pair_items
from sepclip.scoring.items import ScoreRow, ScoringPlan
from sepclip.scoring.score_many import score
from tests.conftest import assert_told, sepclip

PLAN = ScoringPlan(("si_sdr", "snr", "sdr"), ("ibm",), engine="fast")
RATE = 8000
A, B, C, NOISE = np.random.default_rng(0).normal(0, 0.1, (4, 2 * RATE))
MIX = A + B + 3 * C  # with more than the two sources that are scored


def write(path: Path, wave: np.ndarray, rate_hz: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate_hz, subtype="FLOAT")


def si_sdr(est: np.ndarray, ref: np.ndarray) -> float:
    est, ref = est - est.mean(), ref - ref.mean()
    target = ref * (est @ ref) / (ref @ ref)
    return 10 * np.log10((target @ target) / ((est - target) @ (est - target)))


def lay_out(folder: Path, pattern: str, name: str = "one") -> None:
    """Write references of A and B, and estimates with noise."""
    for source, wave in (("s1", A), ("s2", B)):
        path = pattern.format(name=name, source=source) + ".wav"
        write(folder / "ref" / path, wave)
        write(folder / "est" / path, wave + 0.1 * NOISE)


def rows_of(folder: Path, mixtures: Path | None = None, pattern: str | None = None, **options) -> list[ScoreRow]:
    patterns = {"estimate_pattern": pattern, "reference_pattern": pattern}
    return score(folder_items(folder / "est", folder / "ref", mixtures, **patterns, **options), PLAN, jobs=0)


@pytest.mark.parametrize(
    ("pattern", "mixture", "folder"),
    [
        ("{source}/{name}", "ref/mix/one", None),
        ("{source}/{name}", "ref/mixture/one", None),
        ("{name}_{source}", "ref/one_mix", None),
        ("{name}_{source}", "ref/mix/one", None),
        ("{name}/{source}", "ref/one/mixture", None),
        ("{name}/{source}", "ref/one/mixture", "ref"),
        ("{name}/{source}", "other/one", "other"),
        ("{name}/{source}", "other/one/mix", "other"),
        ("{source}/{name}", "other/mix/one", "other"),
        ("deep/{source}-{name}", "other/deep/mixture-one", "other"),
    ],
)
def test_the_mixture_of_a_folder_is_found(pattern: str, mixture: str, folder: str | None, tmp_path: Path) -> None:
    lay_out(tmp_path, pattern)
    write(tmp_path / f"{mixture}.wav", MIX)
    rows = rows_of(tmp_path, None if folder is None else tmp_path / folder, pattern)
    for row, ref in zip(rows, (A, B), strict=True):
        assert row.notes == []
        want = si_sdr(ref + 0.1 * NOISE, ref) - si_sdr(MIX, ref)
        assert row.scores["si_sdr_improvement"] == pytest.approx(want, abs=1e-4)
        assert row.scores["input_snr"] == pytest.approx(10 * np.log10((ref @ ref) / ((MIX - ref) @ (MIX - ref))), 1e-4)


def test_mixtures_that_match_nothing_are_an_error(tmp_path: Path) -> None:
    lay_out(tmp_path, "{source}/{name}")
    write(tmp_path / "other" / "two.wav", MIX)
    with pytest.raises(UserError, match=r"no mixture of any of the 1 file .* 'one': expected \{name\}, mix/\{name\}"):
        rows_of(tmp_path, tmp_path / "other")
    folders = ("--estimates", tmp_path / "est", "--references", tmp_path / "ref")
    assert_told(sepclip("eval", *folders, "--mixtures", tmp_path / "other"), "contains no mixture of any")
    assert_told(sepclip("eval", *folders, "--mixtures", tmp_path / "nowhere"), "no such folder")
    assert not (tmp_path / "est" / "scores.json").exists()


def test_two_mixtures_of_one_file_are_an_error(tmp_path: Path) -> None:
    lay_out(tmp_path, "{name}/{source}")
    for name in ("mix", "mixture"):
        write(tmp_path / "ref" / "one" / f"{name}.wav", MIX)
    with pytest.raises(UserError, match="are both the mixture of one: remove one"):
        rows_of(tmp_path, pattern="{name}/{source}")


def test_a_file_without_its_mixture_has_a_note_in_row_and_table(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lay_out(tmp_path, "{source}/{name}", name)
    write(tmp_path / "other" / "two.wav", MIX)
    given = ("--estimates", tmp_path / "est", "--references", tmp_path / "ref", "--mixtures", tmp_path / "other")
    result = sepclip("eval", *given, "--metrics", "si_sdr", "--oracles", "none", "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert f"2 sources: {NO_MIXTURE}" in result.stderr
    document = json.loads((tmp_path / "est" / "scores.json").read_text())
    assert document["summary"]["notes"] == {NO_MIXTURE: 2}
    assert [(row["name"], row["notes"]) for row in document["rows"]] == [
        ("one", [NO_MIXTURE]), ("one", [NO_MIXTURE]), ("two", []), ("two", []),
    ]  # fmt: skip
    assert NO_MIXTURE in (tmp_path / "est" / "scores.md").read_text()
    want = si_sdr(A + 0.1 * NOISE, A) - np.array([si_sdr(A + B, A), si_sdr(MIX, A)])
    values = [row["si_sdr_improvement"] for row in document["rows"][::2]]
    np.testing.assert_allclose(values, want, atol=1e-4)


@pytest.mark.parametrize(
    ("mixture", "rate_hz", "reason"),
    [
        (MIX[:-200], RATE, "different lengths (the mixture is shorter than the references: 15800 and 16000 samples"),
        (MIX, 16000, "different rates (mixture: 16000 Hz, references: 8000 Hz)"),
        (np.stack([MIX, MIX], 1), RATE, "different numbers of channels (mixture: 2, references: 1)"),
        (np.full(2 * RATE, np.nan), RATE, "contains NaN or infinite samples"),
    ],
)
def test_a_wrong_mixture_costs_only_the_scores_that_need_it(mixture, rate_hz, reason, tmp_path: Path) -> None:
    lay_out(tmp_path, "{source}/{name}")
    write(tmp_path / "ref" / "mix" / "one.wav", mixture, rate_hz)
    for row, ref in zip(rows_of(tmp_path), (A, B), strict=True):
        assert row.status == "partial"
        assert row.reason.startswith(f"no score that needs the mixture: {reason}")
        assert row.scores["si_sdr"] == pytest.approx(si_sdr(ref + 0.1 * NOISE, ref), abs=1e-4)
        assert row.scores["sdr"] == pytest.approx(20, abs=0.5)
        missing = {name for name, value in row.scores.items() if value is None}
        assert missing == {
            "input_snr", "si_sdr_improvement", "snr_improvement", "sdr_improvement", "ibm_si_sdr_improvement",
            "ibm_sdr_improvement",
        }  # fmt: skip


def test_lengths_are_cut_within_the_limit_that_is_given(tmp_path: Path) -> None:
    lay_out(tmp_path, "{source}/{name}")
    write(tmp_path / "ref" / "mix" / "one.wav", MIX)
    write(tmp_path / "est" / "s1" / "one.wav", np.concatenate([A + 0.1 * NOISE, np.ones(250)]))
    (row, _) = rows_of(tmp_path)
    assert row.reason == (
        "different lengths (the estimate of s1 is longer than the references: 16250 and 16000 samples; "
        "--trim 0.032 cuts both to the shorter)"
    )
    (row, _) = rows_of(tmp_path, trim_seconds=0.031)  # 248 samples
    assert row.status == "excluded"
    (row, _) = rows_of(tmp_path, trim_seconds=0.032)
    assert (row.status, row.notes) == ("ok", ["cut to the shorter length (250 samples)"])
    assert row.scores["si_sdr"] == pytest.approx(si_sdr(A + 0.1 * NOISE, A), abs=1e-4)
    given = ("--estimates", tmp_path / "est", "--references", tmp_path / "ref", "--metrics", "si_sdr")
    assert_told(sepclip("eval", *given), "estimate of s1 is longer", "--trim 0.032")
    result = sepclip("eval", *given, "--trim", 0.032, "--oracles", "none", "--jobs", 1, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["trim_seconds"] == 0.032


def test_in_a_fixed_order_a_wrong_estimate_costs_only_its_source(tmp_path: Path) -> None:
    lay_out(tmp_path, "{source}/{name}")
    whole = rows_of(tmp_path, fixed_order=True)[1]
    write(tmp_path / "est" / "s1" / "one.wav", A[: RATE + 100])
    short, other = rows_of(tmp_path, fixed_order=True)
    assert (short.status, other.status) == ("excluded", "ok")
    assert "the estimate of s1 is shorter than the references" in short.reason
    assert set(short.scores.values()) - {short.scores["input_snr"], *oracle_values(short)} == {None}
    for name, value in whole.scores.items():
        assert other.scores[name] == pytest.approx(value, abs=1e-6), name
    # pairing needs all estimates
    assert {row.status for row in rows_of(tmp_path)} == {"excluded"}


def oracle_values(row: ScoreRow) -> list[float | None]:
    return [value for name, value in row.scores.items() if name.startswith("ibm")]


def test_columns_of_a_table_that_are_not_used_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, line = tmp_path / "pairs.csv", "a,s1,e.wav,r.wav,m.wav"
    for column in ("mixtures", "Mixture", " mixture"):
        table.write_text(f"name,source,estimate,reference,{column}\n{line}\n")
        with pytest.raises(UserError, match=r"no column .*; did you mean 'mixture'"):
            pair_items(table)
    table.write_text(f"name,source,estimate,reference,seconds\n{line}\n")
    assert len(pair_items(table)) == 1
    assert "not used: column seconds" in capsys.readouterr().err
    table.write_text(f"name,source,estimate,reference\n{line}\n")
    with pytest.raises(UserError, match="line 2: more fields than columns"):
        pair_items(table)

import numpy as np
import pytest

from sepclip.evaluation.summary import percentile_interval, summarise, summarise_parts
from sepclip.scoring.items import ScoreRow

COLUMNS = ["si_sdr_improvement", "ibm_si_sdr_improvement", "input_snr"]


def row(name, gain, *, source="s1", ideal=None, **more):
    snr = more.pop("snr", None)
    return ScoreRow(name, source, scores={COLUMNS[0]: gain, COLUMNS[1]: ideal, COLUMNS[2]: snr}, **more)


def test_summary_has_mean_median_quartiles_and_counts():
    rows = [row(str(n), float(n)) for n in range(1, 6)]
    rows.append(row("6", None, status="excluded", reason="different rates: 1 Hz, 2 Hz", notes=["cut"]))
    summary = summarise(rows, COLUMNS)
    name = COLUMNS[0]
    assert (summary["mean"][name], summary["median"][name], summary["quartiles"][name]) == (3, 3, [2, 4])
    assert summary["count"] == {"files": 6, "rows": 6, "perfect": 0, name: 5, COLUMNS[1]: 0, COLUMNS[2]: 0}
    assert (summary["excluded"], summary["notes"]) == ({"different rates": 1}, {"cut": 1})
    assert summary["mean"][COLUMNS[1]] is summary["interval"][COLUMNS[1]] is None


def test_the_interval_is_that_of_the_mean_over_files():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = percentile_interval(values)
    half = 1.96 * values.std(ddof=1) / 20  # of the normal distribution, which 400 are enough for
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert percentile_interval(values) == [low, high]
    assert percentile_interval(values[:1]) is None


def test_sources_of_a_file_are_drawn_together():
    # two sources that are equal in a file teach nothing more than one
    values = np.random.default_rng(0).normal(5, 2, 50)
    one = summarise([row(str(n), value) for n, value in enumerate(values)], COLUMNS)
    both = summarise([row(str(n), value, source=s) for n, value in enumerate(values) for s in ("s1", "s2")], COLUMNS)
    assert both["interval"][COLUMNS[0]] == pytest.approx(one["interval"][COLUMNS[0]])


def test_summary_has_parts_by_group_voices_and_input_snr():
    rows = [
        row("a", 1.0, group="seen", sexes="ff", snr=-7.0),
        row("b", 2.0, group="seen", sexes="fm", snr=-5.0),
        row("c", 4.0, group="unseen", sexes="mm", snr=0.0),
        row("d", 8.0, snr=12.0),
    ]
    summary = summarise_parts(rows, COLUMNS, fixed_order=False)
    means = {
        part: {name: statistics["mean"][COLUMNS[0]] for name, statistics in summary[part].items()}
        for part in ("groups", "sexes", "input_snr")
    }
    assert means == {
        "groups": {"seen": 1.5, "unseen": 4},
        "sexes": {"different sexes": 2, "same sex": 2.5},
        "input_snr": {"below -5 dB": 1, "-5 to 0 dB": 2, "0 to 5 dB": 4, "5 dB and more": 8},
    }
    assert list(means["input_snr"]) == ["below -5 dB", "-5 to 0 dB", "0 to 5 dB", "5 dB and more"]
    assert "sources" not in summary


def test_summary_of_stems_has_sources_and_the_worst_files():
    rows = [row(f"{n:02d}", float(n), source=source) for n in range(12) for source in ("vocals", "bass")]
    summary = summarise_parts(rows, COLUMNS, fixed_order=True)
    assert list(summary["sources"]) == ["vocals", "bass"]
    assert summary["worst"]["by"] == COLUMNS[0]
    assert [one["name"] for one in summary["worst"]["files"]] == [f"{n:02d}" for n in range(10)]


def test_the_share_of_the_oracle_is_over_sources_that_have_both():
    rows = [row("a", 3.0, ideal=10.0), row("b", 5.0, ideal=10.0), row("c", 99.0), row("d", None, ideal=50.0)]
    assert summarise(rows, COLUMNS)["oracle_share"] == {"ibm": pytest.approx(0.4)}

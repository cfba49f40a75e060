import json

import numpy as np

from sepclip.corpora.speakers.statistics import describe, statistics_line
from sepclip.mixing.recipe import Recipe, Source
from tests.conftest import sepclip


def source(name, level_db=0.0, sex=None):
    return Source(f"{name}.wav", name[0], sex, 0, 8000, 8000, level_db, 1.0)


def activity(**spoken):
    """Return where somebody speaks: for each file hops from and to."""
    found = {}
    for name, (start, stop) in spoken.items():
        speaks = np.zeros(100, bool)
        speaks[start:stop] = True
        found[f"{name}.wav", 0] = np.packbits(speaks).tobytes()
    return found


def test_overlap_levels_and_sexes_of_known_mixtures():
    recipes = [
        Recipe("1", "seen", 8000, (source("a", 1, "f"), source("b", -1, "m"))),  # a second, 40 of 80 hops overlap
        Recipe("2", "seen", 4000, (source("c", 2.5, "f"), source("d", -2.5, "f"))),  # half, nothing of 50 overlaps
        Recipe("3", "seen", 12000, (source("a", 0, "f"), source("b", 0, "m"))),  # longer than both
    ]
    speaks = activity(a=(0, 60), b=(20, 80), c=(0, 50), d=(50, 100))
    found = describe(recipes, speaks, 8000)
    assert found == {
        "mixtures": 3,
        "minutes": 0.05,
        "voices": 4,
        "utterances": 4,
        "overlap": round(80 / 210, 4),
        "apart_db": {"least": 0, "median": 2, "most": 5},
        "snr_db": None,
        "sexes": {"ff": 1, "fm": 2},
    }
    assert statistics_line("tr", found) == (
        "tr: 38% of the speech overlaps, levels 0.0 to 5.0 dB (median 2.0) apart, 4 utterances of 4 voices, 1 ff, 2 fm"
    )


def test_three_voices_and_unknown_sexes():
    found = describe([Recipe("1", "seen", 8000, (source("a", 3), source("b"), source("c", -1)))],
                     activity(a=(0, 50), b=(0, 10), c=(40, 100)), 8000)  # fmt: skip
    assert found["overlap"] == 0.2
    assert found["apart_db"]["most"] == 4
    assert "unknown" not in statistics_line("tt", found)
    assert describe([], {}, 8000)["mixtures"] == 0


def test_statistics_are_printed_and_kept(corpus, tmp_path):
    command = ("prepare", "speakers", corpus, tmp_path / "out", "--tr", 6, "--cv", 2, "--tt", 2)
    printed = sepclip(*command, "--no-audio")
    assert [line[:3] for line in printed.stdout.splitlines()[1:]] == ["tr:", "cv:", "tt:"]
    kept = json.loads((tmp_path / "out" / "set.json").read_text())["statistics"]
    assert 0.5 < kept["tr"]["overlap"] < 1
    assert kept["tr"]["sexes"].keys() <= {"ff", "fm", "mm"}
    again = json.loads(sepclip(*command, "--no-audio", "--json").stdout)
    assert again["already"]
    assert again["statistics"] == kept

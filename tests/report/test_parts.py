"""The parts of the page against known results."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from sepclip.report.charts import MOST_POINTS, Chart, Series, aligned
from sepclip.report.examples import select_examples
from sepclip.report.images import png
from sepclip.report.markup import json_text, script_text, signed, tag, text
from sepclip.report.scores import evaluations
from sepclip.report.sounds import excerpt, playable, seconds_within
from sepclip.report.svg import box, histogram
from tests.audio.fresh import python


def test_tag_escapes_everything_that_is_not_markup() -> None:
    markup = tag("p", "<b>&", tag("i", 3), ["a", None, "<"], title='"<', hidden=True, id=None)
    assert markup == '<p title="&quot;&lt;" hidden>&lt;b&gt;&amp;<i>3</i>a&lt;</p>'
    assert text(markup) is markup
    assert json_text('"</script>"') == '"\\u003c/script>"'
    with pytest.raises(ValueError, match="script"):
        script_text("a = '</script>'")


def test_signed_numbers_have_a_minus_sign() -> None:
    assert [signed(value, "dB SI-SDRi") for value in (6.55, -0.24, -0.04)] == [
        "+6.5 dB SI-SDRi", "\u22120.2 dB SI-SDRi", "+0.0 dB SI-SDRi"
    ]  # fmt: skip
    assert signed(0.024, "dB", 2) == "+0.02 dB"


def test_evaluations_of_whole_splits_come_before_those_of_some_files(tmp_path: Path) -> None:
    rows = [{"name": "a", "source": "s1", "status": "ok"}]
    for age, (name, limit) in enumerate((("part", 1), ("new", None), ("old", None))):
        path = tmp_path / "eval" / name / "scores.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"rows": rows, "metrics": {}, "limit": limit}))
        os.utime(path, (100 - age, 100 - age))
    assert [scores.folder.name for scores in evaluations(tmp_path)] == ["new", "old", "part"]


def test_png_contains_the_pixels() -> None:
    shades = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.arange(36, dtype=np.uint8).reshape(12, 3)
    encoded = png(shades, palette)
    assert encoded[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, rest = {}, encoded[8:]
    while rest:
        (length,), kind = struct.unpack(">I", rest[:4]), rest[4:8]
        chunks[kind] = rest[8 : 8 + length]
        assert struct.unpack(">I", rest[8 + length : 12 + length])[0] == zlib.crc32(rest[4 : 8 + length])
        rest = rest[12 + length :]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (4, 3, 8, 3, 0, 0, 0)
    assert chunks[b"PLTE"] == palette.tobytes()
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (lines[:, 0] == 0).all()
    assert (lines[:, 1:] == shades).all()


def test_thinned_curves_keep_their_spikes() -> None:
    values = [0.0] * 50_000
    values[31_234], values[44_444] = 7.0, -3.0
    x, (series,) = Chart("a", "b", range(50_000), [Series("c", values)])._thinned()
    assert len(x) <= MOST_POINTS + 2
    assert (x[0], x[-1]) == (0, 49_999)
    assert dict(zip(x, series.values, strict=True))[31_234] == 7.0
    assert dict(zip(x, series.values, strict=True))[44_444] == -3.0


def test_charts_are_aligned_described_and_empty_without_values() -> None:
    x, columns = aligned([([1, 3], [10.0, 30.0]), ([2, 3], [None, 5.0])])
    assert x == [1, 2, 3]
    assert columns == [[10.0, None, 30.0], [None, None, 5.0]]
    assert Chart("a", "b", [1], [Series("c", [None])]).markup() == ""
    assert "3 at first, 1 at the end, between 1 and 3" in Chart("a", "b", [1, 2], [Series("c", [3.0, 1.0])]).markup()


def test_examples_are_the_best_median_and_worst_files() -> None:
    assert select_examples({"a": 1.0, "b": 5.0, "c": 3.0}) == {"b": "best", "c": "median", "a": "worst"}
    assert select_examples({"a": 1.0, "b": 5.0}) == {"b": "best", "a": "worst"}
    assert select_examples({"a": 1.0}) == {"a": "best"}
    assert select_examples({}) == {}


def test_excerpt_is_the_loudest_part() -> None:
    wave = np.full((100_000, 2), 0.01)
    wave[60_000:68_000] = 0.5
    part = excerpt(wave, 8000, 2.0)
    assert part.stop - part.start == 16_000
    assert part.start <= 60_000
    assert part.stop >= 68_000
    assert excerpt(wave, 8000, 30.0) == slice(0, 100_000)
    assert playable(np.ones((3, 10, 6))).shape == (3, 10, 1)
    assert seconds_within(60_000, 8000, 1) > 6
    assert seconds_within(200_000, 44_100, 2) > 8  # as MP3


def test_distributions_describe_all_values() -> None:
    picture = histogram({"one": [0.0, 1.0, 1.0, 9.0]}, "dB", "title")
    assert "4 values from 0.0 to 9.0, median 1.0 dB" in picture
    assert "median 2.0" in box([1.0, 2.0, 3.0], 0.0, 4.0)
    assert box([], 0.0, 1.0) == histogram({"one": []}, "dB", "title") == ""
    assert "<path" in histogram({"one": [3.0, 3.0]}, "dB", "all the same")


def test_report_of_a_training_does_not_import_scipy():
    # which would take half a second of every training
    names = "[name for name in sys.modules if name.split('.')[0] == 'scipy']"
    code = f"import sys, sepclip.report.write_report; print({names})"
    assert python(code) == "[]"

import json

import pytest

from sepclip.errors import UserError
from sepclip.evaluation.journal import Journal
from sepclip.scoring.items import ScoreRow

FILES = {
    index: [ScoreRow(f"{index:03d}", f"s{source}", scores={"si_sdr": 1 / (index + source)}) for source in (1, 2)]
    for index in range(6)
}


def write_journal(path):
    journal = Journal(path, "d")
    for index, rows in FILES.items():
        journal.add(index, rows)
    journal.close()
    return path.read_text().splitlines(keepends=True)


def test_a_cut_journal_returns_its_whole_lines_and_is_continued(tmp_path):
    path = tmp_path / "journal"
    lines = write_journal(path)
    assert len(lines) == 7
    path.write_text("".join(lines[:4]) + lines[4][:30])  # killed within a line
    journal = Journal(path, "d")
    assert journal.finished == {index: FILES[index] for index in (0, 1, 2)}
    assert not journal.replaced
    for index in (3, 4, 5):
        journal.add(index, FILES[index])
    journal.close()
    assert path.read_text() == "".join(lines)


def test_a_journal_with_another_digest_is_replaced(tmp_path):
    path = tmp_path / "journal"
    write_journal(path)
    other = Journal(path, "other")
    assert (other.finished, other.replaced) == ({}, True)
    other.remove()
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe no journal\n", json.dumps({"digest": "d"}).encode() + b'\n{"file": 1}\n']
)
def test_a_damaged_journal_is_replaced(content, tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(content)
    assert Journal(path, "d").finished == {}


def test_a_journal_in_a_missing_place_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal", "d")

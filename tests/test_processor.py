import os
from pathlib import Path

import pytest

from sepclip import parallel


@pytest.mark.parametrize(
    ("limit", "want"),
    [
        ("max 100000", 6),
        ("400000 100000", 4),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("900000 100000", 6),
        (None, 6),
    ],
)
def test_cores_are_those_granted_and_paid_for(monkeypatch, tmp_path: Path, limit: str | None, want: int) -> None:
    monkeypatch.setattr(parallel, "_QUOTA", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert parallel.cores() == want

import io
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from sepclip.report.dynamics_figure import _running_mean, animate_dynamics, draw_dynamics
from sepclip.training.dynamics import Records


def records(count=40, seed=0, threshold=True, clip="auto:10"):
    rng = np.random.default_rng(seed)
    norm = 10 ** rng.normal(-4, 0.3, count)
    return Records(
        run=Path("runs/$first_[of_many]$"),  # must be drawn neither as a formula nor as markup
        clip=clip,
        step=np.arange(1.0, count + 1) * 20,
        loss=10 ** rng.normal(-3.5, 0.1, count),
        grad_norm=norm,
        threshold=np.minimum.accumulate(norm) if threshold else np.full(count, np.nan),
        step_size=rng.uniform(0.1, 0.3, count),
        smoothness=norm * 10 ** rng.normal(0.5, 0.2, count),
    )


@pytest.mark.parametrize("runs", [[records()], [records(), records(60, 1, False, "none")]], ids=["one", "two"])
def test_figures_are_valid_and_reproducible(runs, tmp_path):
    files = draw_dynamics(runs, tmp_path / "a")
    assert [path.name for path in files] == ["dynamics.svg", "dynamics.png"]
    assert ElementTree.parse(files[0]).getroot().tag.endswith("svg")
    with Image.open(files[1]) as picture:
        picture.load()
        assert picture.width > 900
        assert picture.height > 600
    before = [path.read_bytes() for path in files]
    inode = files[1].stat().st_ino
    assert [path.read_bytes() for path in draw_dynamics(runs, tmp_path / "a")] == before
    assert files[1].stat().st_ino != inode  # replaced by a new file, not overwritten
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_animation_moves(tmp_path):
    path = animate_dynamics([records(12), records(10, 1, False, "none")], tmp_path)
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.n_frames == 12
        frames = []
        for index in range(picture.n_frames):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
        assert picture.info["duration"] > 1000  # the last frame stays longer
    changed = [(before != after).any() for before, after in pairwise(frames)]
    assert all(changed)


def empty_records(count):
    empty = np.full(count, np.nan)
    return Records(Path("run"), "none", np.arange(1.0, count + 1), empty, empty, empty, empty, empty)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("run", [empty_records(1), empty_records(5), records(1), records(2)])
def test_few_or_empty_records_are_drawn(run, tmp_path):
    draw_dynamics([run], tmp_path)
    animate_dynamics([run], tmp_path)
    assert run.summary()["correlation"] is None


def test_running_mean_ignores_values_that_are_not_finite():
    column = np.random.default_rng(0).normal(size=100)
    column[[0, 5, 50]] = np.nan
    means = _running_mean(column)
    for index in (0, 1, 4, 50, 99):
        assert means[index] == pytest.approx(np.nanmean(column[max(0, index - 2) : index + 3]))
    assert np.isnan(_running_mean(np.full(3, np.nan))).all()

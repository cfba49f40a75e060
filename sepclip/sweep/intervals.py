"""The mean over seeds and files and its interval.

The scores of one table entry form a table of seeds by files, and both are samples: other initial weights, or other
test mixtures, would give another mean. The model is therefore a crossed one with a random effect for each,

    x[s, f] = mu + a[s] + b[f] + e[s, f]

with the mean squares A of seeds, B of files and E of the residual (two-way analysis of variance without replication).
The variance of the grand mean has two parts: A / SF, which holds the seeds and the residual, and (B - E) / SF for the
files, clipped at 0. Each has its own degrees of freedom, S - 1 and F - 1, and therefore its own quantile of Student's
t; the squares of the half-widths add. The first part is exact whatever the seeds do, because nothing is subtracted from
it. (Tried: three parts, with the seeds' (A - E) / SF clipped at 0, covers as little as 0.90 with three seeds if their
effect is as small as the residual; Satterthwaite's pooled degrees of freedom as little as 0.91. benchmarks/intervals.py
simulates the intervals.)

One seed says nothing about other seeds, so the interval is then over the files alone. With two seeds, the effect of
the seed has one degree of freedom, and the interval is necessarily wide. Neither gets an asterisk.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
LEAST_SEEDS = 3  # for an asterisk
_FEW_SEEDS = {1: "one seed: over files only, no asterisk", 2: "two seeds: a wide interval, no asterisk"}
FileScores = Mapping[str, float]  # of one run: file name to dB, the mean over the sources of the file


@dataclass(frozen=True)
class Estimate:
    """A mean in dB and the half-width of its 95 % interval, which is None if there is only one number."""

    mean: float
    half_width: float | None
    seeds: int
    files: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def marked(self) -> bool:
        """Whether it gets an asterisk: the interval is over enough seeds and excludes 0."""
        return self.seeds >= LEAST_SEEDS and self.excludes_zero


def few_seeds_notes(seeds: Iterable[int]) -> list[str]:
    """Return a note for each number of seeds that occurs and is too small for an asterisk."""
    return [_FEW_SEEDS[count] for count in sorted(set(seeds)) if count in _FEW_SEEDS]


def estimate(scores: NDArray[np.float64]) -> Estimate:
    """Return the mean of ``scores`` (seeds, files) in dB and its interval over both."""
    # the effects are estimated from the margins of the table
    seeds, files = scores.shape
    mean = float(scores.mean())
    by_seed, by_file = scores.mean(1), scores.mean(0)
    # one seed, or one file: the two effects cannot be separated, so use Student's interval over the other axis
    if min(seeds, files) == 1:
        values, count = scores.ravel(), scores.size
        half_width = None if count == 1 else _half_width(float(values.var(ddof=1)) / count, count - 1)
        return Estimate(mean, half_width, seeds, files)
    # E, the mean square of what the additive model leaves unexplained
    residual = scores - by_seed[:, None] - by_file[None, :] + mean  # (seeds, files)
    e = float((residual**2).sum()) / ((seeds - 1) * (files - 1))
    # A, and B - E; if that is negative, the effect of the file is lost in the residual, which A contains
    seed_part = files * float(by_seed.var(ddof=1))
    file_part = max(seeds * float(by_file.var(ddof=1)) - e, 0.0)
    # a quantile of its own for each part, see above
    parts = ((seed_part, seeds - 1), (file_part, files - 1))
    half_width = math.hypot(*(_half_width(part / scores.size, freedom) for part, freedom in parts))
    return Estimate(mean, half_width, seeds, files)


def _half_width(variance: float, freedom: int) -> float:
    # imported here, because every training imports this module for its report;
    # stdtrit is the quantile function of Student's t: scipy.stats has it too, but takes longer to import
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)


def estimate_mean(runs: Sequence[FileScores]) -> Estimate | None:
    """Return the estimate over runs that differ in their seed; None if they have no scored file in common.

    Only files that all runs have scores for are used.
    """
    common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not common:
        return None
    return estimate(np.array([[run[name] for name in common] for run in runs]))


def estimate_difference(runs: Mapping[int, FileScores], references: Mapping[int, FileScores]) -> Estimate | None:
    """Return the estimate of ``runs`` minus ``references``, both by seed, paired by seed and by file.

    None if no seed and file are in both. Pairing cancels what makes a file easy or a seed lucky in both systems, so the
    interval is narrower than the intervals of the two means.
    """
    # one table of differences, seeds by files, is analysed like the scores of a single system
    pairs = [(run, references[seed]) for seed, run in runs.items() if seed in references]
    return estimate_mean(
        [{name: run[name] - reference[name] for name in run if name in reference} for run, reference in pairs]
    )

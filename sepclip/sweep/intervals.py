"""The mean over seeds and files and its interval.

The scores of one table entry form a table of seeds by files, and both are samples: other initial weights, or other
test mixtures, would give another mean. The model is therefore a crossed one with a random effect for each,

    x[s, f] = mu + a[s] + b[f] + e[s, f]

with the mean squares A of seeds, B of files and E of the residual (two-way analysis of variance without replication).
The variance of the grand mean has three components: (A - E) / SF for the seeds, (B - E) / SF for the files, both
clipped at 0, and E / SF. Each component has its own degrees of freedom, S - 1, F - 1 and (S - 1)(F - 1), and therefore
its own quantile of Student's t; the squares of the half-widths add. If one component dominates, this is its exact
interval; otherwise the interval contains the true mean in 95 to 97 % of simulations. (Satterthwaite's pooled degrees of
freedom, tried first, reached only 88 % with two seeds and 93 % with three.)

One seed says nothing about other seeds, so the interval is then over the files alone. With two seeds, the effect of
the seed has one degree of freedom, and the interval is necessarily wide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
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
    seed_freedom, file_freedom = seeds - 1, files - 1
    e = float((residual**2).sum()) / (seed_freedom * file_freedom)
    # A - E and B - E; a negative estimate of a variance component means that the effect is lost in the residual
    seed_part = max(files * float(by_seed.var(ddof=1)) - e, 0.0)
    file_part = max(seeds * float(by_file.var(ddof=1)) - e, 0.0)
    # a quantile of its own for each component, see above
    parts = ((seed_part, seed_freedom), (file_part, file_freedom), (e, seed_freedom * file_freedom))
    half_width = math.hypot(*(_half_width(part / scores.size, freedom) for part, freedom in parts))
    return Estimate(mean, half_width, seeds, files)


def _half_width(variance: float, freedom: int) -> float:
    # stdtrit is the quantile function of Student's t; scipy.stats has it too, but takes longer to import
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

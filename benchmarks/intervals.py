"""Simulate the intervals of a sweep: how often each contains the true mean, and how wide it is.

    python benchmarks/intervals.py --draws 2000 --json intervals.json

A table of scores, seeds by files, is drawn from x[s, f] = a[s] + b[f] + e[s, f] with a residual e of 1 dB, for several
standard deviations of the effects a of the seeds and b of the files; a difference of two systems, paired by seed and
file, has the same form. ``gaussian``: all effects are; ``skewed``: those of the files have a skewness of 1 (gamma
distribution), as if a few files decided. Printed are the least and the mean coverage of all cases with that many seeds,
and the mean half-width divided by 1.96 standard deviations of the mean, which is the narrowest that could be right.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from statistics import mean

import numpy as np

from sepclip.sweep.intervals import LEVEL, estimate

SEEDS, FILES = (1, 2, 3, 4, 5), (20, 100, 500)
SEED_EFFECTS, FILE_EFFECTS = (0.0, 0.05, 0.1, 0.3, 1.0), (0.0, 0.3, 1.0, 3.0)  # dB
FORMS = ("gaussian", "skewed")


def coverage(
    seeds: int, files: int, seed_effect: float, file_effect: float, form: str, draws: int
) -> tuple[float, float]:
    """Return the share of intervals that contain the true mean 0, and their mean relative half-width."""
    chance = np.random.default_rng([seeds, files, int(1000 * seed_effect), int(1000 * file_effect), FORMS.index(form)])
    deviation = math.sqrt(seed_effect**2 / seeds + file_effect**2 / files + 1 / (seeds * files))
    inside, widths = 0, []
    for _ in range(draws):
        by_file = chance.gamma(4, 0.5, files) - 2 if form == "skewed" else chance.standard_normal(files)
        scores = seed_effect * chance.standard_normal((seeds, 1)) + file_effect * by_file
        result = estimate(scores + chance.standard_normal((seeds, files)))
        assert result.half_width is not None
        inside += abs(result.mean) <= result.half_width
        widths.append(result.half_width / (1.96 * deviation))
    return inside / draws, mean(widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = []
    for case in itertools.product(SEEDS, FILES, SEED_EFFECTS, FILE_EFFECTS, FORMS):
        share, width = coverage(*case, options.draws)
        names = ("seeds", "files", "seed_effect_db", "file_effect_db", "form")
        cases.append({**dict(zip(names, case, strict=True)), "coverage": share, "relative_half_width": width})
    error = math.sqrt(LEVEL * (1 - LEVEL) / options.draws)
    print(f"coverage of {LEVEL:.0%} intervals, {options.draws} draws each (standard error {error:.4f})")
    print(f"{'seeds':>5} {'effects':<9} {'cases':>5} {'least':>6} {'mean':>6} {'width':>6}  least with")
    for seeds, form in itertools.product(SEEDS, FORMS):
        some = [case for case in cases if (case["seeds"], case["form"]) == (seeds, form)]
        least = min(some, key=lambda case: case["coverage"])
        figures = f"{least['coverage']:6.3f} {mean(c['coverage'] for c in some):6.3f}"
        width = mean(case["relative_half_width"] for case in some)
        where = f"{least['files']} files, seeds {least['seed_effect_db']:g} dB, files {least['file_effect_db']:g} dB"
        print(f"{seeds:5} {form:<9} {len(some):5} {figures} {width:6.2f}  {where}")
    if options.json:
        options.json.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()

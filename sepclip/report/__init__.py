"""The report of a run, a sweep, an evaluation or two runs: one HTML file with curves, scores and sounds."""

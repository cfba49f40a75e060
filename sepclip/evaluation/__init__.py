"""Evaluation: from a run and a mixture set, or from folders of files, to scores, their summary, and comparisons."""

"""From a run and a mixture set, or from two folders, to scores, their summary, and comparisons of them."""

"""Many trainings side by side and the table of their scores: the grid, the processes, the intervals, the picture."""

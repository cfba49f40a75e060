"""Parallel trainings over a grid and the table of their scores: grid, processes, intervals, picture."""
